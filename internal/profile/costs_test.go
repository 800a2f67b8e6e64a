package profile

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestStepCostsSayTheSame as the profile that they are made of.
func TestStepCostsSayTheSame(t *testing.T) {
	p, err := Named(Default)
	if err != nil {
		t.Fatal(err)
	}
	c := p.StepCosts()
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	random := rand.New(rand.NewPCG(2, 2))
	for range 1000 {
		s := someShape(random)
		want, got := float64(p.StepNs(s)), float64(c.StepNs(s.Rows, s.Tokens, s.Sampled, s.DecodeContext, s.PrefillPairs))
		if math.Abs(got-want) > 1e-3*want+10 {
			t.Fatalf("%+v takes %g, by its costs %g", s, want, got)
		}
	}
	odd := &Profile{Terms: Terms{Tokens: Curve{X: []float64{0.1, 0.4, 5e9}, Y: []float64{1, 2, nsMax}}, RowNs: nsMax, DecodeNs: nsMax, PrefillNs: nsMax}}
	if err := odd.StepCosts().Validate(); err != nil {
		t.Errorf("the costs of an odd profile: %v", err)
	}
}
