package profile

import "github.com/troupe-engine/troupe/schemas"

// Shape is what the cost of a step depends on.
type Shape struct {
	Rows    int32 `json:"rows"`    // sequences in the step
	Tokens  int32 `json:"tokens"`  // of all rows together
	Sampled int32 `json:"sampled"` // rows that yield a token
	// DecodeContext sums, over rows of one token, the positions that it attends to.
	DecodeContext int64 `json:"decode_context"`
	// PrefillPairs sums, over the tokens of longer rows, the positions that each attends to.
	PrefillPairs int64 `json:"prefill_pairs"`
	// Resumed says that the device had nothing to do for PauseNs or longer before: caches are cold and threads asleep.
	Resumed bool `json:"resumed,omitempty"`
}

// PauseNs is how long a device must have had nothing to do for its next step to be one that resumes.
const PauseNs = 1_000_000

// After is the shape of a step before which the device had nothing to do for so long.
func (s Shape) After(idleNs int64) Shape {
	s.Resumed = idleNs >= PauseNs
	return s
}

// ShapeOf reads the shape of a plan; After adds what the plan does not say.
func ShapeOf(p *schemas.StepPlan) Shape {
	s := Shape{Rows: int32(len(p.Count))}
	for i, n := range p.Count {
		s.Tokens += n
		if p.Sample[i] != schemas.SampleNone {
			s.Sampled++
		}
		if start := int64(p.Start[i]); n == 1 {
			s.DecodeContext += start + 1
		} else {
			s.PrefillPairs += int64(n)*start + int64(n)*(int64(n)+1)/2
		}
	}
	return s
}
