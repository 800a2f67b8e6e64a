package bench

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/troupe-engine/troupe/actors/memory"
	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/internal/machine"
	"github.com/troupe-engine/troupe/schemas"
)

// BusConfig sizes [RunBus].
type BusConfig struct {
	Steps     []time.Duration // what the simulated device takes
	Depths    []int           // pipeline depths: 2 as engines run, 1 to hide nothing
	Modes     []Mode          // besides ModeBare, which always runs
	Sequences int             // that decode
	Rounds    int             // of every mode, alternating
	PerRound  time.Duration   // measured in one round of one mode
	Progress  func(string)    // may be nil
}

// Mode is how the actors are put together.
type Mode string

// Modes.
const (
	ModeBare     Mode = "bare"     // function calls, no bus
	ModeInline   Mode = "actors"   // one process, as engines run
	ModeTapped   Mode = "tapped"   // the same, and every message delivered to a subscriber over TCP
	ModeRecorded Mode = "recorded" // actors, and their journals written to a file by a recorder over TCP
	ModeRemote   Mode = "remote"   // every message between actors over NATS
	stepsSkip         = 64         // until all sequences decode
	stepsSlack        = 64         // after the last measured step, until the first sequence ends
	stepsMin          = 50         // measured per round, whatever a step takes
	promptSize        = 32         // tokens
	blockSize         = 16         // tokens
	doneKept          = 1024       // finished requests remembered
	timeoutLeast      = time.Minute
	timeoutFold       = 20 // times what the steps alone take
)

// DefaultBusConfig is what the targets are stated for.
func DefaultBusConfig() BusConfig {
	return BusConfig{Steps: []time.Duration{300 * time.Microsecond, time.Millisecond, 4 * time.Millisecond}, Depths: []int{2, 1},
		Modes: []Mode{ModeInline, ModeTapped, ModeRecorded, ModeRemote}, Sequences: 64, Rounds: 5, PerRound: 400 * time.Millisecond}
}

// Validate names the first field that makes no sense.
func (c *BusConfig) Validate() error {
	bad := func(param string, value any, want string) error {
		return schemas.Errorf(schemas.KindInvalid, "bench bus", "%s is %v; expected %s", param, value, want).WithParam(param)
	}
	for _, s := range c.Steps {
		if s < 10*time.Microsecond || s > time.Second {
			return bad("step", s, "10us to 1s")
		}
	}
	for _, d := range c.Depths {
		if d < 1 || d > deviceQueue {
			return bad("depth", d, fmt.Sprintf("1 to %d", deviceQueue))
		}
	}
	for _, m := range c.Modes {
		if !slices.Contains([]Mode{ModeInline, ModeTapped, ModeRecorded, ModeRemote}, m) {
			return bad("mode", m, "actors, tapped, recorded or remote")
		}
	}
	switch {
	case len(c.Steps) == 0:
		return bad("step", "empty", "at least one duration")
	case len(c.Depths) == 0:
		return bad("depth", "empty", "at least one number of steps")
	case c.Sequences < 1 || c.Sequences > 1024:
		return bad("sequences", c.Sequences, "1 to 1024")
	case c.Rounds < 1 || c.Rounds > 1000:
		return bad("rounds", c.Rounds, "1 to 1000")
	case c.PerRound < time.Millisecond || c.PerRound > time.Minute:
		return bad("per-round", c.PerRound, "1ms to 1m")
	}
	return nil
}

// BusReport is the outcome of [RunBus].
type BusReport struct {
	Machine   Machine    `json:"machine"`
	Sequences int        `json:"sequences"`
	Rounds    int        `json:"rounds"`
	Steps     []StepCost `json:"steps"`
	Hops      []Hop      `json:"hops"`
	Passed    bool       `json:"passed"` // every target was met
}

// StepCost is what steps took in one mode. Times are medians over rounds.
type StepCost struct {
	DeviceUs float64 `json:"device_us"` // of which this is the device alone
	Depth    int     `json:"pipeline_depth"`
	Mode     Mode    `json:"mode"`
	Measured int     `json:"measured_steps"` // per round
	P50Us    float64 `json:"p50_us"`
	P95Us    float64 `json:"p95_us"`
	P99Us    float64 `json:"p99_us"`
	MeanUs   float64 `json:"mean_us"`
	// HostUs is the processor time per step, user's and system's, of actors, listeners and runtime, measured with a device that
	// sleeps: unlike the others it depends little on what else the machine does. 0 where it is not known.
	HostUs float64 `json:"host_cpu_us,omitempty"`
	// Overhead is p50 against the same round's bare loop, in percent: median, least and most over rounds. In mode recorded
	// it is the mean against the actors' without a recorder.
	OverheadPercent float64  `json:"overhead_percent"`
	OverheadLeast   float64  `json:"overhead_percent_min"`
	OverheadMost    float64  `json:"overhead_percent_max"`
	TargetPercent   *float64 `json:"target_percent,omitempty"` // overhead below it passes; absent: for information
	Passed          *bool    `json:"passed,omitempty"`
	Messages        uint64   `json:"tap_messages,omitempty"` // that the subscriber got, in all rounds
	Missing         uint64   `json:"tap_missing,omitempty"`  // that it should have got
	// Ledger says where the time of all rounds' steps went, those before and after the measured ones included. Device and idle,
	// which is what the device waited for the host, add up to WallUs; the host's own parts overlap with both. Without a bus
	// (mode bare), nobody tells the host's.
	Ledger schemas.Ledger `json:"ledger"`
	WallUs float64        `json:"ledger_wall_us"` // from when the first step of a round began until the last ended, sum of rounds

	rounds []roundCost
}

type roundCost struct{ p50, p95, p99, mean, host, overhead float64 }

// RunBus measures steps in every mode, then single hops.
func RunBus(ctx context.Context, cfg BusConfig) (*BusReport, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	r := &BusReport{Machine: thisMachine(), Sequences: cfg.Sequences, Rounds: cfg.Rounds}
	for _, depth := range cfg.Depths {
		for _, step := range cfg.Steps {
			costs, err := cfg.compare(ctx, step, depth)
			if err != nil {
				return nil, err
			}
			r.Steps = append(r.Steps, costs...)
		}
	}
	var err error
	if r.Hops, err = measureHops(ctx, cfg.progress); err != nil {
		return nil, err
	}
	r.Machine.LoadEnd = loadAverage()
	r.Passed = true
	for _, s := range r.Steps {
		r.Passed = r.Passed && (s.Passed == nil || *s.Passed)
	}
	for _, h := range r.Hops {
		r.Passed = r.Passed && (h.Passed == nil || *h.Passed)
	}
	return r, nil
}

func (c *BusConfig) progress(format string, args ...any) {
	if c.Progress != nil {
		c.Progress(fmt.Sprintf(format, args...))
	}
}

// compare runs every mode once per round, each round in another order.
func (c *BusConfig) compare(ctx context.Context, step time.Duration, depth int) ([]StepCost, error) {
	modes := append([]Mode{ModeBare}, c.Modes...)
	off := slices.Index(modes, ModeInline)
	costs := make([]StepCost, len(modes))
	for i, m := range modes {
		costs[i] = StepCost{DeviceUs: float64(step.Nanoseconds()) / 1e3, Depth: depth, Mode: m}
	}
	for round := range c.Rounds {
		for i := range modes {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			cost := &costs[(i+round)%len(modes)]
			c.progress("step %s, pipeline depth %d, round %d of %d: %s", step, depth, round+1, c.Rounds, cost.Mode)
			if err := c.round(ctx, step, cost); err != nil {
				return nil, fmt.Errorf("%s, device step %s: %w", cost.Mode, step, err)
			}
		}
		for i := range costs {
			now := &costs[i].rounds[round]
			now.overhead = 100 * (now.p50/costs[0].rounds[round].p50 - 1)
			if costs[i].Mode == ModeRecorded && off >= 0 { // what switching the recorder on costs
				now.overhead = 100 * (now.mean/costs[off].rounds[round].mean - 1)
			}
		}
	}
	for i := range costs {
		costs[i].summarize()
	}
	return costs, nil
}

// round measures one mode once.
func (c *BusConfig) round(ctx context.Context, step time.Duration, cost *StepCost) error {
	l := newStepLoad(step, cost.Depth, c.Sequences, max(stepsMin, int(c.PerRound/step)))
	cost.Measured = l.measured
	if err := l.run(ctx, cost); err != nil {
		return err
	}
	if n := l.device.short.Load(); n > 0 {
		return fmt.Errorf("bench: %d of %d measured steps did not have all %d sequences", n, l.measured, l.sequences)
	}
	cost.Ledger.Add(l.ledger)
	cost.WallUs += float64(l.device.wall(l.ledger.Steps).Nanoseconds()) / 1e3
	periods := l.device.periods()
	slices.Sort(periods)
	host, err := c.hostTime(ctx, step, cost)
	cost.rounds = append(cost.rounds, roundCost{p50: quantile(periods, 0.5), p95: quantile(periods, 0.95), p99: quantile(periods, 0.99), mean: mean(periods), host: host})
	return err
}

// hostTimeSteps is over how many steps processor time is measured.
const hostTimeSteps = 512

// hostTime is the processor time of a step in microseconds, without the device's.
func (c *BusConfig) hostTime(ctx context.Context, step time.Duration, cost *StepCost) (float64, error) {
	l := newStepLoad(step, cost.Depth, c.Sequences, hostTimeSteps)
	l.device.sleeps = true
	used := machine.CPUTime()
	err := l.run(ctx, cost)
	return float64((machine.CPUTime() - used).Nanoseconds()) / 1e3 / float64(l.output), err
}

func (l *stepLoad) run(ctx context.Context, cost *StepCost) error {
	if cost.Mode == ModeBare {
		return runBare(l)
	}
	return l.runCompany(ctx, cost)
}

func (s *StepCost) summarize() {
	of := func(get func(roundCost) float64) (list []float64) {
		for _, r := range s.rounds {
			list = append(list, get(r))
		}
		return list
	}
	s.P50Us = median(of(func(r roundCost) float64 { return r.p50 }))
	s.P95Us = median(of(func(r roundCost) float64 { return r.p95 }))
	s.P99Us = median(of(func(r roundCost) float64 { return r.p99 }))
	s.MeanUs = median(of(func(r roundCost) float64 { return r.mean }))
	s.HostUs = median(of(func(r roundCost) float64 { return r.host }))
	overheads := of(func(r roundCost) float64 { return r.overhead })
	s.OverheadPercent, s.OverheadLeast, s.OverheadMost = median(overheads), slices.Min(overheads), slices.Max(overheads)
	if target, ok := targetOf(s.Mode, s.DeviceUs, s.Depth); ok {
		passed := s.OverheadPercent < target && s.Missing == 0
		s.TargetPercent, s.Passed = &target, &passed
	}
}

// targetOf is the overhead in percent that a mode must stay below at a device step, where there is a
// target: engines run pipelined, and what depth 1 shows is for information.
func targetOf(m Mode, deviceUs float64, depth int) (float64, bool) {
	switch {
	case depth < 2:
	case m == ModeInline && deviceUs >= 300:
		return 1, true
	case m == ModeTapped && deviceUs >= 1000:
		return 5, true
	case m == ModeRecorded && deviceUs >= 1000:
		return 2, true
	case m == ModeRecorded && deviceUs >= 300:
		return 4, true
	}
	return 0, false
}

// stepLoad is sequences that all decode for as many steps as are measured, and some.
type stepLoad struct {
	sequences, measured, depth int
	output                     int // tokens per sequence
	device                     *device
	sink                       *sink
	ledger                     schemas.Ledger // of the steps whose results the scheduler had when the last token came
}

func newStepLoad(step time.Duration, depth, sequences, measured int) *stepLoad {
	return &stepLoad{sequences: sequences, measured: measured, depth: depth, output: stepsSkip + measured + stepsSlack,
		device: newDevice(step, sequences, stepsSkip, measured), sink: newSink(promptSize, sequences)}
}

func (l *stepLoad) contextMax() int { return promptSize + l.output + 1 }

func (l *stepLoad) blocks() int32 {
	return int32(l.sequences * ((l.contextMax() + blockSize - 1) / blockSize))
}

func (l *stepLoad) schedulerConfig() scheduler.Config {
	return scheduler.Config{Model: "simulated", Replica: replicaName, Device: "simulated", VocabSize: vocabulary, ContextMax: int32(l.contextMax()),
		SequencesMax: int32(l.sequences), WaitingMax: int32(l.sequences), TokensStepMax: int32(max(512, l.sequences)), BlockSize: blockSize,
		Blocks: l.blocks(), PipelineDepth: int32(l.depth), Policy: "fcfs", RecoveriesMax: 1, RecentlyDoneMax: doneKept}
}

func (l *stepLoad) memoryConfig() memory.Config {
	return memory.Config{Blocks: l.blocks(), BlockSize: blockSize}
}

// requests have prompts of their own: no prefix is shared.
func (l *stepLoad) requests() []*schemas.SubmitRequest {
	list := make([]*schemas.SubmitRequest, l.sequences)
	for i := range list {
		id := schemas.NewRequestID(1, uint32(i+1))
		prompt := make(schemas.I32, promptSize)
		for p := range prompt {
			prompt[p] = tokenAt(id.Seq(0), int32(p))
		}
		list[i] = &schemas.SubmitRequest{Request: id, Choices: 1, Tokens: prompt, MaxTokens: int32(l.output),
			Sampling: schemas.SamplingParams{TopP: 1}, Tokenizer: sinkName}
	}
	return list
}

func (l *stepLoad) timeout() time.Duration {
	return timeoutLeast + timeoutFold*time.Duration(l.output)*l.device.step
}

func (l *stepLoad) stuck() error {
	return schemas.Errorf(schemas.KindTimeout, "bench bus", "the sequences did not end within %s", l.timeout())
}

func (l *stepLoad) runCompany(ctx context.Context, cost *StepCost) error {
	c, err := openCompany(l, cost.Mode == ModeRemote)
	if err != nil {
		return err
	}
	defer c.close()
	var t *tap
	if cost.Mode == ModeTapped {
		if t, err = openTap(c.node); err != nil {
			return err
		}
		defer t.close()
	}
	var rec *recorder
	if cost.Mode == ModeRecorded {
		if rec, err = openRecorder(ctx, c.node); err != nil {
			return err
		}
		defer rec.discard()
	}
	if err := c.submit(ctx, l); err != nil {
		return err
	}
	select {
	case err = <-l.sink.done:
	case <-ctx.Done():
		err = ctx.Err()
	case <-time.After(l.timeout()):
		err = l.stuck()
	}
	if err == nil {
		l.ledger, err = c.ledger(ctx)
	}
	if err != nil || t == nil && rec == nil {
		return err
	}
	var got, missing uint64
	if rec != nil {
		got, missing, err = rec.finish()
	} else {
		got, missing, err = t.finish(c.node)
	}
	cost.Messages += got
	cost.Missing += missing
	return err
}
