package bench

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// OverloadConfig offers an engine more than it can do. MaxConcurrency of the load is how many requests at once
// find its peak, NumPrompts is ignored.
type OverloadConfig struct {
	ServeConfig
	Factor  float64       // offered rate against the sustainable one
	Pinned  string        // who has which processors, for the report
	Phase   time.Duration // of each phase
	Rounds  int
	Targets OverloadTargets
}

// OverloadTargets are what a round must keep to.
type OverloadTargets struct {
	Share     float64       // of the peak throughput, at least
	RefusedIn time.Duration // 99 % of refusals, at most
	Recovery  time.Duration // from the end of the overload to the last refusal, at most
}

// DefaultOverloadConfig offers ten times the sustainable rate.
func DefaultOverloadConfig() OverloadConfig {
	c := OverloadConfig{ServeConfig: DefaultServeConfig(), Factor: 10, Phase: 5 * time.Second, Rounds: 3,
		Targets: OverloadTargets{Share: 0.9, RefusedIn: 50 * time.Millisecond, Recovery: time.Second}}
	c.MaxConcurrency, c.RandomInputLen, c.RandomOutputLen, c.IgnoreEOS = 128, 64, 64, true
	c.Ledger = true
	return c
}

// Parts of the sustainable rate, and of a phase.
const (
	calmShare  = 0.5 // offered before and after the overload
	rampShare  = 0.3 // of a phase until its throughput is steady
	calmFactor = 2   // times the calm phase's TTFT: where the queue is over
)

// Validate names the first field that makes no sense.
func (c *OverloadConfig) Validate() error {
	bad := func(param string, value any, want string) error {
		return schemas.Errorf(schemas.KindInvalid, "bench overload", "%s is %v; expected %s", param, value, want).WithParam(param)
	}
	switch {
	case !(c.Factor > 1 && c.Factor <= 1000):
		return bad("factor", c.Factor, "more than 1, at most 1000")
	case c.Phase < time.Second || c.Phase > 10*time.Minute:
		return bad("phase-time", c.Phase, "1s to 10m")
	case c.Rounds < 1 || c.Rounds > 1000:
		return bad("rounds", c.Rounds, "1 to 1000")
	case c.MaxConcurrency < 1:
		return bad("max-concurrency", c.MaxConcurrency, "at least 1 request")
	case c.Transport != "http":
		return bad("transport", c.Transport, "http")
	case c.Dataset != "random":
		return bad("dataset-name", c.Dataset, "random")
	}
	return c.ServeConfig.Validate()
}

// RunOverload finds the peak of an engine, then offers it Factor times what it can do, in alternating rounds.
func RunOverload(ctx context.Context, cfg OverloadConfig) (*OverloadReport, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	b, err := openBench(ctx, cfg.ServeConfig)
	if err != nil {
		return nil, err
	}
	defer b.close()
	r := &OverloadReport{Machine: thisMachine(), Pinned: cfg.Pinned, ModelID: b.served.model, Factor: cfg.Factor, Targets: cfg.Targets}
	if err := b.warmUp(ctx); err != nil {
		return nil, err
	}
	for i := range cfg.Rounds {
		round, err := b.overload(ctx, cfg, uint64(i))
		if err != nil {
			return nil, err
		}
		r.Rounds = append(r.Rounds, *round)
		if cfg.Progress != nil {
			cfg.Progress(fmt.Sprintf("round %d of %d: %.2f of the peak, 99%% of refusals in %.1f ms", i+1, cfg.Rounds, round.Share, round.RefusedP99Ms))
		}
	}
	r.summarize()
	r.Machine.LoadEnd = loadAverage()
	return r, nil
}

// overload measures one round: the peak by a closed loop, then one open loop that is calm, overloaded and calm
// again.
func (b *bench) overload(ctx context.Context, cfg OverloadConfig, round uint64) (*OverloadRound, error) {
	seed := cfg.Seed + round<<40
	ramp, phase := time.Duration(rampShare*float64(cfg.Phase)), cfg.Phase
	cpu := b.engineCPU(ctx, ramp, phase)
	outcomes, err := b.peakLoad(ctx, cfg, seed)
	if err != nil {
		return nil, err
	}
	peak := throughput(outcomes, ramp, phase)
	r := &OverloadRound{Peak: peak, Sustainable: peak / float64(cfg.RandomOutputLen), PeakCPU: <-cpu}
	for _, o := range outcomes {
		r.PeakRequests = r.PeakRequests.add(o.ledger)
	}
	if peak == 0 {
		return nil, schemas.Errorf(schemas.KindUnavailable, "bench overload", "nothing was completed within %s: %v", phase, firstError(outcomes)).
			WithHint("choose a longer --phase-time or a smaller --random-output-len")
	}
	calm, offered := calmShare*r.Sustainable, cfg.Factor*r.Sustainable
	r.Offered = offered
	times := phases(rand.New(rand.NewPCG(seed, 3)), phase, calm, offered, calm)
	requests, err := cfg.load(b.served, len(times), seed+2<<32)
	if err != nil {
		return nil, err
	}
	for i := range requests {
		requests[i].at = times[i]
	}
	cpu = b.engineCPU(ctx, phase+ramp, 2*phase)
	outcomes, _ = b.drive(ctx, requests, 0)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.OverloadCPU = <-cpu
	r.evaluate(outcomes, ramp, phase)
	return r, nil
}

// engineCPU sends which part of all the time between two moments from now the engine's process computed: 1 is one
// processor. It sends 0 if the engine does not say, or shares its process with the load.
func (b *bench) engineCPU(ctx context.Context, from, to time.Duration) <-chan float64 {
	client, ok := b.client.(*httpClient)
	at := func(moment time.Time) (seconds float64, ok bool) {
		if waitUntil(ctx, moment) != nil {
			return 0, false
		}
		seconds, err := client.cpuSeconds(ctx)
		return seconds, err == nil
	}
	out, began := make(chan float64, 1), time.Now()
	go func() {
		defer close(out)
		if b.engine != nil || !ok {
			return
		}
		before, ok := at(began.Add(from))
		first := time.Now()
		if after, also := at(began.Add(to)); ok && also {
			out <- (after - before) / time.Since(first).Seconds()
		}
	}()
	return out
}

// peakLoad keeps MaxConcurrency requests under way for a phase.
func (b *bench) peakLoad(ctx context.Context, cfg OverloadConfig, seed uint64) ([]*outcome, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.Phase)
	defer cancel()
	var all []*outcome
	began := time.Now()
	for batch := uint64(0); ctx.Err() == nil; batch++ { // one batch holds what a phase can do, as a rule
		requests, err := cfg.load(b.served, min(promptsMax, 64*cfg.MaxConcurrency), seed+batch<<20)
		if err != nil {
			return nil, err
		}
		offset := time.Since(began)
		outcomes, _ := b.drive(ctx, requests, cfg.MaxConcurrency)
		for _, o := range outcomes {
			o.began += offset
		}
		all = append(all, outcomes...)
	}
	return all, nil
}

// phases draws the Poisson arrivals of phases of one length with different rates.
func phases(random *rand.Rand, phase time.Duration, rates ...float64) []time.Duration {
	var times []time.Duration
	for i, rate := range rates {
		for at := 0.0; ; {
			at += random.ExpFloat64() / rate
			if at >= phase.Seconds() || len(times) >= promptsMax {
				break
			}
			times = append(times, time.Duration(i)*phase+time.Duration(at*float64(time.Second)))
		}
	}
	return times
}

// throughput is the output tokens per second that arrived in a window of the load. The tokens of a request
// count as spread evenly over its events; a request that was cut off is assumed to get a token an event.
func throughput(outcomes []*outcome, from, to time.Duration) float64 {
	tokens := 0.0
	for _, o := range outcomes {
		within := 0
		for _, at := range o.chunks {
			if at += o.began; at >= from && at < to {
				within++
			}
		}
		perEvent := 1.0
		if o.err == nil && len(o.chunks) > 0 {
			perEvent = float64(o.output) / float64(len(o.chunks))
		}
		tokens += perEvent * float64(within)
	}
	return tokens / (to - from).Seconds()
}

// evaluate splits an open loop's outcomes into its three phases.
func (r *OverloadRound) evaluate(outcomes []*outcome, ramp, phase time.Duration) {
	r.Throughput = throughput(outcomes, phase+ramp, 2*phase)
	r.Share = r.Throughput / r.Peak
	if r.PeakCPU > 0 && r.OverloadCPU > 0 {
		r.CPUShare = r.Share * r.PeakCPU / r.OverloadCPU
	}
	var refusals, calm, late []float64
	for _, o := range outcomes {
		late = append(late, ms(o.began-o.request.at))
		switch at := o.request.at; {
		case o.refusal != 0:
			r.Refused++
			refusals = append(refusals, ms(o.refusal))
			if !o.retryAfter {
				r.WithoutRetryAfter++
			}
			if at >= 2*phase {
				r.RecoveryMs = ms(at - 2*phase)
			}
		case o.err != nil:
			r.Failed++
			if r.Error == "" {
				r.Error = o.err.Error()
			}
		default:
			r.Completed++
			switch {
			case at < phase:
				calm = append(calm, ms(o.chunks[0]))
				r.CalmRequests = r.CalmRequests.add(o.ledger)
			case at < 2*phase:
				r.OverloadRequests = r.OverloadRequests.add(o.ledger)
			default:
				r.AfterRequests = r.AfterRequests.add(o.ledger)
			}
		}
	}
	slices.Sort(refusals)
	slices.Sort(calm)
	slices.Sort(late)
	r.LateP99Ms = quantile(late, 0.99)
	r.RefusedP50Ms, r.RefusedP99Ms, r.CalmTTFTMs = quantile(refusals, 0.5), quantile(refusals, 0.99), quantile(calm, 0.5)
	calmLimit := calmFactor * quantile(calm, 0.95)
	for _, o := range outcomes {
		if at := o.request.at; at >= 2*phase && o.err == nil && ms(o.chunks[0]) > calmLimit {
			r.QueueMs = ms(at - 2*phase)
		}
	}
}

func firstError(outcomes []*outcome) error {
	for _, o := range outcomes {
		if o.err != nil {
			return o.err
		}
	}
	return nil
}

func (r *OverloadReport) summarize() {
	of := func(get func(*OverloadRound) float64) float64 {
		var list []float64
		for i := range r.Rounds {
			list = append(list, get(&r.Rounds[i]))
		}
		return median(list)
	}
	r.Share = of(func(o *OverloadRound) float64 { return o.Share })
	r.CPUShare = of(func(o *OverloadRound) float64 { return o.CPUShare })
	r.RefusedP99Ms = of(func(o *OverloadRound) float64 { return o.RefusedP99Ms })
	r.RecoveryMs = of(func(o *OverloadRound) float64 { return o.RecoveryMs })
	r.Passed = r.Share >= r.Targets.Share && r.RefusedP99Ms <= ms(r.Targets.RefusedIn) && r.RecoveryMs <= ms(r.Targets.Recovery)
	for i := range r.Rounds {
		o := &r.Rounds[i]
		r.Passed = r.Passed && o.Failed == 0 && o.WithoutRetryAfter == 0 && o.Refused > 0
	}
}
