package cpu

import (
	"math"

	"github.com/troupe-engine/troupe/gpu"
)

// expChunk is the exponentials that are summed in float32 before float64 takes over: few enough
// that each lane adds 32 numbers.
const expChunk = 512

// logSoftmax executes gpu.LogSoftmax.
func (d *Device) logSoftmax(t *tier, a *gpu.LogSoftmax) error {
	rows, vocab, per := a.Logits.Dims[0], a.Logits.Dims[1], a.IDs.Dims[1]
	mustShape(gpu.OpLogSoftmax, "Out", a.Out, rows, per)
	mustShape(gpu.OpLogSoftmax, "IDs", a.IDs, rows, per)
	logits, ids, out := d.Float32s(a.Logits), d.Int32s(a.IDs), d.Float32s(a.Out)
	d.work.exps = grow(d.work.exps, expChunk)
	for r := range rows {
		row := logits[r*vocab:][:vocab]
		log := logSumExp(t, row, d.work.exps)
		for j, id := range ids[r*per:][:per] {
			if id < 0 {
				out[r*per+j] = negativeInfinity
				continue
			}
			mustIndex(gpu.OpLogSoftmax, "IDs", int(id), vocab)
			out[r*per+j] = float32(float64(row[id]) - log)
		}
	}
	return nil
}

// logSumExp is log(sum(exp(row))), using chunk as scratch.
func logSumExp(t *tier, row, chunk []float32) float64 {
	largest := negativeInfinity
	for rest := row; len(rest) > 0; {
		rest = rest[fill(chunk, rest):]
		v, nan := t.largest(chunk)
		if nan {
			return math.NaN()
		}
		largest = max(largest, v)
	}
	var total float64
	for rest := row; len(rest) > 0; {
		rest = rest[fill(chunk, rest):]
		total += float64(t.expShift(chunk, largest))
	}
	return float64(largest) + math.Log(total)
}

// fill copies the start of src to chunk, pads it with -Inf, and returns what it copied.
func fill(chunk, src []float32) int {
	n := copy(chunk, src)
	for i := n; i < len(chunk); i++ {
		chunk[i] = negativeInfinity
	}
	return n
}
