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
	// Simulated is with a profile measured by loads of all shapes, as uneven as their pace was, at the speed that the machine had
	// right before and after the round.
	Simulated      float64 `json:"simulated"`
	SimulatedError float64 `json:"simulated_error"`
	// Plain is the error if each step takes that profile's mean.
	PlainError float64 `json:"plain_error"`
	// Learned is the error with a profile learned from the ledgers of the engine's steps while it served the other loads, and as
	// uneven a pace as they had, at the speed around the round.
	LearnedError float64 `json:"learned_error"`
	// Paced is the error with the pace of the round itself: what it gets wrong is the simulator's own.
	PacedError float64 `json:"paced_error"`
	// RepeatError is the median of how far a round of the live engine is from the median of the other rounds: nothing that
	// knows only those can be closer.
	RepeatError float64 `json:"repeat_error"`
	// HalvesError is how far the median of every other round of the live engine is from that of the rest.
	HalvesError float64 `json:"halves_error"`
	// Slope is by how many per cent the simulated figure changes for each that all steps take longer.
	Slope float64 `json:"slope"`
}

// Load is one load's figures.
type Load struct {
	Part    float64   `json:"load"` // of what the engine can do at most
	Rate    float64   `json:"request_rate"`
	Others  []float64 `json:"others"`   // share of the processors that others used, by rounds
	Slow    []float64 `json:"slowness"` // of the machine around the rounds, against what it usually is
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

	// Of so many figures, so many are at most 10 % off: with the profile, with what was learned from the other loads, and with the
	// round's own pace; and so many medians of one half of the live rounds are that close to the other half's.
	Figures         int     `json:"figures"`
	SimulatedWithin int     `json:"simulated_within_tenth"`
	LearnedWithin   int     `json:"learned_within_tenth"`
	PacedWithin     int     `json:"paced_within_tenth"`
	HalvesWithin    int     `json:"halves_within_tenth"`
	Simulated       float64 `json:"largest_simulated_error"`
	Plain           float64 `json:"largest_plain_error"`
	Learned         float64 `json:"largest_learned_error"`
	Paced           float64 `json:"largest_paced_error"`
	Repeat          float64 `json:"largest_repeat_error"`
}

// withinTenth is the error that the simulator is held to.
const withinTenth = 0.1

// comparison holds simulations to what came of the rounds.
type comparison struct {
	*run
	engine simulate.Config
	learn  func([]measure.Step) (*profile.Profile, error) // from steps that ran
}

// paceSeeds is how many times the machine's pace is played from different places.
const paceSeeds = 9

func (c *comparison) report(ctx context.Context, scale float64) (*Report, error) {
	out := &Report{Trace: c.cfg.Trace.Name, Prompts: c.cfg.Requests, Rounds: c.cfg.Rounds, Attempts: c.attempts, OthersMax: c.cfg.OthersMax, Scale: scale,
		Profile: c.engine.Profile.Name, Fit: c.engine.Profile.Fit}
	usual := c.usual(c.engine.Profile)
	for i, t := range c.traces {
		l := Load{Part: c.cfg.Loads[i], Rate: float64(len(t.Requests)-1) / (float64(t.Requests[len(t.Requests)-1].ArrivalNs) / 1e9)}
		learned, err := c.learnWithout(i)
		if err != nil {
			return nil, err
		}
		at, usually := c.engine, c.usual(learned)
		at.Profile = learned
		rounds := make([]foretold, len(c.live[i]))
		for k, s := range c.live[i] {
			if rounds[k], err = c.foretell(ctx, t, s, s.slowness(c.engine.Profile, usual)); err != nil {
				return nil, err
			}
			if rounds[k].learned, err = overSeeds(ctx, at, t, s.slowness(learned, usually)); err != nil {
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
	for _, c := range []struct {
		err    float64
		within *int
	}{{f.SimulatedError, &r.SimulatedWithin}, {f.LearnedError, &r.LearnedWithin}, {f.PacedError, &r.PacedWithin}, {f.HalvesError, &r.HalvesWithin}} {
		if math.Abs(c.err) <= withinTenth {
			*c.within++
		}
	}
	r.Simulated, r.Plain, r.Learned = max(r.Simulated, math.Abs(f.SimulatedError)), max(r.Plain, math.Abs(f.PlainError)), max(r.Learned, math.Abs(f.LearnedError))
	r.Paced, r.Repeat = max(r.Paced, math.Abs(f.PacedError)), max(r.Repeat, f.RepeatError)
	l.Figures = append(l.Figures, f)
}

// foretold is what simulations say about a round, and how slow the machine was around it.
type foretold struct {
	slow                             float64
	simulated, plain, learned, paced figures
}

func (c *comparison) foretell(ctx context.Context, t *traces.Trace, s *served, slow float64) (f foretold, err error) {
	at, p := c.engine, c.engine.Profile
	f.slow = slow
	if f.plain, err = simulatedFigures(ctx, at, t); err != nil {
		return f, err
	}
	if f.simulated, err = overSeeds(ctx, at, t, slow); err != nil {
		return f, err
	}
	at.Pace = newMachinePace(p, s.steps, s.first.Nanoseconds()+int64(p.Serving.RequestNs/2))
	f.paced, err = simulatedFigures(ctx, at, t)
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

// learnWithout makes a profile of the steps with which the engine served all loads but one: it knows nothing of what it foretells.
// With one load alone it is the session's.
func (c *comparison) learnWithout(load int) (*profile.Profile, error) {
	var steps []measure.Step
	for i := range c.live {
		for _, s := range c.live[i] {
			if i != load {
				steps = append(steps, s.steps...)
			}
		}
	}
	if len(steps) == 0 {
		return c.engine.Profile, nil
	}
	return c.learn(steps)
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
	var halves [2][]float64
	for k, s := range live {
		v, r := s.figures[j], &rounds[k]
		values, simulated, halves[k%2] = append(values, v), append(simulated, r.simulated[j]), append(halves[k%2], v)
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
	apart := 1.0 // one round has no halves
	if even, odd := quantile(halves[0], 0.5), quantile(halves[1], 0.5); odd > 0 {
		apart = even/odd - 1
	}
	return Figure{HalvesError: apart, Name: names[j], Live: quantile(values, 0.5), Low: quantile(values, 0), High: quantile(values, 1),
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
