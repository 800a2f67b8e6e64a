package gputest

import (
	"fmt"
	"math"

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
	dtype                                gpu.DType
}

func (c moeCase) String() string {
	return fmt.Sprintf("%d tokens, top %d of %d experts [%d, %d] in %v, routing %d", c.tokens, c.topK, c.experts, c.hidden, c.width, c.dtype, c.routing)
}

// testMoEExperts covers experts with one token and with hundreds, with none and with all of them.
func testMoEExperts(s *suite) {
	for _, tokens := range []int{1, 2, 13, 40} {
		for _, topK := range []int{1, 3} {
			s.moeExperts(moeCase{tokens, 5, topK, 48, 37, spread, gpu.BF16})
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
}

// moeExperts compares all tokens' results with the reference, and then some tokens alone and some together with all, which may
// change no bit.
func (s *suite) moeExperts(c moeCase) {
	s.Helper()
	gateUp, down := make([][]float32, c.experts), make([][]float32, c.experts)
	x, old := s.normal(s.compute, c.tokens*c.hidden, 1), s.normal(s.compute, c.tokens*c.hidden, 1)
	chosen, weights := ref.MoERoute(c.routing.logits(s, c.tokens, c.experts), c.experts, c.topK, true)
	pairs := c.tokens * c.topK
	args := gpu.MoEExperts{X: s.act(x, c.tokens, c.hidden), Act: gpu.SiLU, Experts: s.ints(chosen, c.tokens, c.topK), Weights: s.put(gpu.F32, weights, c.tokens, c.topK),
		Hidden: s.poison(s.compute, pairs, 2*c.width), Scratch: s.poison(s.compute, pairs, c.width), Out: s.act(old, c.tokens, c.hidden)}
	for e := range c.experts {
		gateUp[e] = s.normal(c.dtype, 2*c.width*c.hidden, 1/math.Sqrt(float64(c.hidden)))
		down[e] = s.normal(c.dtype, c.hidden*c.width, 1/math.Sqrt(float64(c.width)))
		args.GateUp = append(args.GateUp, s.pack(c.dtype, gateUp[e], 2*c.width, c.hidden))
		args.Down = append(args.Down, s.pack(c.dtype, down[e], c.hidden, c.width))
	}
	s.launch(gpu.OpMoEExperts, &args)
	want := ref.MoEExperts(old, x, c.hidden, c.width, gateUp, down, chosen, weights, ref.SiLU)
	steps := 64.0
	if s.compute != gpu.F32 {
		steps = 4 // between the products and at the end
	}
	s.near(c.String(), s.get(args.Out), want, 1, steps)
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
