package gputest

import (
	"cmp"
	"fmt"
	"math"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

func testMoERoute(s *suite) {
	for _, c := range []struct{ tokens, experts, topK int }{{1, 4, 2}, {9, 8, 2}, {5, 60, 4}, {3, 128, 8}, {2, 3, 3}, {70, 33, 1}} {
		logits := s.normal(s.compute, c.tokens*c.experts, 1)
		logits[1] = logits[0] // a tie
		for _, normalize := range []bool{false, true} {
			chosen := s.ints(make([]int32, c.tokens*c.topK), c.tokens, c.topK)
			weights := s.poison(gpu.F32, c.tokens, c.topK)
			s.launch(gpu.OpMoERoute, &gpu.MoERoute{Logits: s.act(logits, c.tokens, c.experts), Experts: chosen, Weights: weights, Normalize: normalize})
			wantChosen, wantWeights := ref.MoERoute(logits, c.experts, c.topK, normalize)
			s.sameInts("experts", s.getInts(chosen), wantChosen)
			s.near("weights", s.get(weights), wantWeights, 0, 16)
			s.free()
		}
	}
}

// routing is how a test's tokens choose their experts.
type routing int

const (
	spread   routing = iota // at random
	without0                // at random, but nobody chooses expert 0
	onLast                  // everybody chooses the last expert first
)

// logits are such that tokens choose that way.
func (r routing) logits(s *suite, tokens, experts int) []float32 {
	logits := s.normal(gpu.F32, tokens*experts, 1)
	for t := range tokens {
		row := logits[t*experts:][:experts]
		switch r {
		case without0:
			row[0] = -100
		case onLast:
			row[experts-1] = 100
		}
	}
	return logits
}

// moeCase is a mixture of experts. A matrix's rows and columns are whole multiples of nothing in particular, but of 8 where an
// implementation might want that.
type moeCase struct {
	tokens, experts, topK, hidden, width int
	routing                              routing
	dtype, down                          gpu.DType // down: of the down projections, if it is another
}

func (c moeCase) String() string {
	return fmt.Sprintf("%d tokens, top %d of %d experts [%d, %d] in %v %v, routing %d", c.tokens, c.topK, c.experts, c.hidden, c.width, c.dtype, cmp.Or(c.down, c.dtype), c.routing)
}

// testMoEExperts covers experts with one token and with hundreds, with none and with all of them.
func testMoEExperts(s *suite) {
	for _, tokens := range []int{1, 2, 13, 40} {
		for _, topK := range []int{1, 3} {
			s.moeExperts(moeCase{tokens: tokens, experts: 5, topK: topK, hidden: 48, width: 37, dtype: gpu.BF16})
		}
	}
	for _, c := range []moeCase{
		{tokens: 1, experts: 4, topK: 2, hidden: 200, width: 136},
		{tokens: 1, experts: 128, topK: 8, hidden: 136, width: 72, routing: without0},
		{tokens: 5, experts: 4, topK: 2, hidden: 1032, width: 264},
		{tokens: 7, experts: 128, topK: 8, hidden: 72, width: 40},
		{tokens: 40, experts: 16, topK: 1, hidden: 200, width: 136, routing: onLast},
		{tokens: 64, experts: 8, topK: 2, hidden: 200, width: 136, routing: without0},
		{tokens: 64, experts: 128, topK: 8, hidden: 72, width: 40},
		{tokens: 64, experts: 64, topK: 1, hidden: 136, width: 72},
		{tokens: 130, experts: 4, topK: 2, hidden: 520, width: 264},
		{tokens: 300, experts: 4, topK: 1, hidden: 72, width: 40, routing: onLast},
		{tokens: 300, experts: 4, topK: 4, hidden: 136, width: 72},
		{tokens: 300, experts: 8, topK: 2, hidden: 136, width: 72},
		{tokens: 300, experts: 128, topK: 8, hidden: 72, width: 40, routing: without0},
		{tokens: 230, experts: 2, topK: 2, hidden: 392, width: 136},
		{tokens: 480, experts: 4, topK: 1, hidden: 392, width: 72},
		{tokens: 620, experts: 4, topK: 1, hidden: 392, width: 72},
	} {
		c.dtype = gpu.BF16
		s.moeExperts(c)
	}
	for _, dtype := range s.d.Info().Experts {
		s.Run(dtype.String(), func(t *testing.T) {
			one := *s
			one.T, one.live = t, nil
			defer one.free()
			one.quantizedExperts(dtype)
		})
	}
}

// quantizedExperts covers experts of a quantized type, with rows that are whole blocks and little more.
func (s *suite) quantizedExperts(dtype gpu.DType) {
	const multiple = 8 // what an implementation may want
	elements, _ := dtype.Block()
	block := max(multiple, elements)
	whole := func(n int) int { return (n + block - 1) / block * block }
	for _, c := range []moeCase{
		{tokens: 1, experts: 4, topK: 2, hidden: 200, width: 136},
		{tokens: 1, experts: 40, topK: 8, hidden: 136, width: 72, routing: without0},
		{tokens: 5, experts: 4, topK: 2, hidden: 600, width: 264},
		{tokens: 5, experts: 4, topK: 2, hidden: 200, width: 136, down: gpu.BF16},
		{tokens: 9, experts: 40, topK: 8, hidden: 72, width: 40},
		{tokens: 40, experts: 16, topK: 1, hidden: 200, width: 72, routing: onLast},
		{tokens: 64, experts: 8, topK: 2, hidden: 200, width: 136, routing: without0},
		{tokens: 64, experts: 8, topK: 2, hidden: 72, width: 72, down: gpu.BF16},
		{tokens: 130, experts: 4, topK: 2, hidden: 392, width: 136},
		{tokens: 300, experts: 4, topK: 1, hidden: 136, width: 40, routing: onLast},
	} {
		c.dtype, c.hidden, c.width = dtype, whole(c.hidden), whole(c.width)
		s.moeExperts(c)
	}
}

// expert returns a matrix of an expert and what it holds.
func (s *suite) expert(dtype gpu.DType, n, k int) (gpu.Tensor, []float32) {
	s.Helper()
	if !dtype.Quantized() {
		values := s.normal(dtype, n*k, 1/math.Sqrt(float64(k)))
		return s.pack(dtype, values, n, k), values
	}
	raw, values := s.blocks(dtype, n, k)
	t, ok := s.packBlocks(dtype, raw, n, k)
	if !ok {
		s.Fatalf("Info().Experts lists %v, which the device does not pack", dtype)
	}
	return t, values
}

// rms is the root mean square.
func rms(values []float32) float64 {
	sum := 0.0
	for _, v := range values {
		sum += float64(v) * float64(v)
	}
	return math.Sqrt(sum / float64(len(values)))
}

// moeExperts compares all tokens' results with the reference, and then some tokens alone and some together with all, which may
// change no bit.
func (s *suite) moeExperts(c moeCase) {
	s.Helper()
	gateUp, down := make([][]float32, c.experts), make([][]float32, c.experts)
	var args gpu.MoEExperts
	for e := range c.experts {
		var in, out gpu.Tensor
		in, gateUp[e] = s.expert(c.dtype, 2*c.width, c.hidden)
		out, down[e] = s.expert(cmp.Or(c.down, c.dtype), c.hidden, c.width)
		args.GateUp, args.Down = append(args.GateUp, in), append(args.Down, out)
	}
	spread := 1 / (rms(gateUp[0]) * math.Sqrt(float64(c.hidden))) // of activations, which makes that of gates 1
	x, old := s.normal(s.compute, c.tokens*c.hidden, spread), s.normal(s.compute, c.tokens*c.hidden, 1)
	chosen, weights := ref.MoERoute(c.routing.logits(s, c.tokens, c.experts), c.experts, c.topK, true)
	pairs := c.tokens * c.topK
	args.X, args.Act, args.Out = s.act(x, c.tokens, c.hidden), gpu.SiLU, s.act(old, c.tokens, c.hidden)
	args.Experts, args.Weights = s.ints(chosen, c.tokens, c.topK), s.put(gpu.F32, weights, c.tokens, c.topK)
	args.Hidden, args.Scratch = s.poison(s.compute, pairs, 2*c.width), s.poison(s.compute, pairs, c.width)
	s.launch(gpu.OpMoEExperts, &args)
	want := ref.MoEExperts(old, x, c.hidden, c.width, gateUp, down, chosen, weights, ref.SiLU)
	steps, size := 64.0, max(1, rms(want))
	switch {
	case s.compute != gpu.F32:
		steps = 4 // between the products and at the end
	case c.dtype.Quantized():
		steps = 0.2 / ref.Epsilon(s.compute) // activations may be rounded to 8 bits before each product
	}
	s.near(c.String(), s.get(args.Out), want, size, steps)
	for _, part := range [][2]int{{0, 1}, {c.tokens - 1, c.tokens}, {c.tokens / 3, (c.tokens + 1) / 2}} {
		from, to := part[0], part[1]
		some := args
		some.X, some.Experts, some.Weights = args.X.Slice(from, to), args.Experts.Slice(from, to), args.Weights.Slice(from, to)
		some.Hidden, some.Scratch = args.Hidden.Slice(0, (to-from)*c.topK), args.Scratch.Slice(0, (to-from)*c.topK)
		some.Out = s.act(old[from*c.hidden:to*c.hidden], to-from, c.hidden)
		s.launch(gpu.OpMoEExperts, &some)
		s.sameRows(fmt.Sprintf("%v: tokens %d to %d by themselves", c, from, to-1), s.get(some.Out), s.get(args.Out.Slice(from, to)), 1)
	}
	s.free()
}
