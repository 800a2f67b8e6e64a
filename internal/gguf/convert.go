package gguf

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
)

// Quantizer is the signature of Quantize and QuantizeFit.
type Quantizer func(t Type, dst []byte, src []float32) ([]byte, error)

// ConvertRows fills out with rows of k elements of type to, made of those of type from in in, on all processors, by
// Quantize or QuantizeFit. An error says which row cannot be converted.
func ConvertRows(out []byte, to Type, in []byte, from Type, k int, quantize Quantizer) error {
	size := from.Bytes(k)
	rows := len(in) / size
	if rows*size != len(in) || len(out) != rows*to.Bytes(k) {
		panic(fmt.Sprintf("gguf: ConvertRows of %d bytes of %v to %d of %v, in rows of %d", len(in), from, len(out), to, k))
	}
	workers := min(runtime.GOMAXPROCS(0), rows)
	errs := make([]error, workers)
	var done sync.WaitGroup
	for w := range workers {
		done.Go(func() { errs[w] = convertRows(out, to, in, from, k, quantize, rows*w/workers, rows*(w+1)/workers) })
	}
	done.Wait()
	return errors.Join(errs...)
}

// convertRows converts rows [first, end) in place.
func convertRows(out []byte, to Type, in []byte, from Type, k int, quantize Quantizer, first, end int) error {
	values := make([]float32, k)
	for row := first; row < end; row++ {
		Dequantize(from, values, in[row*from.Bytes(k):][:from.Bytes(k)])
		at, size := row*to.Bytes(k), to.Bytes(k)
		if _, err := quantize(to, out[at:at:at+size], values); err != nil {
			return fmt.Errorf("row %d: %w", row, err)
		}
	}
	return nil
}
