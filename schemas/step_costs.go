package schemas

// StepCosts are what a replica's steps are expected to take, from a profile (troupe profile). They are integers, so that
// every machine computes the same from them:
//
//	tokens_ns[tokens] + sampled_ns[rows that sample] + row_ns × rows
//	+ (decode_ps × positions of decode rows + prefill_ps × pairs of prefill tokens and positions) / 1000
//
// Both curves are linear between their knots and beyond the last two.
type StepCosts struct {
	_msgpack struct{} `msgpack:",as_array"`

	Profile   string  `json:"profile"` // its name
	Tokens    I32     `json:"tokens"`  // knots, ascending
	TokensNs  []int64 `json:"tokens_ns"`
	Sampled   I32     `json:"sampled"`
	SampledNs []int64 `json:"sampled_ns"`
	RowNs     int64   `json:"row_ns"`
	DecodePs  int64   `json:"decode_ps"`
	PrefillPs int64   `json:"prefill_ps"`
}

// Limits of StepCosts: sums of their products fit 64 bits.
const (
	StepCostsKnotsMax    = 4096
	StepCostsNsMax       = 24 * 3_600_000_000_000 // a day
	StepCostsPsMax       = 1_000_000_000          // a millisecond per position
	stepCostsPositionMax = 1 << 31
)

// Validate names the first field that makes no sense.
func (c *StepCosts) Validate() error {
	bad := func(field, format string, args ...any) error {
		return Errorf(KindInvalid, "step costs", field+": "+format, args...).WithParam(field)
	}
	for _, f := range []struct {
		name  string
		knots I32
		ns    []int64
	}{{"tokens", c.Tokens, c.TokensNs}, {"sampled", c.Sampled, c.SampledNs}} {
		if len(f.knots) != len(f.ns) || len(f.knots) > StepCostsKnotsMax {
			return bad(f.name, "%d knots with %d values; expected as many of both, at most %d", len(f.knots), len(f.ns), StepCostsKnotsMax)
		}
		for i := range f.knots {
			if f.knots[i] < 0 || i > 0 && f.knots[i] <= f.knots[i-1] {
				return bad(f.name, "knot %d is %d; expected ascending numbers, 0 or more", i, f.knots[i])
			}
			if f.ns[i] < 0 || f.ns[i] > StepCostsNsMax {
				return bad(f.name+"_ns", "value %d is %d; expected 0 to %d nanoseconds", i, f.ns[i], int64(StepCostsNsMax))
			}
		}
	}
	for _, f := range []struct {
		name       string
		value, max int64
	}{{"row_ns", c.RowNs, StepCostsPsMax}, {"decode_ps", c.DecodePs, StepCostsPsMax}, {"prefill_ps", c.PrefillPs, StepCostsPsMax}} {
		if f.value < 0 || f.value > f.max {
			return bad(f.name, "%d; expected 0 to %d", f.value, f.max)
		}
	}
	return nil
}

// StepNs is what a step is expected to take: 0 to a day, whatever its shape.
func (c *StepCosts) StepNs(rows, tokens, sampled int32, decodeContext, prefillPairs int64) int64 {
	ns := curveNs(c.Tokens, c.TokensNs, tokens) + c.RowNs*int64(max(rows, 0))
	if sampled > 0 {
		ns += curveNs(c.Sampled, c.SampledNs, sampled)
	}
	ns += c.DecodePs * min(max(decodeContext, 0), stepCostsPositionMax) / 1000
	ns += c.PrefillPs * min(max(prefillPairs, 0), stepCostsPositionMax) / 1000
	return min(max(ns, 0), StepCostsNsMax)
}

// curveNs is a curve's value, at most a day.
func curveNs(knots I32, ns []int64, x int32) int64 {
	n := len(knots)
	switch {
	case n == 0:
		return 0
	case n == 1 || x <= knots[0]:
		return ns[0]
	}
	i := 1
	for i < n-1 && knots[i] < x {
		i++
	}
	// Each operation is rounded by itself, which the conversions demand: so all machines get the same.
	rise := float64(float64(ns[i]-ns[i-1]) * float64(int64(x)-int64(knots[i-1])))
	value := float64(ns[i-1]) + float64(rise/float64(knots[i]-knots[i-1]))
	return int64(min(max(value, 0), StepCostsNsMax))
}
