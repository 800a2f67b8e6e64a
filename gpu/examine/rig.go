package examine

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// rig holds example data on a device. Its first error sticks, and makes the rest do nothing.
type rig struct {
	dev     gpu.Device
	compute gpu.DType
	rng     *rand.Rand
	live    []gpu.Tensor
	inputs  []input
	err     error
}

// input is a tensor that no kernel may change.
type input struct {
	name   string
	tensor gpu.Tensor
	bytes  []byte
}

// output is a tensor that a kernel writes, with memory on both sides that it must leave alone.
type output struct {
	all, tensor gpu.Tensor
	before      []byte // what all held
}

// guardElements are on each side of an output. They keep its alignment.
const guardElements = 1024

func newRig(dev gpu.Device) *rig {
	return &rig{dev: dev, compute: dev.Info().Compute, rng: rand.New(rand.NewPCG(3, 4))}
}

// free releases everything.
func (r *rig) free() {
	for _, t := range r.live {
		r.dev.Free(t)
	}
	r.live = nil
}

func (r *rig) upload(dtype gpu.DType, raw []byte, dims ...int) (t gpu.Tensor) {
	if r.err != nil {
		return t
	}
	if t, r.err = r.dev.Alloc(dtype, dims...); r.err != nil {
		return t
	}
	r.live = append(r.live, t)
	r.err = r.dev.Upload(t, raw)
	return t
}

// put uploads an input.
func (r *rig) put(name string, dtype gpu.DType, values []float32, dims ...int) gpu.Tensor {
	raw := ref.Encode(dtype, values)
	t := r.upload(dtype, raw, dims...)
	r.inputs = append(r.inputs, input{name, t, raw})
	return t
}

// pack makes a weight.
func (r *rig) pack(w []byte, n, k int) (t gpu.Tensor) {
	if r.err != nil {
		return t
	}
	if t, r.err = r.dev.PackMatrix("example", gpu.BF16, n, k, w); r.err == nil {
		r.live = append(r.live, t)
	}
	return t
}

// output makes an output that holds values, or NaN where there are none, so that what is not written shows.
func (r *rig) output(dtype gpu.DType, values []float32, dims ...int) *output {
	n := 1
	for _, d := range dims {
		n *= d
	}
	padded := make([]float32, n+2*guardElements)
	for i := range padded {
		padded[i] = float32(math.NaN())
	}
	copy(padded[guardElements:], values)
	o := &output{before: ref.Encode(dtype, padded)}
	o.all = r.upload(dtype, o.before, len(padded))
	if r.err == nil {
		o.tensor = o.all.Slice(guardElements, guardElements+n).Reshape(dims...)
	}
	return o
}

// read downloads an output, and says if what is around it was changed.
func (r *rig) read(o *output) (values []float32, fault string) {
	raw := r.download(o.all)
	if r.err != nil {
		return nil, ""
	}
	edge := guardElements * o.all.DType.Size()
	if !bytes.Equal(raw[:edge], o.before[:edge]) || !bytes.Equal(raw[len(raw)-edge:], o.before[len(raw)-edge:]) {
		fault = "it writes outside of its output"
	}
	return ref.Decode(o.all.DType, raw[edge:len(raw)-edge]), fault
}

func (r *rig) download(t gpu.Tensor) []byte {
	if r.err != nil {
		return nil
	}
	raw := make([]byte, t.Bytes())
	r.err = r.dev.Download(raw, t)
	return raw
}

// changed names the first input that is not what it was.
func (r *rig) changed() string {
	for _, in := range r.inputs {
		if raw := r.download(in.tensor); r.err == nil && !bytes.Equal(raw, in.bytes) {
			return fmt.Sprintf("it changes its input %s", in.name)
		}
	}
	return ""
}

// normal returns n values of the given spread, rounded to dtype.
func (r *rig) normal(dtype gpu.DType, n int, spread float64) []float32 {
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(r.rng.NormFloat64() * spread)
	}
	return ref.Decode(dtype, ref.Encode(dtype, values))
}
