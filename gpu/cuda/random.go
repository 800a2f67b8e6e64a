package cuda

import (
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

type randomArgs struct {
	out    uintptr
	seed   uint64
	n      int64
	cols   int32
	scale  float32
	stride int64
}

// Random implements gpu.RandomMaker. It makes quantized weights, too, with codes of its own.
func (d *Device) Random(name string, dtype gpu.DType, packed bool, seed uint64, spread float32, dims ...int) (gpu.Tensor, error) {
	if packed && dtype.Quantized() && len(dims) == 2 {
		return d.randomQuantized(name, dtype, seed, spread, dims[0], dims[1])
	}
	kernel, ok := map[gpu.DType]string{gpu.F32: "random_weights_f32", gpu.BF16: "random_weights_bf16"}[dtype]
	if !ok {
		return gpu.Tensor{}, fmt.Errorf("%w: random weights %q of %v; the cuda device makes f32, bf16 and packed quantized ones", gpu.ErrNotSupported, name, dtype)
	}
	t, err := d.allocWeight(name, dtype, packed, dims)
	if err != nil {
		return gpu.Tensor{}, err
	}
	if err := d.enter(); err != nil {
		return gpu.Tensor{}, err
	}
	defer d.leave()
	b, cols := d.table.Get(t), dims[len(dims)-1]
	args := randomArgs{out: b.block.address, seed: seed, n: int64(t.Len()), cols: int32(cols), scale: ref.RandomScale(spread), stride: int64(cols)}
	if packed {
		args.stride = int64(b.weight.stride / dtype.Size())
	}
	blocks := min(ceilDiv(t.Len(), threadsPerBlock), 16*d.properties.multiprocessors)
	return t, run(d, d.functions[kernel], grid{blocks, 1, 1}, threadsPerBlock, 0, args)
}

// allocWeight allocates a tensor, or a packed matrix of zeros.
func (d *Device) allocWeight(name string, dtype gpu.DType, packed bool, dims []int) (gpu.Tensor, error) {
	if !packed {
		return d.Alloc(dtype, dims...)
	}
	if len(dims) != 2 {
		panic(fmt.Sprintf("cuda: packed weight %q of dimensions %v, want 2", name, dims))
	}
	return d.packedMatrix(name, dtype, dims[0], dims[1], nil)
}
