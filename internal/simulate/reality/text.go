package reality

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// WriteText writes the comparison in at most 80 columns.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %d requests, lengths divided by %.2f, %d rounds\nprofile: %d shapes of steps, fit off by %.1f %% on average\n\n",
		r.Trace, r.Prompts, r.Scale, r.Rounds, r.Fit.Points, 100*r.Fit.Mean)
	t := tabwriter.NewWriter(&b, 0, 0, 1, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "load\treq/s\tfigure\tlive\tlow\thigh\tsim.\terror\tpaced\terror\t")
	for _, l := range r.Loads {
		for i, f := range l.Figures {
			load, rate := "", ""
			if i == 0 {
				load, rate = fmt.Sprintf("%.2f", l.Part), fmt.Sprintf("%.1f", l.Rate)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%.4g\t%.4g\t%.4g\t%.4g\t%+.0f%%\t%.4g\t%+.0f%%\t\n", load, rate, f.Name, f.Live, f.Low, f.High,
				f.Simulated, 100*f.Error, f.Paced, 100*f.PacedError)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\nlive: median, lowest and highest of the rounds. Largest error of the simulation\nwith the profile alone: %.1f %%; at the pace of the machine in each round: %.1f %%.\n",
		100*r.Within, 100*r.Paced)
	_, err := io.WriteString(w, b.String())
	return err
}
