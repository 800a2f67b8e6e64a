package cpu

import (
	"fmt"
	"math"

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
	keep := s.cut(s.scaled[:n], largest, p)
	return s.gumbelMax(s.scaled[:n], keep, largest, ref.NoiseKey(p.Seed, p.Position))
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

// gumbelMax returns the argmax of scaled + noise over the tokens not ranked after keep.
//
// Most tokens cannot win, and their noise need not be computed: with u the token's uniform,
// scaled+gumbel > best needs u > exp(-exp(scaled-best)) >= 1-exp(scaled-best), that is
// 1-u < exp(scaled-best) = weight * exp(largest-best). The slack covers the rounding of
// weight, so the result is exactly that of computing all of them.
func (s *drawSpace) gumbelMax(scaled []float32, keep ranked, largest float32, key uint64) int32 {
	const slack = 1.0001
	best, bestID := math.Inf(-1), int32(-1)
	bound := math.Inf(1) // slack * exp(largest-best) * 2^52
	for i, v := range scaled {
		if v < keep.value || (v == keep.value && int32(i) > keep.id) {
			continue
		}
		bits := ref.NoiseBits(key, int32(i))
		if float64(^bits>>12) > float64(s.weights[i])*bound {
			continue
		}
		gumbel := -math.Log(-math.Log(ref.Uniform(bits)))
		if total := float64(v) + gumbel; total > best {
			best, bestID = total, int32(i)
			bound = slack * math.Exp(float64(largest)-best) * 0x1p52
		}
	}
	return bestID
}
