package gguf

import (
	"math"
	"math/rand/v2"
	"testing"
)

// blockError is the sum of squared errors of one block that a quantizer made.
func blockError(t *testing.T, quantize Quantizer, to Type, block []float32) float64 {
	t.Helper()
	packed, err := quantize(to, nil, block)
	if err != nil {
		t.Fatal(err)
	}
	back := make([]float32, len(block))
	Dequantize(to, back, packed)
	sum := 0.0
	for i, v := range block {
		sum += (float64(v) - float64(back[i])) * (float64(v) - float64(back[i]))
	}
	return sum
}

// TestFit: no block is worse than the reference implementation's, blocks together are clearly better, and a block that
// the type can hold exactly stays exact.
func TestFit(t *testing.T) {
	rng := rand.New(rand.NewPCG(21, 22))
	for to, atMost := range map[Type]float64{Q8_0: 0.8, Q4_1: 0.85} {
		plain, fitted := 0.0, 0.0
		for n := range 2000 {
			block := make([]float32, fitLen)
			for i := range block {
				block[i] = float32(rng.NormFloat64() * math.Pow(10, float64(n%7-5)))
			}
			if n%5 == 0 {
				block[n%fitLen] *= 30 // an outlier
			}
			reference, searched := blockError(t, Quantize, to, block), blockError(t, QuantizeFit, to, block)
			if searched > reference*(1+1e-5) {
				t.Fatalf("%v: the squared error of block %d is %g, Quantize has %g", to, n, searched, reference)
			}
			scale := math.Pow(10, -2*float64(n%7-5))
			plain, fitted = plain+scale*reference, fitted+scale*searched
		}
		t.Logf("%v: %.3f of the squared error", to, fitted/plain)
		if fitted > atMost*plain {
			t.Errorf("%v: %.3f of Quantize's squared error, want at most %.2f", to, fitted/plain, atMost)
		}
		exact := make([]float32, fitLen)
		for i := range exact {
			exact[i] = float32(i%16) - 8
		}
		if to == Q8_0 {
			exact[0] = 127
		}
		if e := blockError(t, QuantizeFit, to, exact); e != 0 {
			t.Errorf("%v: a block that it can hold has the error %g", to, e)
		}
	}
}

// TestFitOddBlocks: zeros, one value, tiny and huge ones.
func TestFitOddBlocks(t *testing.T) {
	for _, to := range []Type{Q8_0, Q4_1} {
		for _, v := range []float32{0, 1, -3, 1e-8, 6e4, -6e4, float32(math.Copysign(0, -1))} {
			block := make([]float32, fitLen)
			for i := range block {
				block[i] = v
			}
			reference, searched := blockError(t, Quantize, to, block), blockError(t, QuantizeFit, to, block)
			if searched > reference || math.IsNaN(searched) {
				t.Errorf("%v: error %g for a block of %g, Quantize has %g", to, searched, v, reference)
			}
		}
		block := make([]float32, 2*fitLen)
		block[40] = float32(math.NaN())
		if _, err := QuantizeFit(to, nil, block); err == nil {
			t.Errorf("%v: NaN is accepted", to)
		}
	}
}
