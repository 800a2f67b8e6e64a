package ref

import (
	"math"
	"testing"
)

// The first outputs of SplitMix64 seeded with 1234567, from the reference C program
// (Vigna, https://prng.di.unimi.it/splitmix64.c).
func TestNoiseBitsIsSplitMix64(t *testing.T) {
	want := []uint64{6457827717110365317, 3203168211198807973, 9817491932198370423}
	for id, w := range want {
		if got := NoiseBits(1234567, int32(id)); got != w {
			t.Errorf("output %d: %d, want %d", id, got, w)
		}
	}
}

// Fixed values that every backend must reproduce bit for bit.
func TestNoiseKeyIsStable(t *testing.T) {
	if a, b := NoiseKey(42, 7), NoiseKey(42, 8); a == b || a != NoiseKey(42, 7) {
		t.Fatalf("keys %x %x", a, b)
	}
	if lo, hi := Uniform(0), Uniform(math.MaxUint64); lo != 0x1p-53 || hi != 1-0x1p-53 {
		t.Fatalf("uniform range %v..%v", lo, hi)
	}
}

// Gumbel-max must draw token i with probability softmax(logits)[i].
func TestSampleRowFollowsSoftmax(t *testing.T) {
	logits := []float32{0.5, 2, -1, 1}
	const draws = 20000
	counts := make([]float64, len(logits))
	for p := range int32(draws) {
		counts[SampleRow(logits, 0.8, 1, 0, 0, 9, p)]++
	}
	scaled := make([]float32, len(logits))
	for i, v := range logits {
		scaled[i] = v / 0.8
	}
	for i, p := range softmax(scaled) {
		if sd := math.Sqrt(p * (1 - p) / draws); math.Abs(counts[i]/draws-p) > 5*sd {
			t.Errorf("token %d drawn %.4f of the time, want %.4f", i, counts[i]/draws, p)
		}
	}
}

func TestSampleRowFilters(t *testing.T) {
	nan := float32(math.NaN())
	inf := float32(math.Inf(1))
	// softmax: 0.5 0.25 0.125 0.125
	log := func(p float64) float32 { return float32(math.Log(p)) }
	row := []float32{log(0.125), log(0.5), log(0.125), log(0.25)}
	cases := []struct {
		name                    string
		row                     []float32
		temperature, topP, minP float32
		topK                    int32
		want                    map[int32]bool
	}{
		{"greedy ties to the lowest id", []float32{1, 3, 3}, 0, 1, 0, 0, map[int32]bool{1: true}},
		{"nan", []float32{1, nan}, 1, 1, 0, 0, map[int32]bool{-1: true}},
		{"infinite", []float32{1, inf, inf}, 1, 1, 0, 0, map[int32]bool{1: true}},
		{"next to zero temperature", []float32{5, 6}, 1e-40, 1, 0, 0, map[int32]bool{1: true}},
		{"everything masked", []float32{-inf, -inf}, 1, 1, 0, 0, map[int32]bool{0: true}},
		{"top-k", row, 1, 1, 0, 2, map[int32]bool{1: true, 3: true}},
		{"top-k ties to the lower id", row, 1, 1, 0, 3, map[int32]bool{0: true, 1: true, 3: true}},
		{"top-p", row, 1, 0.7, 0, 0, map[int32]bool{1: true, 3: true}},
		{"top-p leaves one", row, 1, 0, 0, 0, map[int32]bool{1: true}},
		{"min-p", row, 1, 1, 0.4, 0, map[int32]bool{1: true, 3: true}},
		{"top-p of what min-p leaves", row, 1, 0.6, 0.4, 0, map[int32]bool{1: true}},
	}
	for _, c := range cases {
		got := map[int32]bool{}
		for p := range int32(300) {
			got[SampleRow(c.row, c.temperature, c.topP, c.minP, c.topK, 1, p)] = true
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: drew %v, want %v", c.name, got, c.want)
		}
		for id := range c.want {
			if !got[id] {
				t.Errorf("%s: drew %v, want %v", c.name, got, c.want)
			}
		}
	}
}

func TestLogSoftmax(t *testing.T) {
	got := LogSoftmax([]float32{0, float32(math.Log(3))}, []int32{1, 0})
	if math.Abs(float64(got[0])-math.Log(0.75)) > 1e-7 || math.Abs(float64(got[1])-math.Log(0.25)) > 1e-7 {
		t.Fatalf("%v", got)
	}
}

func TestMoERouteTies(t *testing.T) {
	chosen, weights := MoERoute([]float32{1, 2, 2, 0}, 4, 2, true)
	if chosen[0] != 1 || chosen[1] != 2 || weights[0] != 0.5 || weights[1] != 0.5 {
		t.Fatalf("%v %v", chosen, weights)
	}
}
