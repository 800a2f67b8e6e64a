package bench

import (
	"fmt"
	"io"
	"math"
	"strings"
	"text/tabwriter"

	"github.com/troupe-engine/troupe/schemas"
)

const blockWidth = 50

// WriteText prints the block that `vllm bench serve` prints.
func (r *ServeReport) WriteText(w io.Writer) error {
	p := &printer{w: w}
	p.line("%s", centered(" Serving Benchmark Result ", "="))
	p.count("Successful requests:", r.Completed)
	p.count("Failed requests:", r.Failed)
	if r.MaxConcurrency > 0 {
		p.count("Maximum request concurrency:", r.MaxConcurrency)
	}
	if !math.IsInf(r.RequestRate, 1) {
		p.value("Request rate configured (RPS):", r.RequestRate)
	}
	p.value("Benchmark duration (s):", r.Duration)
	p.count("Total input tokens:", r.InputTokens)
	p.count("Total generated tokens:", r.OutputTokens)
	p.value("Request throughput (req/s):", r.RequestThroughput())
	if r.Goodput != nil {
		p.value("Request goodput (req/s):", *r.Goodput)
	}
	p.value("Output token throughput (tok/s):", r.OutputThroughput())
	p.count("Peak concurrent requests:", r.PeakConcurrent)
	p.value("Total token throughput (tok/s):", r.TotalThroughput())
	for _, l := range r.Latencies {
		name := strings.ToUpper(l.Metric)
		p.line("%s", centered(metricTitles[l.Metric], "-"))
		p.value("Mean "+name+" (ms):", l.Mean)
		p.value("Median "+name+" (ms):", l.Median)
		for _, q := range l.Percentiles {
			p.value("P"+percentWord(q.P)+" "+name+" (ms):", q.Ms)
		}
	}
	p.line("%s", strings.Repeat("=", blockWidth))
	p.line("%s", r.Machine)
	if r.ClientShare != nil {
		p.line("the load generator took %.1f%% of this process' CPU time", 100**r.ClientShare)
	}
	if r.Ledger != nil {
		t := newLedgerTable(p, "")
		t.add("per step", r.Ledger)
		t.flush()
	}
	if r.Requests != nil {
		writeLedgerMeans(p, []string{"mean"}, []*LedgerMean{r.Requests})
	}
	for _, e := range r.Errors {
		p.line("failed: %s", e)
	}
	return p.err
}

// writeLedgerMeans shows mean requests' times by part, a column for each that there is, and, of the first, the shares.
func writeLedgerMeans(p *printer, names []string, means []*LedgerMean) {
	var titles []string
	var columns [][]schemas.LedgerPart
	for i, m := range means {
		if m != nil {
			titles = append(titles, names[i])
			columns = append(columns, append(m.MeanUs.Parts(), schemas.LedgerPart{Name: "wall", Us: m.MeanUs.Wall}))
		}
	}
	if len(columns) == 0 {
		return
	}
	t := tabwriter.NewWriter(p.w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(t, "µs per request\t%s\t\t\n", strings.Join(titles, "\t"))
	for row, part := range columns[0] {
		fmt.Fprint(t, part.Name)
		for _, c := range columns {
			fmt.Fprintf(t, "\t%.0f", c[row].Us)
		}
		fmt.Fprintf(t, "\t%.2f%%\t\n", 100*part.Us/max(columns[0][len(columns[0])-1].Us, 1e-9))
	}
	flush(t, p)
}

var metricTitles = map[string]string{"ttft": "Time to First Token", "tpot": "Time per Output Token (excl. 1st token)",
	"itl": "Inter-token Latency", "e2el": "End-to-end Latency"}

func centered(text, fill string) string {
	left := (blockWidth - len(text)) / 2
	return strings.Repeat(fill, left) + text + strings.Repeat(fill, blockWidth-len(text)-left)
}

func (p *printer) count(name string, v int)     { p.line("%-40s %-10d", name, v) }
func (p *printer) value(name string, v float64) { p.line("%-40s %-10s", name, fmt.Sprintf("%.2f", v)) }

// ledgerTable shows where the average step's time went. Device, upload and idle follow each other; the host
// plans and launches the next step meanwhile.
type ledgerTable struct {
	p     *printer
	table *tabwriter.Writer
}

func newLedgerTable(p *printer, label string) *ledgerTable {
	t := &ledgerTable{p, tabwriter.NewWriter(p.w, 0, 0, 2, ' ', tabwriter.AlignRight)}
	fmt.Fprintf(t.table, "%s\tsteps\tdevice µs\tupload\tidle\tplan\tmemory\tlaunch\temit\t\n", label)
	return t
}

func (t *ledgerTable) add(label string, l *schemas.Ledger) {
	fmt.Fprintf(t.table, "%s\t%d", label, l.Steps)
	for _, ns := range []int64{l.Device, l.Upload, l.Idle, l.Schedule, l.Memory, l.Launch, l.Emit} {
		fmt.Fprintf(t.table, "\t%.0f", float64(ns)/1e3/float64(max(l.Steps, 1)))
	}
	fmt.Fprint(t.table, "\t\n")
}

func (t *ledgerTable) flush() { flush(t.table, t.p) }
