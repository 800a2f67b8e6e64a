package simulate

import (
	"strconv"
)

// Report is the outcome of a simulation. The names are those of vLLM's benchmark results where there are such.
type Report struct {
	Trace   string `json:"trace"`
	Profile string `json:"profile"`
	Config  Config `json:"config"`

	Requests  int      `json:"num_prompts"`
	Completed int      `json:"completed"`
	Failed    int      `json:"failed"` // refused or ended with an error
	Errors    []string `json:"errors,omitempty"`
	Duration  float64  `json:"duration"` // seconds, until the last token

	InputTokens  int64 `json:"total_input_tokens"` // of completed requests
	OutputTokens int64 `json:"total_output_tokens"`

	RequestThroughput float64  `json:"request_throughput"` // per second
	OutputThroughput  float64  `json:"output_throughput"`  // tokens per second
	TotalThroughput   float64  `json:"total_token_throughput"`
	Goodput           *float64 `json:"request_goodput"` // completed requests per second that met every limit; null without limits

	TTFT Latency `json:"ttft_ms"`
	TPOT Latency `json:"tpot_ms"` // of requests with more than one token
	ITL  Latency `json:"itl_ms"`  // percentiles within half a per cent
	E2EL Latency `json:"e2el_ms"`

	// PrefixHitRate is the part of the prompts' blocks that were taken from the prefix cache: blocks of the workload if it
	// names them (Mooncake: 512 tokens), otherwise KV blocks. A block that was taken in part counts for the part.
	PrefixHitRate float64 `json:"prefix_hit_rate"`
	PrefixHitMax  float64 `json:"prefix_hit_max"` // if every block were found that an earlier request had
	CachedTokens  int64   `json:"cached_tokens"`

	Steps       int64   `json:"steps"`
	RowsMean    float64 `json:"rows_mean"`   // sequences in a step
	TokensMean  float64 `json:"tokens_mean"` // tokens in a step
	Utilization float64 `json:"utilization"` // part of the time that devices were busy
	Outside     float64 `json:"outside"`     // part of the steps that were larger than any the profile was measured with

	Rank *RankReport `json:"rank,omitempty"` // of a policy in another process

	Preemptions uint64  `json:"preemptions"`
	Evictions   uint64  `json:"evictions"`
	Blocks      int64   `json:"kv_blocks"` // of all replicas
	UsedPeak    float64 `json:"kv_used_peak"`
	QueuePeak   int     `json:"queue_peak"`

	PerReplica []ReplicaReport `json:"per_replica,omitempty"`
	Series     []Sample        `json:"series,omitempty"`
}

// ReplicaReport is one replica's part.
type ReplicaReport struct {
	Requests      int     `json:"requests"`
	OutputTokens  int64   `json:"output_tokens"`
	Utilization   float64 `json:"utilization"`
	PrefixHitRate float64 `json:"prefix_hit_rate"`
}

// hits counts prefix blocks.
type hits struct{ found, total float64 }

func (h hits) rate() float64 {
	if h.total == 0 {
		return 0
	}
	return h.found / h.total
}

// add takes a prompt of which cached tokens were found, and of which earlier requests had known tokens. Only whole KV
// blocks before the last token can be found. A last block without such counts if it and all before it were known, and
// those before it were found.
func (h *hits) add(input, cached, known, unit, kvBlock int32) {
	blocks := (input + unit - 1) / unit
	h.total += float64(blocks)
	whole := cached / unit
	h.found += float64(whole)
	if whole == blocks {
		return
	}
	end := min((whole+1)*unit, input-1)
	switch able := end/kvBlock*kvBlock - whole*unit; {
	case able > 0:
		h.found += float64(cached%unit) / float64(able)
	case known >= input:
		h.found++
	}
}

// report evaluates a simulation that has ended.
func (w *world) report() (*Report, error) {
	r := &Report{Trace: w.trace.Name, Profile: w.cfg.Profile.Name, Config: w.cfg, Requests: len(w.requests), Failed: w.metrics.failures,
		Errors: w.metrics.errors, ITL: w.metrics.intervals.latency(), PerReplica: make([]ReplicaReport, len(w.replicas))}
	w.clients(r)
	w.engines(r)
	r.Series = w.metrics.series.samples
	for _, s := range r.Series {
		r.QueuePeak = max(r.QueuePeak, s.Queued)
	}
	return r, nil
}

// clients is what the clients saw.
func (w *world) clients(r *Report) {
	unit := w.trace.PrefixBlock
	if unit == 0 {
		unit = int32(w.cfg.BlockSize)
	}
	var ttft, tpot, e2el []float64
	var all, most hits
	seen := newPrefixes()
	each := make([]hits, len(w.replicas))
	good, end := 0, int64(0)
	for i := range w.requests {
		p, input := &w.requests[i], w.trace.Requests[i].Input
		known := seen.add(&w.trace.Requests[i])
		if p.state != answered {
			continue
		}
		r.Completed++
		r.InputTokens += int64(input)
		r.OutputTokens += int64(p.tokens)
		r.CachedTokens += int64(p.cached)
		all.add(input, p.cached, known, unit, int32(w.cfg.BlockSize))
		each[p.replica].add(input, p.cached, known, unit, int32(w.cfg.BlockSize))
		size := int32(w.cfg.BlockSize)
		most.add(input, min(known, input-1)/size*size, known, unit, size)
		of := &r.PerReplica[p.replica]
		of.Requests++
		of.OutputTokens += int64(p.tokens)
		first, whole := ms(p.first-p.sent), ms(p.last-p.sent)
		ttft, e2el = append(ttft, first), append(e2el, whole)
		perToken := 0.0
		if p.tokens > 1 {
			perToken = (whole - first) / float64(p.tokens-1)
			tpot = append(tpot, perToken)
		}
		if w.cfg.Goodput.met(first, perToken, whole) {
			good++
		}
		end = max(end, p.last)
	}
	r.TTFT, r.TPOT, r.E2EL = summarize(ttft), summarize(tpot), summarize(e2el)
	r.PrefixHitRate, r.PrefixHitMax = all.rate(), most.rate()
	for i, h := range each {
		r.PerReplica[i].PrefixHitRate = h.rate()
	}
	r.Duration = float64(end) / 1e9
	r.RequestThroughput = rate(float64(r.Completed), r.Duration)
	r.OutputThroughput = rate(float64(r.OutputTokens), r.Duration)
	r.TotalThroughput = rate(float64(r.InputTokens+r.OutputTokens), r.Duration)
	if w.cfg.Goodput.any() {
		g := rate(float64(good), r.Duration)
		r.Goodput = &g
	}
}

func (l Limits) met(ttft, tpot, e2el float64) bool {
	within := func(v, limit float64) bool { return limit == 0 || v <= limit }
	return within(ttft, l.TTFT) && within(tpot, l.TPOT) && within(e2el, l.E2EL)
}

// engines is what the replicas did.
func (w *world) engines(r *Report) {
	var sum load
	used := int64(0)
	for i, replica := range w.replicas {
		l := &replica.load
		sum.steps += l.steps
		sum.rows += l.rows
		sum.tokens += l.tokens
		sum.outside += l.outside
		sum.busyNs += l.busyNs
		used += int64(l.usedPeak)
		r.Blocks += int64(l.total)
		r.PerReplica[i].Utilization = rate(float64(l.busyNs)/1e9, r.Duration)
		if state := replica.scheduler.Rank(); state != nil {
			if r.Rank == nil {
				r.Rank = &RankReport{}
			}
			r.Rank.add(state)
		}
		state := replica.memory.State()
		r.Preemptions += state.Preemptions
		r.Evictions += state.Evictions
	}
	r.Steps = sum.steps
	r.RowsMean, r.TokensMean = rate(float64(sum.rows), float64(sum.steps)), rate(float64(sum.tokens), float64(sum.steps))
	r.Outside = rate(float64(sum.outside), float64(sum.steps))
	r.Utilization = rate(float64(sum.busyNs)/1e9, r.Duration*float64(len(w.replicas)))
	r.UsedPeak = rate(float64(used), float64(r.Blocks))
}

func rate(amount, per float64) float64 {
	if per <= 0 {
		return 0
	}
	return amount / per
}

func ms(ns int64) float64 { return float64(ns) / 1e6 }

func itoa(n int) string { return strconv.Itoa(n) }
