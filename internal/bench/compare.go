package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"text/tabwriter"

	"github.com/troupe-engine/troupe/schemas"
)

// CompareReport sets concurrencies side by side: the same load, all in one run, alternating.
type CompareReport struct {
	Machine     Machine  `json:"machine"`
	ModelID     string   `json:"model_id"`
	Rounds      int      `json:"rounds"`
	Levels      []Level  `json:"levels"`
	ClientShare *float64 `json:"client_cpu_share"` // over the whole run
	// Ratio is the last level's output throughput against the first's: median, least and most over rounds.
	Ratio      float64  `json:"ratio"`
	RatioLeast float64  `json:"ratio_min"`
	RatioMost  float64  `json:"ratio_max"`
	Target     *float64 `json:"target,omitempty"` // Ratio at least; stated for 1 against 16
	Passed     *bool    `json:"passed,omitempty"`
}

// Level is one concurrency. Values are medians over rounds.
type Level struct {
	Concurrency      int     `json:"max_concurrency"`
	OutputThroughput float64 `json:"output_throughput"`
	Least            float64 `json:"output_throughput_min"`
	Most             float64 `json:"output_throughput_max"`
	MeanTTFT         float64 `json:"mean_ttft_ms"`
	MeanTPOT         float64 `json:"mean_tpot_ms"`
	P99ITL           float64 `json:"p99_itl_ms"`
	Failed           int     `json:"failed"` // in all rounds
	// PerCPUSecond is output tokens per second of this process' CPU time, client included: steadier than
	// throughput where others work, too. 0 if the engine runs elsewhere.
	PerCPUSecond float64         `json:"output_tokens_per_cpu_second"`
	Ledger       *schemas.Ledger `json:"ledger,omitempty"` // sums over all rounds
	Requests     *LedgerMean     `json:"request_ledger,omitempty"`

	rounds []*ServeReport
}

const (
	compareFrom, compareTo = 1, 16
	compareTarget          = 3
)

// RunCompare runs the load at each of cfg.Compare's concurrencies, in cfg.CompareRounds alternating rounds.
func RunCompare(ctx context.Context, cfg ServeConfig) (*CompareReport, error) {
	cfg.PercentileMetrics, cfg.MetricPercentiles = Metrics, []float64{99}
	b, err := openBench(ctx, cfg)
	if err != nil {
		return nil, err
	}
	defer b.close()
	r := &CompareReport{Machine: thisMachine(), ModelID: b.served.model, Rounds: cfg.CompareRounds, Levels: make([]Level, len(cfg.Compare))}
	for i, n := range cfg.Compare {
		r.Levels[i].Concurrency = n
	}
	if err := b.warmUp(ctx); err != nil {
		return nil, err
	}
	var failed error
	profile := profiled(func() { failed = b.compare(ctx, r) })
	if failed != nil {
		return nil, failed
	}
	r.summarize()
	r.Machine.LoadEnd = loadAverage()
	var whole ServeReport
	err = b.explain(&whole, profile)
	r.ClientShare = whole.ClientShare
	return r, err
}

func (b *bench) compare(ctx context.Context, r *CompareReport) error {
	for round := range r.Rounds {
		for i := range r.Levels {
			l := &r.Levels[(i+round)%len(r.Levels)]
			// Prompts that no other round had: nothing comes from the prefix cache.
			seed := b.cfg.Seed + uint64(round*len(r.Levels)+i+1)<<40
			requests, err := b.cfg.load(b.served, b.cfg.NumPrompts, seed)
			if err != nil {
				return err
			}
			result := b.measure(ctx, requests, l.Concurrency)
			if err := ctx.Err(); err != nil {
				return err
			}
			l.rounds = append(l.rounds, result)
			b.progress(round, l, result)
		}
	}
	return nil
}

func (b *bench) progress(round int, l *Level, r *ServeReport) {
	if b.cfg.Progress != nil {
		b.cfg.Progress(fmt.Sprintf("round %d of %d, concurrency %d: %.0f tokens/s in %.1f s", round+1, b.cfg.CompareRounds, l.Concurrency,
			r.OutputThroughput(), r.Duration))
	}
}

func (r *CompareReport) summarize() {
	for i := range r.Levels {
		r.Levels[i].summarize()
	}
	first, last := &r.Levels[0], &r.Levels[len(r.Levels)-1]
	var ratios []float64
	for i := range last.rounds {
		if base := first.rounds[i].OutputThroughput(); base > 0 {
			ratios = append(ratios, last.rounds[i].OutputThroughput()/base)
		}
	}
	if len(ratios) == 0 {
		return
	}
	r.Ratio, r.RatioLeast, r.RatioMost = median(ratios), slices.Min(ratios), slices.Max(ratios)
	if first.Concurrency == compareFrom && last.Concurrency == compareTo {
		target, passed := float64(compareTarget), r.Ratio >= compareTarget
		r.Target, r.Passed = &target, &passed
	}
}

func (l *Level) summarize() {
	of := func(get func(*ServeReport) float64) (list []float64) {
		for _, r := range l.rounds {
			list = append(list, get(r))
		}
		return list
	}
	throughput := of((*ServeReport).OutputThroughput)
	l.OutputThroughput, l.Least, l.Most = median(throughput), slices.Min(throughput), slices.Max(throughput)
	l.MeanTTFT = median(of(func(r *ServeReport) float64 { return r.latency("ttft").Mean }))
	l.MeanTPOT = median(of(func(r *ServeReport) float64 { return r.latency("tpot").Mean }))
	l.P99ITL = median(of(func(r *ServeReport) float64 { return r.latency("itl").Percentiles[0].Ms }))
	for _, r := range l.rounds {
		l.Failed += r.Failed
		l.Requests = l.Requests.with(r.Requests)
		if r.Ledger != nil {
			if l.Ledger == nil {
				l.Ledger = &schemas.Ledger{}
			}
			l.Ledger.Add(*r.Ledger)
		}
	}
	l.PerCPUSecond = median(of(func(r *ServeReport) float64 { return perSecond(r.OutputTokens, r.CPUSeconds) }))
}

func (r *ServeReport) latency(metric string) Latency {
	i := slices.IndexFunc(r.Latencies, func(l Latency) bool { return l.Metric == metric })
	return r.Latencies[i]
}

// WriteText prints the report for people, within 80 columns.
func (r *CompareReport) WriteText(w io.Writer) error {
	p := &printer{w: w}
	p.line("%s; median of %d alternating rounds", r.ModelID, r.Rounds)
	p.line("%s", r.Machine)
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "at once\toutput tok/s\tmin…max\tTTFT ms\tTPOT ms\tITL p99\tper CPU s\tfailed\t")
	for _, l := range r.Levels {
		fmt.Fprintf(table, "%d\t%.0f\t%.0f…%.0f\t%.2f\t%.3f\t%.2f\t%.0f\t%d\t\n", l.Concurrency, l.OutputThroughput, l.Least, l.Most,
			l.MeanTTFT, l.MeanTPOT, l.P99ITL, l.PerCPUSecond, l.Failed)
	}
	flush(table, p)
	r.writeLedgers(p)
	first, last := r.Levels[0].Concurrency, r.Levels[len(r.Levels)-1].Concurrency
	line := fmt.Sprintf("%d at once against %d: %.2f times the output (%.2f…%.2f)", last, first, r.Ratio, r.RatioLeast, r.RatioMost)
	if r.Target != nil {
		line += fmt.Sprintf(", target ≥ %g: %s", *r.Target, verdict(r.Passed))
	}
	p.line("%s", line)
	if r.ClientShare != nil {
		p.line("the load generator took %.1f%% of this process' CPU time", 100**r.ClientShare)
	}
	return p.err
}

func (r *CompareReport) writeLedgers(p *printer) {
	if r.Levels[0].Ledger == nil {
		return
	}
	t := newLedgerTable(p, "at once")
	for _, l := range r.Levels {
		if l.Ledger != nil {
			t.add(strconv.Itoa(l.Concurrency), l.Ledger)
		}
	}
	t.flush()
	names, means := make([]string, len(r.Levels)), make([]*LedgerMean, len(r.Levels))
	for i := range r.Levels {
		names[i], means[i] = strconv.Itoa(r.Levels[i].Concurrency)+" at once", r.Levels[i].Requests
	}
	writeLedgerMeans(p, names, means)
}
