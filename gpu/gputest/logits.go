package gputest

import (
	"math"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

func testEditLogits(s *suite) {
	const rows = 4
	negative := float32(math.Inf(-1))
	for _, vocab := range []int{1, 31, 64, 5000} {
		logits := s.normal(gpu.F32, rows*vocab, 5)
		var edits []gpu.LogitEdit
		for t := 0; t < vocab; t += 1 + s.rng.IntN(40) {
			edits = append(edits, gpu.LogitEdit{Row: 1, Token: int32(t), Scale: 1.3, Add: float32(t) / 100},
				gpu.LogitEdit{Row: 3, Token: int32(t), Scale: 1, Add: negative})
		}
		var masks []gpu.LogitMask
		for _, row := range []int32{3, 0} { // row 3 is edited and masked
			allowed := make([]uint32, (vocab+31)/32)
			for w := range allowed {
				allowed[w] = [...]uint32{s.rng.Uint32(), 0, math.MaxUint32}[s.rng.IntN(3)]
			}
			masks = append(masks, gpu.LogitMask{Row: row, Allowed: allowed})
		}
		in := s.put(gpu.F32, logits, rows, vocab)
		s.launch(gpu.OpEditLogits, &gpu.EditLogits{Logits: in, Edits: edits, Masks: masks})
		for _, e := range edits {
			at := int(e.Row)*vocab + int(e.Token)
			e.Token = 0
			ref.EditLogits(logits[at:at+1], []gpu.LogitEdit{e}, nil)
		}
		for _, m := range masks {
			ref.EditLogits(logits[int(m.Row)*vocab:][:vocab], nil, m.Allowed)
		}
		for i, got := range s.get(in) {
			if diff := math.Abs(float64(got - logits[i])); got != logits[i] && !(diff <= 1e-6*max(1, math.Abs(float64(got)))) {
				s.Fatalf("vocabulary %d: row %d, token %d: %v, want %v", vocab, i/vocab, i%vocab, got, logits[i])
			}
		}
		s.launch(gpu.OpEditLogits, &gpu.EditLogits{Logits: in}) // nothing to do
		s.free()
	}
}

func testTopTokens(s *suite) {
	const rows = 3
	for _, vocab := range []int{1, 7, 5000} {
		for _, k := range []int{0, 1, 5, gpu.TopTokensMax} {
			logits := s.normal(gpu.F32, rows*vocab, 5)
			for i := range logits[:vocab] { // ties
				logits[i] = float32(int(logits[i]) / 4)
			}
			logits[len(logits)-1] = float32(math.NaN())
			first := s.below(rows, vocab)
			out := s.ints(make([]int32, rows*(1+k)), rows, 1+k)
			top := gpu.TopTokens{Out: out, First: s.ints(first), Logits: s.put(gpu.F32, logits, rows, vocab)}
			s.launch(gpu.OpTopTokens, &top)
			var want, ranks []int32
			for r := range rows {
				tokens, rank := ref.TopTokens(logits[r*vocab:][:vocab], first[r], k)
				want, ranks = append(want, tokens...), append(ranks, rank)
			}
			s.sameInts("top tokens", s.getInts(out), want)
			top.Rank = s.ints(make([]int32, rows))
			s.launch(gpu.OpTopTokens, &top)
			s.sameInts("top tokens beside ranks", s.getInts(out), want)
			s.sameInts("ranks", s.getInts(top.Rank), ranks)
			s.free()
		}
	}
}
