package bench

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// OverloadReport says what became of an engine under more load than it can do. Figures are medians over
// rounds.
type OverloadReport struct {
	Machine      Machine         `json:"machine"`
	ModelID      string          `json:"model_id"`
	Pinned       string          `json:"pinned,omitempty"`
	Factor       float64         `json:"factor"`
	Share        float64         `json:"share_of_peak"`
	CPUShare     float64         `json:"share_of_peak_per_cpu_second,omitempty"`
	RefusedP99Ms float64         `json:"refused_p99_ms"`
	RecoveryMs   float64         `json:"recovery_ms"`
	Rounds       []OverloadRound `json:"rounds"`
	Targets      OverloadTargets `json:"targets"`
	Passed       bool            `json:"passed"`
}

// OverloadRound is one peak and one overload.
type OverloadRound struct {
	Peak        float64 `json:"peak_output_throughput"`     // tokens per second
	Sustainable float64 `json:"sustainable_rate"`           // requests per second at the peak
	Offered     float64 `json:"offered_rate"`               // requests per second during the overload
	Throughput  float64 `json:"overload_output_throughput"` // tokens per second, during the overload
	Share       float64 `json:"share_of_peak"`              // Throughput against Peak
	PeakCPU     float64 `json:"peak_engine_cpus,omitempty"` // processors that the engine used, on average; 0 if it does not say
	OverloadCPU float64 `json:"overload_engine_cpus,omitempty"`
	CPUShare    float64 `json:"share_of_peak_per_cpu_second,omitempty"` // the same of tokens per second of the engine's processor time

	Completed         int     `json:"completed"` // in the whole open loop
	Refused           int     `json:"refused"`   // with 429
	WithoutRetryAfter int     `json:"refused_without_retry_after"`
	Failed            int     `json:"failed"` // in any other way
	Error             string  `json:"error,omitempty"`
	RefusedP50Ms      float64 `json:"refused_p50_ms"` // from sending a request to having read its refusal
	RefusedP99Ms      float64 `json:"refused_p99_ms"`
	RecoveryMs        float64 `json:"recovery_ms"`  // from the end of the overload to the last request that was refused
	QueueMs           float64 `json:"queue_ms"`     // to the last request that had to wait for what had been admitted
	CalmTTFTMs        float64 `json:"calm_ttft_ms"` // median before the overload
	LateP99Ms         float64 `json:"late_p99_ms"`  // the load generator's own: from when a request was due to when it was sent

	// Where the time of completed requests went: at the peak, and by the phase in which they were due. nil if they were not asked.
	PeakRequests     *LedgerMean `json:"peak_request_ledger,omitempty"`
	CalmRequests     *LedgerMean `json:"calm_request_ledger,omitempty"`
	OverloadRequests *LedgerMean `json:"overload_request_ledger,omitempty"`
	AfterRequests    *LedgerMean `json:"after_request_ledger,omitempty"`
}

// WriteText prints the report for people, within 80 columns.
func (r *OverloadReport) WriteText(w io.Writer) error {
	p := &printer{w: w}
	p.line("%s at %g times the rate that it sustains", r.ModelID, r.Factor)
	p.line("%s", r.Machine)
	if r.Pinned != "" {
		p.line("%s", r.Pinned)
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "peak\trate\ttok/s\tshare\t/cpu\t429s\tp50\tp99\tagain\tqueue\tlate\tbad\t")
	for _, o := range r.Rounds {
		fmt.Fprintf(table, "%.0f\t%.0f\t%.0f\t%.2f\t%s\t%d\t%.1f\t%.1f\t%.0f\t%.0f\t%.0f\t%d\t\n", o.Peak, o.Offered, o.Throughput, o.Share, cpuShareText(o.CPUShare),
			o.Refused, o.RefusedP50Ms, o.RefusedP99Ms, o.RecoveryMs, o.QueueMs, o.LateP99Ms, o.Failed)
	}
	flush(table, p)
	p.line("peak: tok/s of a closed loop; rate: requests/s; /cpu: the share in tokens per")
	p.line("second of the engine's processors; p50, p99: of refusals, ms; again, queue: ms")
	p.line("after the overload until none was refused, none waited; late: the generator")
	p.line("share of the peak %.3f (target ≥ %g), 99%% of refusals in %.1f ms (≤ %s),", r.Share, r.Targets.Share, r.RefusedP99Ms, r.Targets.RefusedIn)
	p.line("admits again after %.0f ms (≤ %s): %s", r.RecoveryMs, r.Targets.Recovery, verdict(&r.Passed))
	r.writeLedgers(p)
	for _, o := range r.Rounds {
		if o.Error != "" {
			p.line("failed: %s", o.Error)
		}
	}
	return p.err
}

// writeLedgers shows where the mean completed request's time went, of all rounds.
func (r *OverloadReport) writeLedgers(p *printer) {
	var of [4]*LedgerMean
	for i := range r.Rounds {
		o := &r.Rounds[i]
		for k, m := range []*LedgerMean{o.PeakRequests, o.CalmRequests, o.OverloadRequests, o.AfterRequests} {
			of[k] = of[k].with(m)
		}
	}
	writeLedgerMeans(p, []string{"peak", "calm", "overload", "after"}, of[:])
}

// cpuShareText is "-" for what is not known.
func cpuShareText(share float64) string {
	if share == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", share)
}
