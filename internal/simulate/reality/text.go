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
	fmt.Fprintf(&b, "%s: %d requests, lengths divided by %.2f, %d rounds\nprofile: %d shapes of steps; their fit is off by %.1f %%: misfit %.1f, noise %.1f %%\n(single steps of a shape differ by %.0f %%)\n\n",
		r.Trace, r.Prompts, r.Scale, r.Rounds, r.Fit.Points, 100*r.Fit.Mean, 100*r.Fit.Misfit, 100*r.Fit.Repeat, 100*r.Fit.Spread)
	t := tabwriter.NewWriter(&b, 0, 0, 1, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "load\treq/s\tfigure\tlive\tlow\thigh\tmean\tlearned\tpaced\trepeat\t")
	for _, l := range r.Loads {
		for i, f := range l.Figures {
			load, rate := "", ""
			if i == 0 {
				load, rate = fmt.Sprintf("%.2f", l.Part), fmt.Sprintf("%.1f", l.Rate)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%.4g\t%.4g\t%.4g\t%+.0f%%\t%+.0f%%\t%+.0f%%\t%.0f%%\t\n", load, rate, f.Name, f.Live, f.Low, f.High,
				100*f.SimulatedError, 100*f.LearnedError, 100*f.PacedError, 100*f.RepeatError)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\nErrors of simulations, medians over rounds: every step takes its mean; profile\nand pace learned from the other rounds; pace of the round itself. Repeat: how\nfar a live round is from the others. Largest: %.1f, %.1f, %.1f and %.1f %%.\n",
		100*r.Within, 100*r.Learned, 100*r.Paced, 100*r.Repeat)
	_, err := io.WriteString(w, b.String())
	return err
}
