package reality

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/profile/measure"
	"github.com/troupe-engine/troupe/internal/simulate"
	"github.com/troupe-engine/troupe/internal/traces"
)

func workload() *traces.Trace {
	t := &traces.Trace{Name: "test"}
	for i := range int64(40) {
		t.Requests = append(t.Requests, traces.Request{ArrivalNs: i * i * 1e6, Input: int32(100 + 90*i), Output: int32(10 + i)})
	}
	return t
}

func TestTheSampleFitsTheContext(t *testing.T) {
	s, scale := sample(workload(), 40, 2048)
	for i, q := range s.Requests {
		if q.Input < 1 || q.Output < 1 || q.Input+q.Output >= 2048 {
			t.Errorf("request %d: %+v", i, q)
		}
	}
	if scale < 1.7 || scale > 1.9 {
		t.Errorf("lengths are divided by %g", scale)
	}
	if _, scale := sample(workload(), 5, 2048); scale != 1 {
		t.Errorf("short requests are divided by %g", scale)
	}
}

// TestASimulationComparedWithItself is exact, and each load has its rate.
func TestASimulationComparedWithItself(t *testing.T) {
	ctx := context.Background()
	engine := simulate.DefaultConfig()
	engine.Profile = &profile.Profile{Terms: profile.Terms{Tokens: profile.Curve{X: []float64{1, 512}, Y: []float64{1e6, 2e7}}, RowNs: 1e4}}
	cfg := Config{Trace: workload(), Requests: 40, Loads: []float64{0.3, 0.9}, Rounds: 2}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	paced, err := pace(ctx, cfg.Trace, engine, cfg.Loads)
	if err != nil {
		t.Fatal(err)
	}
	ran := &run{cfg: cfg, traces: paced}
	for _, p := range paced {
		f, err := simulatedFigures(ctx, engine, p)
		if err != nil {
			t.Fatal(err)
		}
		ran.live = append(ran.live, []*served{{figures: f}, {figures: f, others: 0.02}})
	}
	c := comparison{run: ran, engine: engine, learn: func([]measure.Step) (*profile.Profile, error) { return engine.Profile, nil }}
	r, err := c.report(ctx, 1)
	if err != nil || r.Simulated != 0 || r.Plain != 0 || r.Learned != 0 || r.Paced > 1e-6 || r.Repeat != 0 || len(r.Loads) != 2 || r.SimulatedWithin != 10 || r.LearnedWithin != 10 || r.PacedWithin != 10 || r.HalvesWithin != 10 || r.Figures != 10 || r.Disturbed != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if s := r.Loads[0].Figures[3].Slope; s < 0.5 || s > 10 { // TPOT follows the steps, and more where they queue
		t.Errorf("TPOT changes by %g %% for each that steps take longer", s)
	}
	if got := r.Loads[1].Rate / r.Loads[0].Rate; math.Abs(got-3) > 1e-6 {
		t.Errorf("the rates are %g apart, want 3", got)
	}
	var b strings.Builder
	if err := r.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(b.String()) {
		if n := utf8.RuneCountInString(line) - 1; n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
}

func TestWhatCannotBeCompared(t *testing.T) {
	for _, c := range []Config{{Requests: 1, Loads: []float64{1}, Rounds: 1}, {Requests: 41, Loads: []float64{1}, Rounds: 1}, {Requests: 9, Rounds: 1},
		{Requests: 9, Loads: []float64{0}, Rounds: 1}, {Requests: 9, Loads: []float64{1}},
		{Requests: 9, Loads: []float64{1}, Rounds: 1, OthersMax: 2}, {Requests: 9, Loads: []float64{1}, Rounds: 1, Budget: -1}} {
		c.Trace = workload()
		if err := c.Validate(); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
	c := Config{Trace: &traces.Trace{Requests: make([]traces.Request, 9)}, Requests: 9, Loads: []float64{1}, Rounds: 1}
	if err := c.Validate(); err == nil || !strings.Contains(err.Error(), "request-rate") {
		t.Errorf("requests that all come at once: %v", err)
	}
}

// TestTheSpeedAroundARound: the simulation of a round goes at the speed that was measured before and after it, and then is
// right about a machine that is slower than its profile.
func TestTheSpeedAroundARound(t *testing.T) {
	ctx := context.Background()
	engine := simulate.DefaultConfig()
	engine.Profile = &profile.Profile{Terms: profile.Terms{Tokens: profile.Curve{X: []float64{1, 512}, Y: []float64{1e6, 2e7}}}}
	slower := *engine.Profile
	slower.Terms.Tokens = profile.Curve{X: []float64{1, 512}, Y: []float64{1.5e6, 3e7}}
	trace := workload()
	at := engine
	at.Profile = &slower
	f, err := simulatedFigures(ctx, at, trace)
	if err != nil {
		t.Fatal(err)
	}
	steps := func(busy time.Duration) *measure.Sample {
		return &measure.Sample{Steps: []measure.Step{{Shape: profile.Shape{Tokens: 1}, Busy: busy}}}
	}
	s := &served{figures: f, before: steps(time.Millisecond), after: steps(2 * time.Millisecond)}
	if got := s.slowness(engine.Profile, map[int]float64{0: 1}); got != 1.5 {
		t.Fatalf("slower by %g, want 1.5", got)
	}
	if got := (&served{}).slowness(engine.Profile, nil); got != 1 {
		t.Errorf("slower by %g where nothing is known, want 1", got)
	}
	// The fit is 10 % off for what that part has of steps, always: that is not the machine's speed.
	if got := s.slowness(engine.Profile, map[int]float64{0: 1.1}); math.Abs(got-1.5/1.1) > 1e-9 {
		t.Errorf("slower by %g than usual, want %g", got, 1.5/1.1)
	}
	usually := &run{samples: []*measure.Sample{steps(1100 * time.Microsecond), steps(1300 * time.Microsecond), {Part: 1, Steps: s.before.Steps}}}
	if got := usually.usual(engine.Profile); len(got) != 2 || math.Abs(got[0]-1.2) > 1e-9 || got[1] != 1 {
		t.Errorf("parts usually take %v times the profile's, want 1.2 and 1", got)
	}
	c := comparison{run: &run{samples: []*measure.Sample{steps(time.Millisecond)}, cfg: Config{Trace: trace, Requests: 40, Loads: []float64{1}, Rounds: 1}, traces: []*traces.Trace{trace}, live: [][]*served{{s}}}, engine: engine,
		learn: func([]measure.Step) (*profile.Profile, error) { return engine.Profile, nil }}
	r, err := c.report(ctx, 1)
	if err != nil || r.Simulated > 1e-6 || r.Plain < 0.3 {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestDisturbedRunsRunAgain, but not longer than the budget allows, and the least disturbed one counts.
func TestDisturbedRunsRunAgain(t *testing.T) {
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen, opts.Device = "none", "none", "cpu"
	opts.SequencesMax, opts.ContextMax = 2, 128 // few loads
	e, err := troupe.Open(t.Context(), opts, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	m, err := measure.Open(t.Context(), e, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	trace := &traces.Trace{Requests: []traces.Request{{Input: 8, Output: 4}, {ArrivalNs: 1e6, Input: 8, Output: 4}}}
	// Nobody can use less than nothing of the processors: every run is disturbed.
	r := &run{cfg: Config{OthersMax: -1, Rounds: 1, Loads: []float64{1}, Progress: func(string) {}}, session: m, traces: []*traces.Trace{trace}, until: time.Now().Add(time.Second)}
	if err := r.rounds(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := r.live[0]; r.attempts < 1 || r.attempts < 1+againMax && time.Now().Before(r.until) || len(got) != 1 || got[0].before == nil || got[0].after == nil || len(got[0].steps) == 0 || got[0].figures[1] <= 0 {
		t.Errorf("%d attempts, %+v", r.attempts, got)
	}
	r.cfg.OthersMax, r.attempts = 1, 0
	if err := r.rounds(t.Context()); err != nil || r.attempts != 1 {
		t.Errorf("%d attempts where all is quiet enough, %v", r.attempts, err)
	}
}

// TestAMachineThatIsSlowAtTimes: work takes as long as the steps of that time took.
func TestAMachineThatIsSlowAtTimes(t *testing.T) {
	p := &profile.Profile{Terms: profile.Terms{Tokens: profile.Curve{X: []float64{0, 10}, Y: []float64{0, 1000}}}}
	step := func(tokens int32, busy, idle time.Duration) measure.Step {
		return measure.Step{Shape: profile.Shape{Tokens: tokens}, Busy: busy, Idle: idle}
	}
	// 1000 ns of work in 2000, then half as much time without any, then 500 ns in 250.
	m := newMachinePace(p, []measure.Step{step(10, 2000, 700), step(5, 250, 1000)}, 100)
	average := 1500.0 / 2250
	for _, c := range []struct{ begin, ns, done int64 }{
		{100, 1000, 2100}, {100, 500, 1100}, {1100, 500, 2100}, {3100, 500, 3350}, {0, 0, 0},
		{2100, 0, 2100}, {3350, 1000, 3350 + int64(1000/average)}, {2600, int64(500*average) + 500, 3350},
	} {
		if got := m.Done(c.begin, c.ns); got < c.done-2 || got > c.done+2 {
			t.Errorf("%d ns from %d are done at %d, want %d", c.ns, c.begin, got, c.done)
		}
	}
	if got := newMachinePace(p, nil, 0).Done(5, 10); got != 15 {
		t.Errorf("without steps the profile's pace holds, got %d", got)
	}
}
