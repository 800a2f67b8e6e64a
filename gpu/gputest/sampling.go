package gputest

import (
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

func testSample(s *suite) {
	settings := []gpu.SampleParams{
		{Temperature: 0, TopP: 1},
		{Temperature: 1, TopP: 1},
		{Temperature: 0.7, TopP: 0.9},
		{Temperature: 1.3, TopP: 1, TopK: 5},
		{Temperature: 1, TopP: 0.5, TopK: 40},
		{Temperature: 1, TopP: 1, MinP: 0.05},
		{Temperature: 2, TopP: 0.95, MinP: 0.01, TopK: 100},
		{Temperature: 1, TopP: 0},
		{Temperature: 1e-30, TopP: 1},
		{Temperature: 1e-40, TopP: 1},
		{Temperature: 1, TopP: 0.999999, TopK: 1 << 30},
		{Temperature: 1, TopP: 0.8, MinP: 1},
	}
	for _, vocab := range []int{1, 2, 15, 16, 100, 1000, 33000} {
		spreads := []float64{0.001, 3, 100}
		if vocab > 1000 {
			spreads = spreads[1:2] // the reference sorts
		}
		for _, spread := range spreads {
			logits := make([]float32, 0, len(settings)*vocab)
			for range settings {
				logits = append(logits, s.normal(s.compute, vocab, spread)...)
			}
			s.sample(fmt.Sprintf("vocabulary %d, spread %v", vocab, spread), logits, vocab, settings)
		}
	}
	s.sampleTies(settings)
	s.sampleOdd()
}

// sample checks a batch of rows against the reference, then one row alone against the batch.
func (s *suite) sample(what string, logits []float32, vocab int, settings []gpu.SampleParams) []int32 {
	s.Helper()
	rows := len(settings)
	params := append([]gpu.SampleParams(nil), settings...)
	want := make([]int32, rows)
	wantLast := make([]int32, rows+1)
	for r := range params {
		p := &params[r]
		p.Seed, p.Position, p.Slot = s.rng.Uint64(), int32(s.rng.IntN(4000)), int32(rows-r)
		want[r] = ref.SampleRow(logits[r*vocab:(r+1)*vocab], p.Temperature, p.TopP, p.MinP, p.TopK, p.Seed, p.Position)
		wantLast[p.Slot] = max(0, want[r])
	}
	in := s.put(gpu.F32, logits, rows, vocab)
	out, last := s.ints(make([]int32, rows)), s.ints(make([]int32, rows+1))
	s.launch(gpu.OpSample, &gpu.Sample{Logits: in, Params: params, Out: out, LastToken: last})
	got := s.getInts(out)
	for r := range want {
		if got[r] != want[r] {
			s.Fatalf("%s: row %d %+v drew %d, want %d", what, r, params[r], got[r], want[r])
		}
	}
	s.sameInts(what+": LastToken", s.getInts(last), wantLast)
	one := s.ints(make([]int32, 1))
	s.launch(gpu.OpSample, &gpu.Sample{Logits: in.Slice(rows-1, rows), Params: params[rows-1:], Out: one, LastToken: last})
	s.sameInts(what+": a row alone", s.getInts(one), want[rows-1:])
	s.free()
	return got
}

// sampleTies: equal logits, where only the order by id separates tokens.
func (s *suite) sampleTies(settings []gpu.SampleParams) {
	for _, vocab := range []int{40, 3000} {
		logits := make([]float32, len(settings)*vocab)
		s.sample("all equal", logits, vocab, settings)
		for i := range logits {
			logits[i] = float32(s.rng.IntN(3))
		}
		s.sample("three values", logits, vocab, settings)
	}
}

// sampleOdd: NaN, infinities and masked tokens.
func (s *suite) sampleOdd() {
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	random := gpu.SampleParams{Temperature: 1, TopP: 0.9}
	rows := [][]float32{{1, nan, 2}, {nan, nan, nan}, {-inf, 1, 2}, {-inf, -inf, 3}, {1, inf, inf}, {-inf, -inf, -inf}, {2, 2, nan}}
	for _, p := range []gpu.SampleParams{random, {}, {Temperature: 1, TopP: 1, TopK: 3}} {
		var logits []float32
		var settings []gpu.SampleParams
		for _, r := range rows {
			logits = append(logits, r...)
			settings = append(settings, p)
		}
		got := s.sample("odd logits", logits, 3, settings)
		if got[0] != -1 || got[1] != -1 || got[6] != -1 {
			s.Errorf("rows with NaN drew %v, want -1", got)
		}
		if got[3] != 2 {
			s.Errorf("the only unmasked token is 2, drew %d", got[3])
		}
	}
}

func testLogSoftmax(s *suite) {
	const rows, per = 3, 4
	for _, vocab := range []int{1, 33, 5000} {
		logits := s.normal(s.compute, rows*vocab, 5)
		ids := s.below(rows*per, vocab)
		out := s.poison(gpu.F32, rows, per)
		s.launch(gpu.OpLogSoftmax, &gpu.LogSoftmax{Out: out, Logits: s.put(gpu.F32, logits, rows, vocab), IDs: s.ints(ids, rows, per)})
		got := s.get(out)
		for r := range rows {
			for j, want := range ref.LogSoftmax(logits[r*vocab:(r+1)*vocab], ids[r*per:(r+1)*per]) {
				if diff := math.Abs(float64(got[r*per+j] - want)); !(diff <= 4e-6*max(1, math.Abs(float64(want)))) {
					s.Fatalf("vocabulary %d, row %d, id %d: %v, want %v", vocab, r, ids[r*per+j], got[r*per+j], want)
				}
			}
		}
		s.free()
	}
}
