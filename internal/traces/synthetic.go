package traces

import (
	"math"
	"math/rand/v2"

	"github.com/troupe-engine/troupe/schemas"
)

// Synthetic is a workload that is drawn rather than read.
type Synthetic struct {
	Requests   int
	Rate       float64 // requests per second; +Inf: all at once
	Burstiness float64 // shape of the gamma distribution of intervals: 1 is a Poisson process, less is burstier
	Input      Lengths // prompt tokens, beyond the shared prefix
	Output     Lengths
	Prefixes   int // different prefixes that prompts share; 0: none
	Prefix     Lengths
	Seed       uint64
}

// Validate names the first field that makes no sense.
func (s *Synthetic) Validate() error {
	bad := func(param string, value any, want string) error {
		return schemas.Errorf(schemas.KindInvalid, "synthetic", "%s is %v; expected %s", param, value, want).WithParam(param)
	}
	switch {
	case s.Requests < 1 || s.Requests > RequestsMax:
		return bad("num-prompts", s.Requests, "1 to 16777216")
	case !(s.Rate > 0):
		return bad("request-rate", s.Rate, "a positive number of requests per second, or inf")
	case !(s.Burstiness > 0 && s.Burstiness <= 1e6):
		return bad("burstiness", s.Burstiness, "a positive number; 1 is a Poisson process")
	case s.Input.kind == "":
		return bad("input-len", `""`, "a distribution of lengths")
	case s.Output.kind == "":
		return bad("output-len", `""`, "a distribution of lengths")
	case s.Prefixes < 0 || s.Prefixes > RequestsMax:
		return bad("prefixes", s.Prefixes, "0 to 16777216")
	case s.Prefixes > 0 && s.Prefix.kind == "":
		return bad("prefix-len", `""`, "a distribution of lengths, since prefixes are shared")
	}
	return nil
}

// Trace draws the workload; the same fields give the same one. Each prefix is equally likely.
func (s *Synthetic) Trace() (*Trace, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	random := rand.New(rand.NewPCG(s.Seed, 0x73796e7468))
	t := &Trace{Name: "synthetic", Format: "synthetic", Requests: make([]Request, s.Requests)}
	arrivals := Arrivals(random, s.Requests, s.Rate, s.Burstiness)
	prefixes := make([]Segment, s.Prefixes)
	for i := range prefixes {
		prefixes[i] = Segment{ID: identity(kindPrefix, s.Seed^uint64(i)<<32), Tokens: s.Prefix.Draw(random)}
	}
	for i := range t.Requests {
		q := Request{ArrivalNs: arrivals[i], Input: s.Input.Draw(random), Output: s.Output.Draw(random)}
		if s.Prefixes > 0 {
			p := prefixes[random.IntN(s.Prefixes)]
			q.Prompt = []Segment{p, {ID: identity(kindPrompt, uint64(i)), Tokens: q.Input}}
			q.Input = min(q.Input+p.Tokens, TokensMax)
		}
		t.Requests[i] = q
	}
	return t, nil
}

// Arrivals draws n arrival times in nanoseconds with gamma-distributed intervals, as `vllm bench serve` does: rate
// in requests per second (infinite: all at once), burstiness is the shape. As there, the times are scaled so that the
// last one is exactly (n-1)/rate.
func Arrivals(random *rand.Rand, n int, rate, burstiness float64) []int64 {
	list := make([]int64, n)
	if math.IsInf(rate, 1) || n < 2 {
		return list
	}
	sums := make([]float64, n)
	for i := 1; i < n; i++ {
		sums[i] = sums[i-1] + gamma(random, burstiness)
	}
	if sums[n-1] == 0 {
		return list
	}
	scale := float64(n-1) / rate / sums[n-1]
	for i, sum := range sums {
		list[i] = int64(min(sum*scale*1e9, arrivalMax))
	}
	return list
}

// gamma draws from the gamma distribution with the given shape and scale 1 (Marsaglia and Tsang, "A simple
// method for generating gamma variables", 2000).
func gamma(random *rand.Rand, shape float64) float64 {
	if shape < 1 {
		return gamma(random, shape+1) * math.Pow(1-random.Float64(), 1/shape)
	}
	d := shape - 1.0/3
	c := 1 / math.Sqrt(9*d)
	for {
		x := random.NormFloat64()
		v := 1 + c*x
		if v <= 0 {
			continue
		}
		v = v * v * v
		if math.Log(1-random.Float64()) < 0.5*x*x+d-d*v+d*math.Log(v) {
			return d * v
		}
	}
}

// Pace gives the requests of a trace new times: as Arrivals draws them, in the order in which they are.
func (t *Trace) Pace(rate, burstiness float64, seed uint64) error {
	s := Synthetic{Requests: len(t.Requests), Rate: rate, Burstiness: burstiness, Input: Lengths{"fixed", 1, 0}, Output: Lengths{"fixed", 1, 0}}
	if err := s.Validate(); err != nil {
		return err
	}
	for i, at := range Arrivals(rand.New(rand.NewPCG(seed, 0x70616365)), len(t.Requests), rate, burstiness) {
		t.Requests[i].ArrivalNs = at
	}
	return nil
}
