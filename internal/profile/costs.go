package profile

import (
	"math"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// DeviceText is how profiles name a device.
func DeviceText(d gpu.Info) string { return d.Name + ": " + d.Description }

// StepCosts are the terms in the form in which schedulers take them. What does not fit its limits is cut off there.
func (p *Profile) StepCosts() *schemas.StepCosts {
	c := &schemas.StepCosts{Profile: p.Name, RowNs: whole(p.Terms.RowNs, schemas.StepCostsPsMax), DecodePs: whole(1000*p.Terms.DecodeNs, schemas.StepCostsPsMax),
		PrefillPs: whole(1000*p.Terms.PrefillNs, schemas.StepCostsPsMax)}
	c.Tokens, c.TokensNs = wholeKnots(&p.Terms.Tokens)
	c.Sampled, c.SampledNs = wholeKnots(&p.Terms.Sampled)
	return c
}

func wholeKnots(curve *Curve) (x schemas.I32, y []int64) {
	for i := range curve.X {
		at := int32(whole(curve.X[i], math.MaxInt32))
		if n := len(x); n > 0 && x[n-1] >= at {
			continue // less than one apart
		}
		x, y = append(x, at), append(y, whole(curve.Y[i], schemas.StepCostsNsMax))
	}
	return x, y
}

func whole(v float64, most int64) int64 { return int64(math.Round(min(max(v, 0), float64(most)))) }
