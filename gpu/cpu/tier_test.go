package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
)

func eachTier(t *testing.T, f func(t *testing.T, tr *tier)) {
	for _, tr := range tiers() {
		t.Run(tr.name, func(t *testing.T) { f(t, tr) })
	}
}

func random(rng *rand.Rand, n int, spread float64) []float32 {
	out := make([]float32, n)
	for i := range out {
		out[i] = float32(rng.NormFloat64() * spread)
	}
	return out
}

// ulps is the distance from the exact value in units in the last place of float32.
func ulps(got float32, want float64) float64 {
	nearest := float32(want)
	step := math.Abs(float64(math.Nextafter32(nearest, math.MaxFloat32)) - float64(nearest))
	return math.Abs(float64(got)-want) / step
}

// TestExpAccuracy sweeps the whole range on every tier.
func TestExpAccuracy(t *testing.T) {
	eachTier(t, func(t *testing.T, tr *tier) {
		const n = 1 << 16
		worst, at := 0.0, float32(0)
		x := make([]float32, n)
		for _, span := range [][2]float64{{-87.3, 88.3}, {-1, 1}, {-1e-3, 1e-3}} {
			in := make([]float32, n)
			for i := range in {
				in[i] = float32(span[0] + (span[1]-span[0])*float64(i)/(n-1))
			}
			copy(x, in)
			tr.expShift(x, 0)
			for i := range x {
				if e := ulps(x[i], math.Exp(float64(in[i]))); e > worst {
					worst, at = e, in[i]
				}
			}
		}
		t.Logf("worst error %.2f ulp, at %v", worst, at)
		if worst > 2 {
			t.Errorf("exp(%v) is off by %.2f ulp", at, worst)
		}
	})
}

func TestExpEdges(t *testing.T) {
	inf := float32(math.Inf(1))
	eachTier(t, func(t *testing.T, tr *tier) {
		x := make([]float32, 32)
		for i, v := range []float32{0, -inf, -88, -200, -3e38, 0, float32(math.NaN())} {
			x[i] = v
		}
		tr.expShift(x, 0)
		want := []float32{1, 0, 0, 0, 0, 1}
		for i, w := range want {
			if x[i] != w {
				t.Errorf("element %d: %v, want %v", i, x[i], w)
			}
		}
		if x[6] == x[6] {
			t.Errorf("exp(NaN) = %v", x[6])
		}
		x[6] = 700
		if tr.expShift(x, 0); !(x[6] > 2e38) {
			t.Errorf("exp(700) = %v, want a very large number", x[6])
		}
		for i := range x {
			x[i] = 3
		}
		if sum := tr.expShift(x, 3); sum != 32 {
			t.Errorf("the sum of 32 times exp(3-3) is %v", sum)
		}
	})
}

// TestTwins holds every loop of every tier to its portable twin.
func TestTwins(t *testing.T) {
	eachTier(t, func(t *testing.T, tr *tier) {
		rng := rand.New(rand.NewPCG(3, 4))
		for round := range 40 {
			size := 16 * (1 + rng.IntN(20))
			x, y := random(rng, size, 5), random(rng, size, 1)
			for act := range tr.gates {
				got, want := make([]float32, size), make([]float32, size)
				tr.gates[act](got, x, y)
				goTier.gates[act](want, x, y)
				close32(t, fmt.Sprintf("gate %d", act), got, want, 1e-5)
			}
			v, nan := tr.largest(x)
			if w, _ := largest(x); v != w || nan {
				t.Fatalf("largest of %d: %v %v, want %v", size, v, nan, w)
			}
			x[round%size] = float32(math.NaN())
			if _, nan := tr.largest(x); !nan {
				t.Fatalf("largest misses the NaN at %d of %d", round%size, size)
			}
			odd := random(rng, 1+rng.IntN(70), 3)
			if got, want := tr.squares(odd), squares(odd); math.Abs(got-want) > 1e-12*want {
				t.Fatalf("squares of %d: %v, want %v", len(odd), got, want)
			}
			exact(t, "scaleRow", odd, func(tr *tier, out []float32) { tr.scaleRow(out, odd, odd, 0.7, 1) }, tr)
			exact(t, "addTo", odd, func(tr *tier, out []float32) { tr.addTo(out, odd) }, tr)
			heads, angles := 1+rng.IntN(5), 1+rng.IntN(40)
			rows := random(rng, heads*(2*angles+round%3), 1)
			cos, sin := random(rng, angles, 1), random(rng, angles, 1)
			exact(t, "rotate", rows, func(tr *tier, out []float32) {
				copy(out, rows)
				tr.rotate(out, cos, sin, len(rows)/heads)
			}, tr)
			four := [4][]float32{random(rng, len(odd), 1), random(rng, len(odd), 1), random(rng, len(odd), 1), random(rng, len(odd), 1)}
			exact(t, "interleave4", make([]float32, 7*len(odd)), func(tr *tier, out []float32) {
				tr.interleave4(out[2:], 7, four[0], four[1], four[2], four[3])
			}, tr)
			marks, wantMarks := make([]byte, size/8), make([]byte, size/8)
			for i := range y {
				y[i] = max(0, y[i])
			}
			key, bound := rng.Uint64(), rng.Float64()*0x1p52
			tr.chances(marks, y, key, int32(round), bound)
			chances(wantMarks, y, key, int32(round), bound)
			if string(marks) != string(wantMarks) {
				t.Fatalf("chances of %d: %x, want %x", size, marks, wantMarks)
			}
			whole := random(rng, size, 3)
			if got, want := tr.massAbove(whole, y, 0.5), massAbove(whole, y, 0.5); math.Abs(got-want) > 1e-12*float64(size) {
				t.Fatalf("massAbove of %d: %v, want %v", size, got, want)
			}
			exact(t, "divide", whole, func(tr *tier, out []float32) { copy(out, whole); tr.divide(out, 0.7) }, tr)
		}
	})
}

func close32(t *testing.T, what string, got, want []float32, limit float64) {
	t.Helper()
	for i := range want {
		if diff := math.Abs(float64(got[i]) - float64(want[i])); !(diff <= limit*max(1, math.Abs(float64(want[i])))) {
			t.Fatalf("%s: element %d is %v, want %v", what, i, got[i], want[i])
		}
	}
}

// exact runs f on a tier and on its twin, which must agree bit for bit.
func exact(t *testing.T, what string, like []float32, f func(tr *tier, out []float32), tr *tier) {
	t.Helper()
	got, want := make([]float32, len(like)), make([]float32, len(like))
	f(tr, got)
	f(&goTier, want)
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%s: element %d of %d is %v, want exactly %v", what, i, len(want), got[i], want[i])
		}
	}
}

// TestTilesAgree: within a tier, every tile gives a token the same bits, with all panels at
// once or one at a time, in one call or in two along k.
func TestTilesAgree(t *testing.T) {
	const k, panels = 75, 8
	rng := rand.New(rand.NewPCG(5, 6))
	raw := make([]byte, panels*k*panelRows*4)
	eachTier(t, func(t *testing.T, tr *tier) {
		for dtype, kernels := range tr.tiles {
			size := dtype.Size()
			data := raw[:panels*k*panelRows*size]
			for i := range data {
				data[i] = byte(rng.Uint32())
				if i%size == size-1 {
					data[i] &= 0xbb // keep the exponent small
				}
			}
			stride := k * panelRows * size
			x := random(rng, k, 1)
			want := make([]float32, panels*panelRows)
			for p := range panels {
				kernels[0].one(&want[p*panelRows], 0, &data[p*stride], uintptr(stride), &x[0], k, panelSet)
			}
			for _, tile := range kernels {
				wide := make([]float32, k*tile.tokens)
				for i, v := range x {
					for token := range tile.tokens {
						wide[i*tile.tokens+token] = v
					}
				}
				sums := make([]float32, tile.tokens*tile.panels*panelRows)
				const first = 30
				row := uintptr(4 * tile.panels * panelRows)
				tile.many(&sums[0], row, &data[0], uintptr(stride), &wide[0], first, panelSet)
				tile.many(&sums[0], row, &data[first*panelRows*size], uintptr(stride), &wide[first*tile.tokens], k-first, panelResume)
				added := slices.Clone(sums)
				tile.many(&added[0], row, &data[0], uintptr(stride), &wide[0], k, panelAdd)
				for i, got := range sums {
					if w := want[i%(tile.panels*panelRows)]; math.Float32bits(got) != math.Float32bits(w) {
						t.Fatalf("%v %dx%d: sum %d is %v, want exactly %v", dtype, tile.tokens, tile.panels, i, got, w)
					}
					if math.Float32bits(added[i]) != math.Float32bits(got+got) {
						t.Fatalf("%v %dx%d: sum %d added to itself is %v, want %v", dtype, tile.tokens, tile.panels, i, added[i], got+got)
					}
				}
			}
		}
	})
}

func TestHalf(t *testing.T) {
	for h := range 1 << 16 {
		exponent, fraction := h>>10&31, float64(h&0x3ff)
		want := math.Ldexp(1+fraction/1024, exponent-15)
		switch {
		case exponent == 0:
			want = fraction * 0x1p-24
		case exponent == 31 && fraction == 0:
			want = math.Inf(1)
		case exponent == 31:
			want = math.NaN()
		}
		if h>>15 == 1 {
			want = -want
		}
		got := float64(f16(uint16(h)))
		if math.Float64bits(got) != math.Float64bits(want) && (got == got || want == want) {
			t.Fatalf("f16(%#04x) = %v, want %v", h, got, want)
		}
	}
}

// TestNarrow: the nearest bfloat16, in every tier.
func TestNarrow(t *testing.T) {
	var x []float32
	for h := range 1 << 16 {
		for _, low := range []uint32{0, 1, 0x7fff, 0x8000, 0x8001, 0xffff} {
			x = append(x, math.Float32frombits(uint32(h)<<16|low))
		}
	}
	eachTier(t, func(t *testing.T, tr *tier) {
		got := make([]uint16, len(x))
		tr.narrow(got, x)
		for i, v := range x {
			below, low := uint16(i/6), []float64{0, 1, 0x7fff, 0x8000, 0x8001, 0xffff}[i%6]
			want := below
			if low > 0x8000 || low == 0x8000 && below&1 == 1 {
				want++
			}
			if v != v {
				if w := bf16(got[i]); w == w {
					t.Fatalf("NaN %#08x became %#04x", math.Float32bits(v), got[i])
				}
			} else if got[i] != want {
				t.Fatalf("%#08x became %#04x, want %#04x", math.Float32bits(v), got[i], want)
			}
		}
		odd := make([]uint16, 21)
		tr.narrow(odd, x[6*0x3f80:][:21])
		if !slices.Equal(odd, got[6*0x3f80:][:21]) {
			t.Fatalf("21 elements became %x", odd)
		}
	})
}

func TestTanh(t *testing.T) {
	for x := float32(-12); x < 12; x += 0.001 {
		if got, want := float64(tanh32(x)), math.Tanh(float64(x)); math.Abs(got-want) > 4e-7*math.Abs(want) {
			t.Fatalf("tanh(%v) = %v, want %v", x, got, want)
		}
	}
}

func TestPlanTilesCoversEveryToken(t *testing.T) {
	for _, tr := range tiers() {
		kernels := tr.tiles[gpu.BF16]
		for tokens := 1; tokens < 200; tokens++ {
			next, at := 0, 0
			for _, r := range planTiles(nil, kernels, tokens) {
				if r.start != next || r.at != at || r.tokens < 1 || r.tokens > r.tile.tokens {
					t.Fatalf("%s, %d tokens: tile %+v after %d", tr.name, tokens, r, next)
				}
				next += r.tokens
				at += r.tile.tokens
			}
			if next != tokens || at > tokens+1 {
				t.Fatalf("%s: %d tokens planned as %d in %d", tr.name, tokens, next, at)
			}
		}
	}
}
