package reality

import (
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/profile/measure"
	"github.com/troupe-engine/troupe/internal/simulate"
	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// Config is what is compared.
type Config struct {
	Trace    *traces.Trace
	Requests int       // of the trace, from its beginning
	Loads    []float64 // parts of what the engine can do at most, each between 0 and 2
	Rounds   int
	Seed     uint64
	Progress func(string) // may be nil
}

// Validate names the first field that makes no sense.
func (c *Config) Validate() error {
	bad := func(param string, value any, want string) error {
		return schemas.Errorf(schemas.KindInvalid, "against live", "%s is %v; expected %s", param, value, want).WithParam(param)
	}
	if c.Requests < 2 || c.Requests > len(c.Trace.Requests) {
		return bad("num-prompts", c.Requests, fmt.Sprintf("2 to the trace's %d requests", len(c.Trace.Requests)))
	}
	if c.Rounds < 1 || c.Rounds > 1000 {
		return bad("rounds", c.Rounds, "1 to 1000")
	}
	if len(c.Loads) == 0 {
		return bad("loads", "empty", "at least one load")
	}
	for _, l := range c.Loads {
		if !(l > 0 && l <= 2) {
			return bad("loads", l, "parts of what the engine can do at most, as in 0.3,0.6,0.85")
		}
	}
	return nil
}

// Figure is one quantity at one load: the median over rounds of the live engine, its range, and what simulations say. Errors
// are relative to the live engine, and medians of those of the rounds.
type Figure struct {
	Name string  `json:"name"`
	Live float64 `json:"live"`
	Low  float64 `json:"live_low"`
	High float64 `json:"live_high"`
	// Simulated is with a profile measured by loads of all shapes, in which every step takes the mean.
	Simulated      float64 `json:"simulated"`
	SimulatedError float64 `json:"simulated_error"`
	// Learned is with a profile learned from the steps of the other rounds, too, and as uneven a pace as the machine had then.
	Learned      float64 `json:"learned"`
	LearnedError float64 `json:"learned_error"`
	// Paced is with the pace of the round itself: what it gets wrong is the simulator's own.
	Paced      float64 `json:"paced"`
	PacedError float64 `json:"paced_error"`
	// RepeatError is the median of how far a round of the live engine is from the median of the other rounds: nothing that
	// knows only those can be closer.
	RepeatError float64 `json:"repeat_error"`
}

// Load is one load's figures.
type Load struct {
	Part    float64  `json:"load"` // of what the engine can do at most
	Rate    float64  `json:"request_rate"`
	Figures []Figure `json:"figures"`
}

// Report compares simulator and engine.
type Report struct {
	Trace   string      `json:"trace"`
	Prompts int         `json:"num_prompts"`
	Rounds  int         `json:"rounds"`
	Scale   float64     `json:"scale"` // lengths of the trace are divided by it
	Profile string      `json:"profile"`
	Fit     profile.Fit `json:"fit"`
	Loads   []Load      `json:"loads"`
	Within  float64     `json:"largest_simulated_error"`
	Learned float64     `json:"largest_learned_error"`
	Paced   float64     `json:"largest_paced_error"`
	Repeat  float64     `json:"largest_repeat_error"`
}

// Run serves the trace's requests with a live engine and with the simulator. Nobody else may use the engine.
func Run(ctx context.Context, e *troupe.Engine, cfg Config) (*Report, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	info, err := e.Info(ctx)
	if err != nil {
		return nil, err
	}
	say := cfg.Progress
	if say == nil {
		say = func(string) {}
	}
	m, err := measure.Open(ctx, e, cfg.Seed)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	say("measuring what steps cost")
	if err := m.Round(ctx); err != nil {
		return nil, err
	}
	p, err := m.Profile()
	if err != nil {
		return nil, err
	}
	base, scale := sample(cfg.Trace, cfg.Requests, info.ContextMax)
	engine := configOf(info)
	engine.Profile = p
	paced, err := pace(ctx, base, engine, cfg.Loads)
	if err != nil {
		return nil, err
	}
	live := make([][]served, len(cfg.Loads))
	for round := range cfg.Rounds {
		for i, t := range paced {
			say(fmt.Sprintf("round %d of %d: the live engine at a load of %g", round+1, cfg.Rounds, cfg.Loads[i]))
			f, err := serve(ctx, m, t)
			if err != nil {
				return nil, err
			}
			live[i] = append(live[i], f)
		}
		say("measuring what steps cost")
		if err := m.Round(ctx); err != nil {
			return nil, err
		}
	}
	if engine.Profile, err = m.Profile(); err != nil {
		return nil, err
	}
	c := comparison{cfg: cfg, engine: engine, learn: m.Profile}
	return c.report(ctx, paced, live, scale)
}

// configOf is the simulator's configuration of a live engine.
func configOf(info *schemas.EngineInfo) simulate.Config {
	c := simulate.DefaultConfig()
	c.Policy, c.SequencesMax, c.WaitingMax = info.Policy, int(info.SequencesMax), int(info.WaitingMax)
	c.TokensStepMax, c.ContextMax, c.BlockSize = int(info.TokensStepMax), int(info.ContextMax), int(info.BlockSize)
	c.KVBlocks, c.PipelineDepth, c.PrefixCacheOff = int(info.Blocks), int(info.PipelineDepth), info.PrefixCacheOff
	return c
}

// sample takes the first n requests of a trace and divides their lengths so that the longest of them fits the context.
func sample(t *traces.Trace, n int, context int32) (*traces.Trace, float64) {
	longest := int32(1)
	for i := range t.Requests[:n] {
		longest = max(longest, t.Requests[i].Input+t.Requests[i].Output)
	}
	scale := max(1, float64(longest)/float64(context-4))
	short := func(tokens int32) int32 { return max(1, int32(float64(tokens)/scale)) }
	s := &traces.Trace{Name: t.Name, Format: t.Format}
	for _, q := range t.Requests[:n] {
		s.Requests = append(s.Requests, traces.Request{ArrivalNs: q.ArrivalNs, Input: short(q.Input), Output: short(q.Output)})
	}
	return s, scale
}

// pace gives the requests times for each load: 1 is the rate at which the engine would serve them if all came at once.
func pace(ctx context.Context, base *traces.Trace, engine simulate.Config, loads []float64) ([]*traces.Trace, error) {
	atOnce := *base
	atOnce.Requests = slices.Clone(base.Requests)
	for i := range atOnce.Requests {
		atOnce.Requests[i].ArrivalNs = 0
	}
	engine.WaitingMax = 0
	r, err := simulate.Run(ctx, engine, &atOnce)
	if err != nil {
		return nil, err
	}
	var list []*traces.Trace
	span := float64(max(1, base.Requests[len(base.Requests)-1].ArrivalNs))
	for _, load := range loads {
		t := *base
		t.Requests = slices.Clone(base.Requests)
		for i := range t.Requests {
			t.Requests[i].ArrivalNs = int64(float64(t.Requests[i].ArrivalNs) / span * r.Duration * 1e9 / load)
		}
		list = append(list, &t)
	}
	return list, nil
}

// figures are what is compared, in the order of names.
type figures [5]float64

var names = [5]string{"output tokens/s", "TTFT p50 ms", "TTFT p90 ms", "TPOT p50 ms", "TPOT p90 ms"}

// served is what came of a load on the live engine.
type served struct {
	figures
	steps []measure.Step
	first int64 // nanoseconds until the first request was sent
}

// serve sends a load to the live engine.
func serve(ctx context.Context, m *measure.Session, t *traces.Trace) (f served, err error) {
	if _, err := m.Steps(); err != nil {
		return f, err
	}
	outcomes, err := m.Send(ctx, t)
	if err != nil {
		return f, err
	}
	if f.steps, err = m.Steps(); err != nil {
		return f, err
	}
	f.first = outcomes[0].Sent.Nanoseconds()
	var ttft, tpot []float64
	tokens, last := 0, 0.0
	for i, o := range outcomes {
		if o.Err != nil {
			return f, fmt.Errorf("against live: request %d: %w", i, o.Err)
		}
		tokens += o.Tokens
		last = max(last, o.Last.Seconds())
		ttft = append(ttft, 1e3*(o.First-o.Sent).Seconds())
		if o.Tokens > 1 {
			tpot = append(tpot, 1e3*(o.Last-o.First).Seconds()/float64(o.Tokens-1))
		}
	}
	f.figures = figures{float64(tokens) / last, quantile(ttft, 0.5), quantile(ttft, 0.9), quantile(tpot, 0.5), quantile(tpot, 0.9)}
	return f, nil
}

// comparison holds simulations to what came of the rounds.
type comparison struct {
	cfg    Config
	engine simulate.Config
	learn  func(more ...measure.Step) (*profile.Profile, error) // from the session's steps and more
}

// paceSeeds is how many times the machine's pace is played from different places.
const paceSeeds = 9

func (c *comparison) report(ctx context.Context, paced []*traces.Trace, live [][]served, scale float64) (*Report, error) {
	out := &Report{Trace: c.cfg.Trace.Name, Prompts: c.cfg.Requests, Rounds: c.cfg.Rounds, Scale: scale, Profile: c.engine.Profile.Name, Fit: c.engine.Profile.Fit}
	learned, err := c.learnRounds(live)
	if err != nil {
		return nil, err
	}
	for i, t := range paced {
		simulated, err := simulatedFigures(ctx, c.engine, t)
		if err != nil {
			return nil, err
		}
		var with, from []figures
		for round, l := range live[i] {
			at := c.engine
			at.Pace = newMachinePace(c.engine.Profile, l.steps, l.first+int64(c.engine.Profile.Serving.RequestNs/2))
			f, err := simulatedFigures(ctx, at, t)
			if err != nil {
				return nil, err
			}
			with = append(with, f)
			at.Pace, at.Profile, at.RecordedPace = nil, learned[round], true
			if f, err = overSeeds(ctx, at, t); err != nil {
				return nil, err
			}
			from = append(from, f)
		}
		l := Load{Part: c.cfg.Loads[i], Rate: float64(len(t.Requests)-1) / (float64(t.Requests[len(t.Requests)-1].ArrivalNs) / 1e9)}
		for j := range names {
			f := figure(j, live[i], simulated, from, with)
			out.Within, out.Learned = max(out.Within, math.Abs(f.SimulatedError)), max(out.Learned, math.Abs(f.LearnedError))
			out.Paced, out.Repeat = max(out.Paced, math.Abs(f.PacedError)), max(out.Repeat, f.RepeatError)
			l.Figures = append(l.Figures, f)
		}
		out.Loads = append(out.Loads, l)
	}
	return out, nil
}

// learnRounds makes a profile for each round of what ran in the others: no simulation knows the round that it foretells.
func (c *comparison) learnRounds(live [][]served) ([]*profile.Profile, error) {
	list := make([]*profile.Profile, c.cfg.Rounds)
	for round := range list {
		var others []measure.Step
		for i := range live {
			for k := range live[i] {
				if k != round {
					others = append(others, live[i][k].steps...)
				}
			}
		}
		p, err := c.learn(others...)
		if err != nil {
			return nil, err
		}
		if len(others) > 0 { // the pace is that of serving these loads
			seen := make([]profile.Observation, len(others))
			for i, s := range others {
				seen[i] = profile.Observation{Shape: s.Shape, Ns: float64(s.Busy)}
			}
			p.Pace = profile.PaceOf(p.Terms, seen)
		}
		list[round] = p
	}
	return list, nil
}

// overSeeds is the median of simulations that go through the recorded pace from different places.
func overSeeds(ctx context.Context, engine simulate.Config, t *traces.Trace) (f figures, err error) {
	var values [len(f)][]float64
	for seed := range uint64(paceSeeds) {
		engine.Seed = seed
		one, err := simulatedFigures(ctx, engine, t)
		if err != nil {
			return f, err
		}
		for j, v := range one {
			values[j] = append(values[j], v)
		}
	}
	for j := range f {
		f[j] = quantile(values[j], 0.5)
	}
	return f, nil
}

// figure compares the j-th figure of the rounds.
func figure(j int, live []served, simulated figures, learned, paced []figures) Figure {
	var values, from, with, errs, fromErrs, withErrs, repeatErrs []float64
	for k := range live {
		v := live[k].figures[j]
		values, from, with = append(values, v), append(from, learned[k][j]), append(with, paced[k][j])
		if v <= 0 {
			continue
		}
		errs, fromErrs, withErrs = append(errs, simulated[j]/v-1), append(fromErrs, learned[k][j]/v-1), append(withErrs, paced[k][j]/v-1)
		var others []float64
		for o := range live {
			if o != k {
				others = append(others, live[o].figures[j])
			}
		}
		if len(others) > 0 {
			repeatErrs = append(repeatErrs, math.Abs(quantile(others, 0.5)/v-1))
		}
	}
	return Figure{Name: names[j], Live: quantile(values, 0.5), Low: quantile(values, 0), High: quantile(values, 1),
		Simulated: simulated[j], SimulatedError: quantile(errs, 0.5), Learned: quantile(from, 0.5), LearnedError: quantile(fromErrs, 0.5),
		Paced: quantile(with, 0.5), PacedError: quantile(withErrs, 0.5), RepeatError: quantile(repeatErrs, 0.5)}
}

func simulatedFigures(ctx context.Context, engine simulate.Config, t *traces.Trace) (figures, error) {
	r, err := simulate.Run(ctx, engine, t)
	if err != nil {
		return figures{}, err
	}
	return figures{r.OutputThroughput, r.TTFT.Median, r.TTFT.P90, r.TPOT.Median, r.TPOT.P90}, nil
}

// quantile sorts values and interpolates linearly; 0 for none.
func quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	at := q * float64(len(values)-1)
	low := int(at)
	high := min(low+1, len(values)-1)
	return values[low] + (at-float64(low))*(values[high]-values[low])
}
