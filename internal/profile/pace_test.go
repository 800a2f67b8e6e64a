package profile

import (
	"math"
	"testing"
)

// TestPaceIsPlayedAsItWas: work takes as long as it did, whatever pieces it comes in, and the mean is kept over a round.
func TestPaceIsPlayedAsItWas(t *testing.T) {
	terms := Terms{Tokens: Curve{X: []float64{1, 1000}, Y: []float64{1e6, 1e9}}}
	var steps []Observation
	for i := range 50 {
		slow := 1 + float64(i%5) // twice the mean at the end of a period, on average three times the terms
		steps = append(steps, Observation{Shape{Tokens: 2}, 2e6 * slow})
	}
	p := &Profile{Version: Version, Terms: terms, Pace: PaceOf(terms, steps)}
	if err := p.Validate(); err != nil || len(p.Pace) != 50 {
		t.Fatalf("%d stretches, %v", len(p.Pace), err)
	}
	for _, piece := range []int64{1e5, 2e6, 4e6, 1e8} {
		r, now := p.Player(7), int64(0)
		for range 1e8 / piece {
			now = r.Done(now, piece)
		}
		if math.Abs(float64(now)/3e8-1) > 1e-3 {
			t.Errorf("pieces of %d: 100 ms of work took %d ns, want 300 ms", piece, now)
		}
	}
	r := p.Player(1)
	fast, slow := math.Inf(1), 0.0
	for range 50 {
		took := float64(r.Done(0, 2e6))
		fast, slow = min(fast, took), max(slow, took)
	}
	if fast != 2e6 || slow != 1e7 {
		t.Errorf("steps took %g to %g ns; want 2e6 to 1e7, as recorded", fast, slow)
	}
	if got := (&Profile{}).Player(3).Done(5, 10); got != 15 {
		t.Errorf("without a recorded pace 10 ns from 5 are done at %d", got)
	}
}

func TestLongRecordingsHaveLongerStretches(t *testing.T) {
	terms := Terms{Tokens: Curve{X: []float64{1}, Y: []float64{1e6}}}
	steps := make([]Observation, 3*stretchesMax)
	for i := range steps {
		steps[i] = Observation{Shape{Tokens: 1}, 1e6}
	}
	list := PaceOf(terms, steps)
	work := 0.0
	for _, s := range list {
		work += s.WorkNs
	}
	if len(list) > stretchesMax || len(list) < stretchesMax/4 || work < 1e6*float64(len(steps))*0.99 {
		t.Errorf("%d stretches with %g ns of work", len(list), work)
	}
}

func TestPaceThatMakesNoSense(t *testing.T) {
	for name, list := range map[string][]Stretch{"no work": {{0, 5}}, "no time": {{5, 0}}, "not a number": {{math.NaN(), 5}}, "for ever": {{5, math.Inf(1)}},
		"too many": make([]Stretch, stretchesMax+1)} {
		if err := (&Profile{Version: Version, Pace: list}).Validate(); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
