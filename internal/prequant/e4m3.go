package prequant

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
)

// e4m3Max is the largest 8-bit float with 4 bits of exponent.
const e4m3Max = 448

// e4m3Values are the 8-bit floats by their bits. Micikevicius et al. 2022, arXiv:2209.05433.
var e4m3Values = func() (values [256]float32) {
	for b := range values {
		exponent, fraction := b>>3&15, float64(b&7)
		v := math.Ldexp(8+fraction, exponent-10)
		switch {
		case b&0x7f == 0x7f:
			v = math.NaN()
		case exponent == 0:
			v = math.Ldexp(fraction, -9)
		}
		values[b] = float32(math.Copysign(v, 1-2*float64(b>>7)))
	}
	return values
}()

// e8m0 is a power of two from its exponent of 8 bits: the scales of the OCP Microscaling formats, version 1.0.
func e8m0(exponent byte) float32 {
	if exponent == 0xff {
		return float32(math.NaN())
	}
	return float32(math.Ldexp(1, int(exponent)-127))
}

// toE4M3 rounds a number of at most e4m3Max in size to the nearest, ties to even.
func toE4M3(v float32) byte {
	bits := math.Float32bits(v)
	sign, size := byte(bits>>24&0x80), math.Float32frombits(bits&0x7fffffff)
	if size < 0x1p-6 { // subnormal: steps of 2^-9
		return sign | byte(math.RoundToEven(float64(size)*512))
	}
	bits = bits & 0x7fffffff
	bits += 0x7ffff + bits>>20&1
	return sign | byte(bits>>20-(127-7)<<3)
}

// QuantizeE4M3 rounds rows of k float32 to 8-bit floats, each row with the scale that makes its largest element the
// largest of them, in the form of gpu.E4M3. It uses all processors. A row that has an element that is no finite
// number is an error that names it.
func QuantizeE4M3(rows []byte, k int) ([]byte, error) {
	const size, scaleBytes = 4, 4
	n := len(rows) / (k * size)
	out := make([]byte, n*(k+scaleBytes))
	return out, eachRow(n, func(r int) error {
		return quantizeRow(out[r*(k+scaleBytes):][:k+scaleBytes], rows[r*k*size:][:k*size])
	})
}

func quantizeRow(out, row []byte) error {
	k := len(row) / 4
	at := func(i int) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(row[4*i:])) }
	largest := float32(0)
	for i := range k {
		v := at(i)
		if v-v != 0 {
			return fmt.Errorf("column %d is %v, which an 8-bit float cannot hold", i, v)
		}
		largest = max(largest, float32(math.Abs(float64(v))))
	}
	scale := largest / e4m3Max
	if scale == 0 { // also where the quotient is too small for a float32
		scale = 1
	}
	for i := range k {
		out[i] = toE4M3(min(max(at(i)/scale, -e4m3Max), e4m3Max))
	}
	binary.LittleEndian.PutUint32(out[k:], math.Float32bits(scale))
	return nil
}

// eachRow calls do for n rows, on all processors, and says which row an error is of.
func eachRow(n int, do func(r int) error) error {
	workers := min(runtime.GOMAXPROCS(0), n)
	errs := make([]error, workers)
	var wait sync.WaitGroup
	for w := range workers {
		wait.Go(func() {
			for r := n * w / workers; r < n*(w+1)/workers; r++ {
				if err := do(r); err != nil {
					errs[w] = fmt.Errorf("row %d: %w", r, err)
					return
				}
			}
		})
	}
	wait.Wait()
	return errors.Join(errs...)
}
