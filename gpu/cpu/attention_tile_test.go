package cpu

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"unsafe"
)

// TestAttentionTwins holds the attention kernels of every tier to their portable twins, and those of many rows to the bits of
// the one with a single row.
func TestAttentionTwins(t *testing.T) {
	eachTier(t, func(t *testing.T, tr *tier) {
		rng := rand.New(rand.NewPCG(5, 6))
		for range 12 {
			dim, pages := 16*(1+rng.IntN(10)), 1+rng.IntN(tilePages)
			n := pages * pageKeys
			for format := range kvFormats {
				raw := pagesOf(rng, format, pages, dim)
				keys, want := make([]float32, n*dim), make([]float32, n*dim)
				values := make([]*byte, pages)
				for i := range pages {
					values[i] = &raw[i*len(raw)/pages]
					tr.transpose[format](&keys[i*pageKeys*dim], values[i], values[i], dim)
					goTier.transpose[format](&want[i*pageKeys*dim], values[i], values[i], dim)
				}
				if !slices.Equal(keys, want) {
					t.Fatalf("transpose of format %d, %d pages of %d", format, pages, dim)
				}
				for i := range tr.rows {
					rowsTwin(t, rng, tr, &tr.rows[i], format, keys, values, dim)
				}
			}
		}
	})
}

// pagesOf makes keys or values of a format.
func pagesOf(rng *rand.Rand, format kvFormat, pages, dim int) []byte {
	values := random(rng, pages*pageKeys*dim, 1)
	if format == kvF32 {
		return unsafe.Slice((*byte)(unsafe.Pointer(&values[0])), 4*len(values))
	}
	if format == kvI8 {
		raw := make([]byte, pages*pageKeys*(dim+scaleBytes))
		for i := range pages * pageKeys {
			storeCodes(&goTier, raw[i*(dim+scaleBytes):][:dim+scaleBytes], values[i*dim:][:dim])
		}
		return raw
	}
	half := make([]uint16, len(values))
	for i, v := range values {
		half[i] = uint16(math.Float32bits(v) >> 16)
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&half[0])), 2*len(half))
}

// TestCodesTwins: every tier rounds keys and values to the same codes, and says the same of what has none.
func TestCodesTwins(t *testing.T) {
	eachTier(t, func(t *testing.T, tr *tier) {
		rng := rand.New(rand.NewPCG(7, 8))
		for i := range 60 {
			x := random(rng, 1+rng.IntN(80), math.Pow(10, float64(rng.IntN(20)-10)))
			if i%3 == 0 {
				x = random(rng, 16*(1+i/6), 1)
			}
			switch i % 7 {
			case 1:
				x[rng.IntN(len(x))] = float32(math.NaN())
			case 2:
				x[rng.IntN(len(x))] = float32(math.Inf(-1))
			case 3:
				clear(x)
			}
			got, want := make([]byte, len(x)+scaleBytes), make([]byte, len(x)+scaleBytes)
			storeCodes(tr, got, x)
			storeCodes(&goTier, want, x)
			codes, scale := rowI8(&got[0], 0, len(x))
			if finite := i%7 != 1 && i%7 != 2; finite && !slices.Equal(got, want) || !finite && scale == scale {
				t.Fatalf("%v: codes %v and scale %v, want %v", x, codes, scale, want)
			}
			for j, q := range codes {
				if diff := math.Abs(float64(float32(q)*scale - x[j])); diff > 0.501*float64(scale) {
					t.Fatalf("%v became %v", x[j], float32(q)*scale)
				}
			}
		}
	})
}

func rowsTwin(t *testing.T, rng *rand.Rand, tr *tier, kernel *rowKernel, format kvFormat, keys []float32, values []*byte, dim int) {
	t.Helper()
	rows, pages := kernel.rows, len(values)
	n, what := pages*pageKeys, fmt.Sprintf("%d rows, format %d, %d keys of %d", kernel.rows, format, pages*pageKeys, dim)
	q := random(rng, rows*dim, 1)
	scores, want, single := make([]float32, rows*tileKeys), make([]float32, rows*tileKeys), make([]float32, rows*tileKeys)
	kernel.scores(&scores[0], &q[0], &keys[0], pages, dim, 0.3)
	for r := range rows {
		scoresRow(&want[r*tileKeys], &q[r*dim], &keys[0], pages, dim, 0.3)
		tr.rows[0].scores(&single[r*tileKeys], &q[r*dim], &keys[0], pages, dim, 0.3)
	}
	close32(t, "scores of "+what, scores, want, 1e-5*math.Sqrt(float64(dim)))
	if !slices.Equal(scores, single) {
		t.Fatalf("scores of %s: not the bits of single rows", what)
	}

	sums, largest, correction := random(rng, rows*pageKeys, 1), random(rng, rows, 1), make([]float32, rows)
	wantSums, wantLargest, wantCorrection := slices.Clone(sums), slices.Clone(largest), make([]float32, rows)
	tr.softmax(&scores[0], n, &sums[0], &largest[0], &correction[0], rows)
	softmaxRows(&want[0], n, &wantSums[0], &wantLargest[0], &wantCorrection[0], rows)
	close32(t, "weights of "+what, scores, want, 2e-5*math.Sqrt(float64(dim)))
	close32(t, "sums of "+what, sums, wantSums, 1e-4*math.Sqrt(float64(dim)))
	close32(t, "largest of "+what, largest, wantLargest, 1e-5*math.Sqrt(float64(dim)))
	close32(t, "corrections of "+what, correction, wantCorrection, 2e-5*math.Sqrt(float64(dim)))

	first := rng.IntN(pageKeys)
	count := 1 + rng.IntN(n-first)
	mixed := random(rng, rows*dim, 1)
	wantMixed, singleMixed := slices.Clone(mixed), slices.Clone(mixed)
	kernel.mix[format](&mixed[0], &correction[0], &scores[0], &values[0], first, count, dim)
	for r := range rows {
		goTier.rows[0].mix[format](&wantMixed[r*dim], &correction[r], &scores[r*tileKeys], &values[0], first, count, dim)
		tr.rows[0].mix[format](&singleMixed[r*dim], &correction[r], &scores[r*tileKeys], &values[0], first, count, dim)
	}
	close32(t, "mix of "+what, mixed, wantMixed, 1e-5*float64(n))
	if !slices.Equal(mixed, singleMixed) {
		t.Fatalf("mix of %s: not the bits of single rows", what)
	}
}
