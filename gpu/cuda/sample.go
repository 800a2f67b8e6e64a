package cuda

import (
	"fmt"
	"math"
	"slices"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

const (
	sampleThreads = 1024 // THREADS in sample.cu
	sampleFew     = 64   // FEW: rows whose parameters travel with the launch
)

// sampleRow is laid out as SampleRow in sample.cu.
type sampleRow struct {
	temperature, topP, minPLog float32
	topK                       int32
	key                        uint64
	slot, _                    int32
}

type sampleArgs struct {
	logits, params, out, last uintptr
	vocab, slots              int32
	few                       [sampleFew]sampleRow
}

func (d *Device) sample(a *gpu.Sample) error {
	rows, vocab := a.Logits.Dims[0], a.Logits.Dims[1]
	mustLen(gpu.OpSample, "Out", a.Out, rows)
	if len(a.Params) != rows || vocab == 0 {
		panic(fmt.Sprintf("cuda: sample: %d Params for logits %v", len(a.Params), a.Logits))
	}
	args := sampleArgs{logits: d.f32(a.Logits), out: d.i32(a.Out), last: d.i32(a.LastToken), vocab: int32(vocab), slots: int32(a.LastToken.Len())}
	if rows == 0 {
		return nil
	}
	if d.recording { // with this step's parameters
		return errRecorded
	}
	const size = int(unsafe.Sizeof(sampleRow{}))
	d.work.rows = slices.Grow(d.work.rows[:0], rows)[:rows]
	for i, p := range a.Params {
		mustIndex(gpu.OpSample, "Params.Slot", int(p.Slot), a.LastToken.Len())
		row := sampleRow{temperature: p.Temperature, topP: p.TopP, minPLog: float32(math.Inf(-1)), topK: p.TopK,
			key: ref.NoiseKey(p.Seed, p.Position), slot: p.Slot}
		if p.MinP > 0 {
			row.minPLog = ref.MinPThreshold(p.MinP)
		}
		d.work.rows[i] = row
	}
	if copy(args.few[:], d.work.rows) < rows {
		var err error
		if args.params, err = d.scratch(int64(size * rows)); err != nil {
			return err
		}
		if err := d.send(args.params, unsafe.Slice((*byte)(unsafe.Pointer(&d.work.rows[0])), size*rows)); err != nil {
			return err
		}
	}
	return run(d, d.functions["sample"], grid{rows, 1, 1}, sampleThreads, 0, args)
}

type logSoftmaxArgs struct {
	out, logits, ids uintptr
	vocab, perRow    int32
}

func (d *Device) logSoftmax(a *gpu.LogSoftmax) error {
	rows, vocab, per := a.Logits.Dims[0], a.Logits.Dims[1], a.IDs.Dims[1]
	mustShape(gpu.OpLogSoftmax, "Out", a.Out, rows, per)
	mustShape(gpu.OpLogSoftmax, "IDs", a.IDs, rows, per)
	return run(d, d.functions["log_softmax"], grid{rows, 1, 1}, sampleThreads, 0,
		logSoftmaxArgs{d.f32(a.Out), d.f32(a.Logits), d.i32(a.IDs), int32(vocab), int32(per)})
}
