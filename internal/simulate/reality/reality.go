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

// Figure is one quantity at one load: the median over rounds of the live engine, its range, and the simulation's, with
// the profile alone and, the median over rounds, with the pace that the machine had in each.
type Figure struct {
	Name       string  `json:"name"`
	Live       float64 `json:"live"`
	Low        float64 `json:"live_low"`
	High       float64 `json:"live_high"`
	Simulated  float64 `json:"simulated"`
	Error      float64 `json:"error"` // (simulated - live) / live
	Paced      float64 `json:"paced"`
	PacedError float64 `json:"paced_error"` // median of the rounds' errors
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
	Within  float64     `json:"largest_error"`
	Paced   float64     `json:"largest_paced_error"`
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
	return compare(ctx, cfg, engine, paced, live, scale)
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

func compare(ctx context.Context, cfg Config, engine simulate.Config, paced []*traces.Trace, live [][]served, scale float64) (*Report, error) {
	out := &Report{Trace: cfg.Trace.Name, Prompts: cfg.Requests, Rounds: cfg.Rounds, Scale: scale, Profile: engine.Profile.Name, Fit: engine.Profile.Fit}
	for i, t := range paced {
		simulated, err := simulatedFigures(ctx, engine, t)
		if err != nil {
			return nil, err
		}
		var rounds []figures
		for _, l := range live[i] {
			at := engine
			at.Pace = newMachinePace(engine.Profile, l.steps, l.first+int64(engine.Profile.Serving.RequestNs/2))
			f, err := simulatedFigures(ctx, at, t)
			if err != nil {
				return nil, err
			}
			rounds = append(rounds, f)
		}
		l := Load{Part: cfg.Loads[i], Rate: float64(len(t.Requests)-1) / (float64(t.Requests[len(t.Requests)-1].ArrivalNs) / 1e9)}
		for j := range names {
			var values, with, errs []float64
			for k := range live[i] {
				values, with = append(values, live[i][k].figures[j]), append(with, rounds[k][j])
				if v := live[i][k].figures[j]; v > 0 {
					errs = append(errs, (rounds[k][j]-v)/v)
				}
			}
			f := Figure{Name: names[j], Live: quantile(values, 0.5), Low: quantile(values, 0), High: quantile(values, 1), Simulated: simulated[j], Paced: quantile(with, 0.5)}
			if f.Live > 0 {
				f.Error, f.PacedError = (f.Simulated-f.Live)/f.Live, quantile(errs, 0.5)
			}
			out.Within, out.Paced = max(out.Within, math.Abs(f.Error)), max(out.Paced, math.Abs(f.PacedError))
			l.Figures = append(l.Figures, f)
		}
		out.Loads = append(out.Loads, l)
	}
	return out, nil
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
