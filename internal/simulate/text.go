package simulate

import (
	"encoding/csv"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// WriteText writes a report for people, at most 80 columns wide.
func (r *Report) WriteText(w io.Writer) error {
	var b strings.Builder
	c := &r.Config
	fmt.Fprintf(&b, "%s: %s requests, in virtual time with profile %s\n", short(r.Trace, 36), thousands(int64(r.Requests)), short(r.Profile, 24))
	fmt.Fprintf(&b, "%d × %s, %s, %d sequences, %d tokens a step, %s blocks of %d\n\n", c.Replicas, short(c.Policy, 24), c.Eviction, c.SequencesMax, c.TokensStepMax, blocksWord(c.KVBlocks), c.BlockSize)
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(t, strings.Join(cells, "\t")) }
	row("completed", fmt.Sprintf("%s, %s failed", thousands(int64(r.Completed)), thousands(int64(r.Failed))), "duration", fmt.Sprintf("%.1f s", r.Duration))
	row("requests/s", fmt.Sprintf("%.3f", r.RequestThroughput), "tokens/s", fmt.Sprintf("%.1f out, %.1f in all", r.OutputThroughput, r.TotalThroughput))
	row("steps", thousands(r.Steps), "a step", fmt.Sprintf("%.1f rows, %.1f tokens", r.RowsMean, r.TokensMean))
	row("device busy", percent(r.Utilization), "queue", fmt.Sprintf("%s at most", thousands(int64(r.QueuePeak))))
	row("prefix hits", fmt.Sprintf("%s of %s", percent(r.PrefixHitRate), percent(r.PrefixHitMax)), "KV in use", fmt.Sprintf("%s at most", percent(r.UsedPeak)))
	row("evictions", thousands(int64(r.Evictions)), "preemptions", thousands(int64(r.Preemptions)))
	if r.Goodput != nil {
		row("goodput", fmt.Sprintf("%.3f requests/s", *r.Goodput), "", "")
	}
	if err := t.Flush(); err != nil {
		return err
	}
	b.WriteByte('\n')
	t = tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	row("ms", "mean", "median", "p90", "p99", "max", "")
	for _, l := range []struct {
		name string
		Latency
	}{{"TTFT", r.TTFT}, {"TPOT", r.TPOT}, {"ITL", r.ITL}, {"E2EL", r.E2EL}} {
		row(l.name, digits(l.Mean), digits(l.Median), digits(l.P90), digits(l.P99), digits(l.Max), "")
	}
	if err := t.Flush(); err != nil {
		return err
	}
	r.notes(&b)
	_, err := io.WriteString(w, b.String())
	return err
}

// notes warn of what the figures do not say by themselves.
func (r *Report) notes(b *strings.Builder) {
	if r.Outside > 0.005 {
		fmt.Fprintf(b, "\n%s of the steps are larger than any that the profile was measured with:\ntheir costs are extrapolated.\n", percent(r.Outside))
	}
	if k := r.Rank; k != nil {
		fmt.Fprintf(b, "\nThe policy answered %s of %s questions in time, %s late, %s wrongly; %s\nsteps went by its order, %s by its fallback's.\n", thousands(int64(k.Answered)),
			thousands(int64(k.Asked)), thousands(int64(k.Late)), thousands(int64(k.Invalid)), thousands(int64(k.Ranked)), thousands(int64(k.Unranked)))
	}
	for _, e := range r.Errors {
		fmt.Fprintf(b, "\n%s\n", e)
	}
}

func blocksWord(n int) string {
	if n == 0 {
		return "unlimited"
	}
	return thousands(int64(n))
}

func percent(part float64) string { return fmt.Sprintf("%.1f %%", 100*part) }

// digits writes a number with at least three digits.
func digits(v float64) string {
	switch {
	case v >= 100 || v == 0:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

func thousands(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func short(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n/2-1]) + "…" + string(r[len(r)-(n-n/2):])
}

// measure is one figure of a comparison.
type measure struct {
	name  string // of the column, for people
	key   string // in CSV
	value func(*Report) float64
	form  func(float64) string
}

var measures = []measure{
	{"TTFT", "ttft_p50_ms", func(r *Report) float64 { return r.TTFT.Median }, compact},
	{"p99", "ttft_p99_ms", func(r *Report) float64 { return r.TTFT.P99 }, compact},
	{"TPOT", "tpot_p50_ms", func(r *Report) float64 { return r.TPOT.Median }, compact},
	{"p99", "tpot_p99_ms", func(r *Report) float64 { return r.TPOT.P99 }, compact},
	{"tok/s", "output_throughput", func(r *Report) float64 { return r.OutputThroughput }, compact},
	{"good/s", "request_goodput", goodput, compact},
	{"queue", "queue_peak", func(r *Report) float64 { return float64(r.QueuePeak) }, compact},
	{"KV%", "kv_used_peak_percent", func(r *Report) float64 { return 100 * r.UsedPeak }, tenths},
	{"hit%", "prefix_hit_percent", func(r *Report) float64 { return 100 * r.PrefixHitRate }, tenths},
}

// givenUp are the measures that a table without room for all leaves out, first to go first.
var givenUp = []string{"kv_used_peak_percent", "queue_peak", "tpot_p99_ms", "ttft_p99_ms", "request_goodput"}

// compact writes a number in at most six characters.
func compact(v float64) string {
	switch {
	case v >= 1e7:
		return fmt.Sprintf("%.0fM", v/1e6)
	case v >= 1e4:
		return fmt.Sprintf("%.4gk", math.Round(v/100)/10)
	}
	return digits(v)
}

func tenths(v float64) string { return fmt.Sprintf("%.1f", v) }

func goodput(r *Report) float64 {
	if r.Goodput == nil {
		return math.NaN()
	}
	return *r.Goodput
}

// columnsMax is the width that all text fits.
const columnsMax = 80

// WriteTable compares the outcomes of a sweep in 80 columns: milliseconds, medians where nothing else is said.
func WriteTable(w io.Writer, sweeps []Sweep, outcomes []Outcome) error {
	shown := slices.Clone(measures)
	without := func(key string) {
		shown = slices.DeleteFunc(shown, func(m measure) bool { return m.key == key })
	}
	failed := 0
	for _, o := range outcomes {
		failed += o.Report.Failed
		if o.Report.Goodput == nil {
			without("request_goodput")
		}
	}
	text, err := tableOf(sweeps, outcomes, shown)
	for next := 0; err == nil && widest(text) > columnsMax && next < len(givenUp); next++ {
		without(givenUp[next])
		text, err = tableOf(sweeps, outcomes, shown)
	}
	if err != nil {
		return err
	}
	if failed > 0 {
		text += fmt.Sprintf("\n%s requests failed or were refused; --json says which of the runs.\n", thousands(int64(failed)))
	}
	_, err = io.WriteString(w, text)
	return err
}

func tableOf(sweeps []Sweep, outcomes []Outcome, shown []measure) (string, error) {
	var b strings.Builder
	t := tabwriter.NewWriter(&b, 0, 0, 1, ' ', tabwriter.AlignRight)
	var head []string
	for _, s := range sweeps {
		head = append(head, short(s.Name, 11))
	}
	for _, m := range shown {
		head = append(head, m.name)
	}
	fmt.Fprintln(t, strings.Join(head, "\t ")+"\t")
	for _, o := range outcomes {
		var row []string
		for _, v := range o.Values {
			row = append(row, short(v, 11))
		}
		for _, m := range shown {
			row = append(row, m.form(m.value(o.Report)))
		}
		fmt.Fprintln(t, strings.Join(row, "\t ")+"\t")
	}
	err := t.Flush()
	return b.String(), err
}

func widest(text string) (n int) {
	for line := range strings.Lines(text) {
		n = max(n, utf8.RuneCountInString(strings.TrimRight(line, "\n")))
	}
	return n
}

// WriteCSV writes one line for each outcome, with all figures.
func WriteCSV(w io.Writer, sweeps []Sweep, outcomes []Outcome) error {
	c := csv.NewWriter(w)
	var head []string
	for _, s := range sweeps {
		head = append(head, s.Name)
	}
	extra := []measure{
		{key: "completed", value: func(r *Report) float64 { return float64(r.Completed) }},
		{key: "failed", value: func(r *Report) float64 { return float64(r.Failed) }},
		{key: "duration_s", value: func(r *Report) float64 { return r.Duration }},
		{key: "ttft_p90_ms", value: func(r *Report) float64 { return r.TTFT.P90 }},
		{key: "tpot_p90_ms", value: func(r *Report) float64 { return r.TPOT.P90 }},
		{key: "e2el_p50_ms", value: func(r *Report) float64 { return r.E2EL.Median }},
		{key: "e2el_p99_ms", value: func(r *Report) float64 { return r.E2EL.P99 }},
		{key: "utilization", value: func(r *Report) float64 { return r.Utilization }},
		{key: "preemptions", value: func(r *Report) float64 { return float64(r.Preemptions) }},
		{key: "evictions", value: func(r *Report) float64 { return float64(r.Evictions) }},
		{key: "kv_blocks", value: func(r *Report) float64 { return float64(r.Blocks) }},
		{key: "steps", value: func(r *Report) float64 { return float64(r.Steps) }},
	}
	all := append(append([]measure{}, measures...), extra...)
	for _, m := range all {
		head = append(head, m.key)
	}
	if err := c.Write(head); err != nil {
		return err
	}
	for _, o := range outcomes {
		row := append([]string{}, o.Values...)
		for _, m := range all {
			v := m.value(o.Report)
			text := strconv.FormatFloat(v, 'g', -1, 64)
			if math.IsNaN(v) {
				text = ""
			}
			row = append(row, text)
		}
		if err := c.Write(row); err != nil {
			return err
		}
	}
	c.Flush()
	return c.Error()
}
