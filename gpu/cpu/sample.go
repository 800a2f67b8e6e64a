package cpu

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// sample executes gpu.Sample, one work item per row.
func (d *Device) sample(t *tier, a *gpu.Sample) error {
	rows, vocab := a.Logits.Dims[0], a.Logits.Dims[1]
	mustLen(gpu.OpSample, "Out", a.Out, rows)
	last := d.Int32s(a.LastToken)
	if len(a.Params) != rows || vocab == 0 {
		panic(fmt.Sprintf("cpu: sample: %d Params for logits %v", len(a.Params), a.Logits))
	}
	for i := range a.Params {
		mustIndex(gpu.OpSample, "Params.Slot", int(a.Params[i].Slot), len(last))
	}
	p := &d.work.sample
	*p = sampleTask{tier: t, logits: d.Float32s(a.Logits), vocab: vocab, params: a.Params,
		out: d.Int32s(a.Out), workers: d.work.workers}
	d.share(p, rows, float64(rows*vocab))
	for r, id := range p.out {
		last[a.Params[r].Slot] = max(0, id)
	}
	*p = sampleTask{}
	return nil
}

type sampleTask struct {
	tier    *tier
	logits  []float32
	vocab   int
	params  []gpu.SampleParams
	out     []int32
	workers []workerSpace
}

func (p *sampleTask) run(worker, from, to int) {
	for r := from; r < to; r++ {
		p.out[r] = p.workers[worker].draw.row(p.tier, p.logits[r*p.vocab:][:p.vocab], &p.params[r])
	}
}

// drawSpace is the scratch of sampling one row.
type drawSpace struct {
	scaled  []float32 // logits / temperature, padded to 16 with -Inf
	weights []float32 // exp(scaled - largest)
	ranked  []ranked  // candidates near a cut
}

// ranked is a token in the order that TopK and TopP cut: descending value, then ascending id.
type ranked struct {
	value float32
	id    int32
}

// row draws one token; see ref.SampleRow for the definition.
func (s *drawSpace) row(t *tier, logits []float32, p *gpu.SampleParams) int32 {
	n := len(logits)
	s.scaled = grow(s.scaled, (n+15)&^15)
	copy(s.scaled, logits)
	for i := n; i < len(s.scaled); i++ {
		s.scaled[i] = negativeInfinity
	}
	largest, nan := t.largest(s.scaled)
	if nan {
		return -1
	}
	if !(p.Temperature > 0) {
		return first(logits, largest)
	}
	if p.Temperature != 1 {
		t.divide(s.scaled, p.Temperature)
	}
	greedy := largest
	largest /= p.Temperature // division is monotonic, so this is the largest quotient
	if math.IsInf(float64(largest), 0) {
		return first(logits, greedy)
	}
	s.weights = grow(s.weights, len(s.scaled))
	copy(s.weights, s.scaled)
	t.expShift(s.weights, largest)
	keep := s.cut(t, n, largest, p)
	r := race{key: ref.NoiseKey(p.Seed, p.Position), largest: largest, best: math.Inf(-1), bound: math.Inf(1), winner: -1}
	if len(s.ranked) > 0 {
		for _, x := range s.ranked {
			if !keep.before(x) {
				r.enter(x.id, x.value, s.weights[x.id])
			}
		}
		return r.winner
	}
	r.enterAll(t, s.scaled[:n], s.weights, keep.value)
	return r.winner
}

// first returns the lowest id whose logit is the given value.
func first(logits []float32, value float32) int32 {
	for i, v := range logits {
		if v == value {
			return int32(i)
		}
	}
	panic("cpu: sample: the maximum is not in the row")
}

// race finds the argmax of value + noise over the tokens that enter, in any order.
//
// Most tokens cannot win, and their noise need not be computed: with u the token's uniform,
// value+gumbel > best needs u > exp(-exp(value-best)) >= 1-exp(value-best), that is
// 1-u < exp(value-best) = weight * exp(largest-best). The slack covers the rounding of weight,
// so the result is exactly that of computing all of them.
type race struct {
	key     uint64
	largest float32
	best    float64
	bound   float64 // slack * exp(largest-best) * 2^52
	winner  int32
}

// enter takes a token with its weight exp(value - largest).
func (r *race) enter(id int32, value, weight float32) {
	noise := ref.NoiseBits(r.key, id)
	if float64(^noise>>12) <= float64(weight)*r.bound {
		r.contend(id, value, noise)
	}
}

// enterAll takes every token of at least the value floor. weights is padded to a multiple of 16.
// The bound tightens between stretches: the first are short, to find a good one soon.
func (r *race) enterAll(t *tier, values, weights []float32, floor float32) {
	var marks [64]byte
	for at, stretch := 0, 2; at < len(values); stretch = min(2*stretch, len(marks)) {
		n := min(stretch, (len(weights)-at)/8)
		t.chances(marks[:n], weights[at:], r.key, int32(at), r.bound)
		for m, mark := range marks[:n] {
			for ; mark != 0; mark &= mark - 1 {
				i := at + 8*m + bits.TrailingZeros8(mark)
				if i < len(values) && values[i] >= floor {
					r.enter(int32(i), values[i], weights[i])
				}
			}
		}
		at += 8 * n
	}
}

func (r *race) contend(id int32, value float32, noise uint64) {
	const slack = 1.0001
	total := float64(value) - math.Log(-math.Log(ref.Uniform(noise)))
	if total > r.best || (total == r.best && id < r.winner) {
		r.best, r.winner = total, id
		r.bound = slack * math.Exp(float64(r.largest)-total) * 0x1p52
	}
}
