package reality

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// WriteText writes the comparison in at most 80 columns.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	var slow, others []float64
	for _, l := range r.Loads {
		slow, others = append(slow, l.Slow...), append(others, l.Others...)
	}
	fmt.Fprintf(&b, "%s: %d requests, lengths divided by %.2f, %d rounds\n"+
		"profile: %d shapes of steps; their fit is off by %.1f %%: misfit %.1f, noise %.1f %%\n(single steps of a shape differ by %.0f %%)\n"+
		"rule, set before: what ran while others had more than %.0f %% of the processors runs\nagain; %d runs, %d of them counted, %d in spite of that. Others had %.1f %% at the\n"+
		"median, %.1f %% at most. Around the rounds, steps took %.2f to %.2f times as\nlong as usual.\n\n",
		r.Trace, r.Prompts, r.Scale, r.Rounds, r.Fit.Points, 100*r.Fit.Mean, 100*r.Fit.Misfit, 100*r.Fit.Repeat, 100*r.Fit.Spread,
		100*r.OthersMax, r.Attempts, len(others), r.Disturbed, 100*quantile(others, 0.5), 100*quantile(others, 1), slices.Min(slow), slices.Max(slow))
	t := tabwriter.NewWriter(&b, 0, 0, 1, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "load\treq/s\tfigure\tlive\tspread\tsim.\tratio\tlearned\tpaced\trepeat\tslope\t")
	for _, l := range r.Loads {
		for i, f := range l.Figures {
			load, rate := "", ""
			if i == 0 {
				load, rate = fmt.Sprintf("%.2f", l.Part), fmt.Sprintf("%.1f", l.Rate)
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%.4g\t%.0f%%\t%.4g\t%.2f\t%.2f\t%.2f\t%.0f%%\t%.1f\t\n", load, rate, f.Name, f.Live, 100*(f.High-f.Low)/max(f.Live, 1e-12),
				f.Simulated, 1+f.SimulatedError, 1+f.LearnedError, 1+f.PacedError, 100*f.RepeatError, f.Slope)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(&b, "\nWithin 10 %% of the live engine, of %d figures:\n"+
		"%4d  foretold from a profile alone\n"+
		"%4d  foretold from the ledgers of other loads' steps\n"+
		"%4d  at the round's own pace, of which no prediction knows\n"+
		"%4d  the live engine itself: every other round's median and that of the rest\n\n"+
		"spread   between the live rounds, highest less lowest\n"+
		"ratio    simulated to live, median over rounds: with the profile and its pace,\n"+
		"         at the speed of the machine right before and after the round; largest\n"+
		"         error %.1f %%, if each step takes the profile's mean %.1f %%\n"+
		"learned  profile and pace of the live steps at the other loads; largest error\n         %.1f %%\n"+
		"paced    pace of the round itself: the simulator's own errors, largest %.1f %%\n"+
		"repeat   how far a live round is from the others; largest %.1f %%\n"+
		"slope    per cent that the figure changes for each that steps take longer\n",
		r.Figures, r.SimulatedWithin, r.LearnedWithin, r.PacedWithin, r.HalvesWithin, 100*r.Simulated, 100*r.Plain, 100*r.Learned, 100*r.Paced, 100*r.Repeat)
	_, err := io.WriteString(w, b.String())
	return err
}
