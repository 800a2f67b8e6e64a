package reality

import (
	"context"
	"math"

	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/profile/measure"
	"github.com/troupe-engine/troupe/internal/simulate"
	"github.com/troupe-engine/troupe/internal/traces"
)

// Figure is one quantity at one load. Values are medians over rounds; errors are relative to the live engine, and medians of
// those of the rounds.
type Figure struct {
	Name string  `json:"name"`
	Live float64 `json:"live"`
	Low  float64 `json:"live_low"`
	High float64 `json:"live_high"`
	// Simulated is with a profile measured by loads of all shapes, at the speed that the machine had right before and after the
	// round.
	Simulated      float64 `json:"simulated"`
	SimulatedError float64 `json:"simulated_error"`
	// Plain is the error with that profile's mean speed.
	PlainError float64 `json:"plain_error"`
	// Learned is the error with a profile learned from the steps of the other rounds, too, and as uneven a pace as the machine
	// had then, at the speed around the round.
	LearnedError float64 `json:"learned_error"`
	// Paced is the error with the pace of the round itself: what it gets wrong is the simulator's own.
	PacedError float64 `json:"paced_error"`
	// RepeatError is the median of how far a round of the live engine is from the median of the other rounds: nothing that
	// knows only those can be closer.
	RepeatError float64 `json:"repeat_error"`
	// Slope is by how many per cent the simulated figure changes for each that all steps take longer.
	Slope float64 `json:"slope"`
}

// Load is one load's figures.
type Load struct {
	Part    float64   `json:"load"` // of what the engine can do at most
	Rate    float64   `json:"request_rate"`
	Others  []float64 `json:"others"`   // share of the processors that others used, by rounds
	Slow    []float64 `json:"slowness"` // of the machine around the rounds, against the profile
	Figures []Figure  `json:"figures"`
}

// Report compares simulator and engine.
type Report struct {
	Trace     string      `json:"trace"`
	Prompts   int         `json:"num_prompts"`
	Rounds    int         `json:"rounds"`
	Attempts  int         `json:"attempts"` // live loads that ran; those above Rounds × loads replaced disturbed ones
	OthersMax float64     `json:"others_max"`
	Disturbed int         `json:"disturbed"` // of the rounds that count: others used more, and there was no time left
	Scale     float64     `json:"scale"`     // lengths of the trace are divided by it
	Profile   string      `json:"profile"`
	Fit       profile.Fit `json:"fit"`
	Loads     []Load      `json:"loads"`

	Figures     int     `json:"figures"`
	WithinTenth int     `json:"within_tenth"` // figures whose simulation is at most 10 % off
	Simulated   float64 `json:"largest_simulated_error"`
	Plain       float64 `json:"largest_plain_error"`
	Learned     float64 `json:"largest_learned_error"`
	Paced       float64 `json:"largest_paced_error"`
	Repeat      float64 `json:"largest_repeat_error"`
}

// withinTenth is the error that the simulator is held to.
const withinTenth = 0.1

// comparison holds simulations to what came of the rounds.
type comparison struct {
	*run
	engine simulate.Config
	learn  func(more ...measure.Step) (*profile.Profile, error) // from the session's steps and more
}

// paceSeeds is how many times the machine's pace is played from different places.
const paceSeeds = 9

func (c *comparison) report(ctx context.Context, scale float64) (*Report, error) {
	out := &Report{Trace: c.cfg.Trace.Name, Prompts: c.cfg.Requests, Rounds: c.cfg.Rounds, Attempts: c.attempts, OthersMax: c.cfg.OthersMax, Scale: scale,
		Profile: c.engine.Profile.Name, Fit: c.engine.Profile.Fit}
	learned, err := c.learnRounds()
	if err != nil {
		return nil, err
	}
	for i, t := range c.traces {
		l := Load{Part: c.cfg.Loads[i], Rate: float64(len(t.Requests)-1) / (float64(t.Requests[len(t.Requests)-1].ArrivalNs) / 1e9)}
		rounds := make([]foretold, len(c.live[i]))
		for k, s := range c.live[i] {
			if rounds[k], err = c.foretell(ctx, t, s, learned[k]); err != nil {
				return nil, err
			}
			l.Others, l.Slow = append(l.Others, s.others), append(l.Slow, rounds[k].slow)
			if s.others > c.cfg.OthersMax {
				out.Disturbed++
			}
		}
		slope, err := c.slopes(ctx, t)
		if err != nil {
			return nil, err
		}
		for j := range names {
			out.add(&l, figure(j, c.live[i], rounds, slope[j]))
		}
		out.Loads = append(out.Loads, l)
	}
	return out, nil
}

func (r *Report) add(l *Load, f Figure) {
	r.Figures++
	if math.Abs(f.SimulatedError) <= withinTenth {
		r.WithinTenth++
	}
	r.Simulated, r.Plain, r.Learned = max(r.Simulated, math.Abs(f.SimulatedError)), max(r.Plain, math.Abs(f.PlainError)), max(r.Learned, math.Abs(f.LearnedError))
	r.Paced, r.Repeat = max(r.Paced, math.Abs(f.PacedError)), max(r.Repeat, f.RepeatError)
	l.Figures = append(l.Figures, f)
}

// foretold is what simulations say about a round.
type foretold struct {
	slow                             float64
	simulated, plain, learned, paced figures
}

func (c *comparison) foretell(ctx context.Context, t *traces.Trace, s *served, learned *profile.Profile) (f foretold, err error) {
	at, p := c.engine, c.engine.Profile
	if f.plain, err = simulatedFigures(ctx, at, t); err != nil {
		return f, err
	}
	f.slow = s.slowness(p)
	at.Pace = slowed{f.slow, nil}
	if f.simulated, err = simulatedFigures(ctx, at, t); err != nil {
		return f, err
	}
	at.Pace = newMachinePace(p, s.steps, s.first.Nanoseconds()+int64(p.Serving.RequestNs/2))
	if f.paced, err = simulatedFigures(ctx, at, t); err != nil {
		return f, err
	}
	at.Profile = learned
	f.learned, err = overSeeds(ctx, at, t, s.slowness(learned))
	return f, err
}

// slopeStep is by how much steps take longer to see what that changes.
const slopeStep = 0.05

// slopes are the relative changes of the figures for a relative change of the steps' times.
func (c *comparison) slopes(ctx context.Context, t *traces.Trace) (slope figures, err error) {
	var by [2]figures
	for i, factor := range []float64{1 - slopeStep, 1 + slopeStep} {
		at := c.engine
		at.Pace = slowed{factor, nil}
		if by[i], err = simulatedFigures(ctx, at, t); err != nil {
			return slope, err
		}
	}
	for j := range slope {
		if sum := by[0][j] + by[1][j]; sum > 0 {
			slope[j] = (by[1][j] - by[0][j]) / sum / slopeStep
		}
	}
	return slope, nil
}

// learnRounds makes a profile for each round of what ran in the others: no simulation knows the round that it foretells.
func (c *comparison) learnRounds() ([]*profile.Profile, error) {
	list := make([]*profile.Profile, c.cfg.Rounds)
	for round := range list {
		var others []measure.Step
		for i := range c.live {
			for k := range c.live[i] {
				if k != round {
					others = append(others, c.live[i][k].steps...)
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

// overSeeds is the median of simulations that go through the recorded pace, slowed, from different places.
func overSeeds(ctx context.Context, engine simulate.Config, t *traces.Trace, slow float64) (f figures, err error) {
	var values [len(f)][]float64
	for seed := range uint64(paceSeeds) {
		engine.Pace = slowed{slow, engine.Profile.Player(seed)}
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
func figure(j int, live []*served, rounds []foretold, slope float64) Figure {
	var values, simulated, errs, plain, learned, paced, repeat []float64
	for k, s := range live {
		v, r := s.figures[j], &rounds[k]
		values, simulated = append(values, v), append(simulated, r.simulated[j])
		if v <= 0 {
			continue
		}
		errs, plain = append(errs, r.simulated[j]/v-1), append(plain, r.plain[j]/v-1)
		learned, paced = append(learned, r.learned[j]/v-1), append(paced, r.paced[j]/v-1)
		var others []float64
		for o := range live {
			if o != k {
				others = append(others, live[o].figures[j])
			}
		}
		if len(others) > 0 {
			repeat = append(repeat, math.Abs(quantile(others, 0.5)/v-1))
		}
	}
	return Figure{Name: names[j], Live: quantile(values, 0.5), Low: quantile(values, 0), High: quantile(values, 1),
		Simulated: quantile(simulated, 0.5), SimulatedError: quantile(errs, 0.5), PlainError: quantile(plain, 0.5), LearnedError: quantile(learned, 0.5),
		PacedError: quantile(paced, 0.5), RepeatError: quantile(repeat, 0.5), Slope: slope}
}

func simulatedFigures(ctx context.Context, engine simulate.Config, t *traces.Trace) (figures, error) {
	r, err := simulate.Run(ctx, engine, t)
	if err != nil {
		return figures{}, err
	}
	return figures{r.OutputThroughput, r.TTFT.Median, r.TTFT.P90, r.TPOT.Median, r.TPOT.P90}, nil
}
