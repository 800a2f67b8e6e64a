package reality

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/internal/machine"
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
	// OthersMax is the share of the processors that others may use while something is measured; what they disturb more is
	// measured again, at most againMax times, as long as Budget, which counts from the start, is not over.
	OthersMax float64
	Budget    time.Duration
	Seed      uint64
	Progress  func(string) // may be nil
}

// againMax is how often one round of a load is measured again.
const againMax = 2

// Validate names the first field that makes no sense.
func (c *Config) Validate() error {
	bad := func(param string, value any, want string) error {
		return schemas.Errorf(schemas.KindInvalid, "against live", "%s is %v; expected %s", param, value, want).WithParam(param)
	}
	if c.Requests < 2 || c.Requests > len(c.Trace.Requests) {
		return bad("num-prompts", c.Requests, fmt.Sprintf("2 to the trace's %d requests", len(c.Trace.Requests)))
	}
	if c.Trace.Requests[c.Requests-1].ArrivalNs <= 0 {
		return bad("request-rate", "infinite", "one at which requests come one after the other, since a load is how close together they come")
	}
	if c.Rounds < 1 || c.Rounds > 1000 {
		return bad("rounds", c.Rounds, "1 to 1000")
	}
	if len(c.Loads) == 0 {
		return bad("loads", "empty", "at least one load")
	}
	for _, l := range c.Loads {
		if !(l > 0 && l <= 2) {
			return bad("loads", l, "parts of what the engine can do at most, as in 0.3,0.6,0.8")
		}
	}
	if !(c.OthersMax >= 0 && c.OthersMax <= 1) {
		return bad("others-max", c.OthersMax, "a share from 0 to 1")
	}
	if c.Budget < 0 {
		return bad("budget", c.Budget, "a time, as in 150s")
	}
	return nil
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
	if cfg.Progress == nil {
		cfg.Progress = func(string) {}
	}
	m, err := measure.Open(ctx, e, cfg.Seed)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	r := &run{cfg: cfg, session: m, until: time.Now().Add(cfg.Budget)}
	cfg.Progress("a first round of loads, which does not count")
	if err := m.WarmUp(ctx); err != nil {
		return nil, err
	}
	cfg.Progress("measuring what steps cost")
	if err := m.Round(ctx); err != nil {
		return nil, err
	}
	engine := configOf(info)
	if engine.Profile, err = m.Profile(); err != nil {
		return nil, err
	}
	base, scale := sample(cfg.Trace, cfg.Requests, info.ContextMax)
	if r.traces, err = pace(ctx, base, engine, cfg.Loads); err != nil {
		return nil, err
	}
	if err := r.rounds(ctx); err != nil {
		return nil, err
	}
	if engine.Profile, err = m.Profile(); err != nil {
		return nil, err
	}
	c := comparison{run: r, engine: engine, learn: m.ProfileOf}
	return c.report(ctx, scale)
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

// run is a comparison under way.
type run struct {
	cfg     Config
	session *measure.Session
	traces  []*traces.Trace // of the loads
	until   time.Time       // nothing is repeated later

	live     [][]*served       // of each load, by rounds
	samples  []*measure.Sample // all parts of the profile that were measured around them
	attempts int
}

// served is what came of a load on the live engine.
type served struct {
	figures
	steps         []measure.Step
	first         time.Duration   // until the first request was sent
	before, after *measure.Sample // parts of the profile around it
	others        float64         // largest share of the processors that others used meanwhile, and while before was measured
}

// rounds serves every load in each round, with a part of the profile before each and after the last.
func (r *run) rounds(ctx context.Context) error {
	r.live = make([][]*served, len(r.traces))
	var last *served // waits for what comes after it
	for round := range r.cfg.Rounds {
		for i := range r.traces {
			r.cfg.Progress(fmt.Sprintf("round %d of %d: the live engine at a load of %g", round+1, r.cfg.Rounds, r.cfg.Loads[i]))
			best, err := r.undisturbed(ctx, i, &last)
			if err != nil {
				return err
			}
			r.live[i] = append(r.live[i], best)
		}
	}
	_, err := r.part(ctx, 0, &last)
	return err
}

// undisturbed serves a load until others disturb it little or there is no time left, and then takes the attempt that they
// disturbed least.
func (r *run) undisturbed(ctx context.Context, i int, last **served) (best *served, err error) {
	for again := 0; best == nil || best.others > r.cfg.OthersMax && again <= againMax && time.Now().Before(r.until); again++ {
		r.attempts++
		s, err := r.part(ctx, i, last)
		if err != nil {
			return nil, err
		}
		watch, own := machine.Begin(), machine.CPUTime()
		if err := s.serve(ctx, r.session, r.traces[i]); err != nil {
			return nil, err
		}
		s.others = max(s.others, watch.Others(machine.CPUTime()-own))
		*last = s
		if best == nil || s.others < best.others {
			best = s
		}
	}
	return best, nil
}

// part measures a part of the profile: after the last load that was served, and before another.
func (r *run) part(ctx context.Context, i int, last **served) (*served, error) {
	watch, own := machine.Begin(), machine.CPUTime()
	sample, err := r.session.Part(ctx, i, len(r.traces))
	if err != nil {
		return nil, err
	}
	s := &served{before: sample, others: watch.Others(machine.CPUTime() - own)}
	if s.others <= r.cfg.OthersMax {
		r.session.Keep(sample)
	}
	if *last != nil {
		(*last).after = sample
	}
	r.samples = append(r.samples, sample)
	return s, nil
}

// figures are what is compared, in the order of names.
type figures [5]float64

var names = [len(figures{})]string{"output tokens/s", "TTFT p50 ms", "TTFT p90 ms", "TPOT p50 ms", "TPOT p90 ms"}

// serve sends a load to the live engine.
func (f *served) serve(ctx context.Context, m *measure.Session, t *traces.Trace) error {
	if _, err := m.Steps(); err != nil {
		return err
	}
	outcomes, err := m.Send(ctx, t)
	if err != nil {
		return err
	}
	if f.steps, err = m.Steps(); err != nil {
		return err
	}
	f.first = outcomes[0].Sent
	var ttft, tpot []float64
	tokens, last := 0, 0.0
	for i, o := range outcomes {
		if o.Err != nil {
			return fmt.Errorf("against live: request %d: %w", i, o.Err)
		}
		tokens += o.Tokens
		last = max(last, o.Last.Seconds())
		ttft = append(ttft, 1e3*(o.First-o.Sent).Seconds())
		if o.Tokens > 1 {
			tpot = append(tpot, 1e3*(o.Last-o.First).Seconds()/float64(o.Tokens-1))
		}
	}
	f.figures = figures{float64(tokens) / last, quantile(ttft, 0.5), quantile(ttft, 0.9), quantile(tpot, 0.5), quantile(tpot, 0.9)}
	return nil
}

// slowness is how much longer than usual the parts of the profile took that were measured right before and after a load: what is
// known of the machine's speed without a look at the load itself.
func (f *served) slowness(p *profile.Profile, usual map[int]float64) float64 {
	var want, took float64
	for _, s := range []*measure.Sample{f.before, f.after} {
		if s == nil {
			continue
		}
		for _, step := range s.Steps {
			want, took = want+usual[s.Part]*float64(p.StepNs(step.Shape)), took+float64(step.Busy)
		}
	}
	if want <= 0 || took <= 0 {
		return 1
	}
	return took / want
}

// usual is how much longer than by a profile each of the parts takes on the whole. What shapes a part has that do not fit the
// profile well is not the machine's speed.
func (r *run) usual(p *profile.Profile) map[int]float64 {
	want, took, usual := map[int]float64{}, map[int]float64{}, map[int]float64{}
	for _, s := range r.samples {
		for _, step := range s.Steps {
			want[s.Part], took[s.Part] = want[s.Part]+float64(p.StepNs(step.Shape)), took[s.Part]+float64(step.Busy)
		}
	}
	for part, w := range want {
		usual[part] = took[part] / max(w, 1)
	}
	return usual
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
