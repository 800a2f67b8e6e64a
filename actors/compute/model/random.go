package model

import (
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// drawnWeights stand in for a checkpoint, so that a model of any shape runs from its config.json
// alone: to measure, not to talk. They are bfloat16, the same for a seed on every device, and of a size that keeps
// activations in range: a matrix [n, k] has the standard deviation 1/sqrt(k), norms are one.
// With a quantized type, codes are drawn on the device and differ between devices.
type drawnWeights struct {
	seed  uint64
	dtype gpu.DType // of matrices
}

// typeFor is the type of a weight: those that more depends on are less quantized, if at all, and experts if the device has kernels
// for that and all rows of theirs are whole blocks.
func (r *drawnWeights) typeFor(purpose use, spec *Spec, experts []gpu.DType) gpu.DType {
	elements, _ := r.dtype.Block()
	switch {
	case purpose == multiplied || purpose == values || purpose == expert && slices.Contains(experts, r.dtype) && spec.expertRows(elements):
		return r.dtype
	case purpose == output && r.dtype.Quantized():
		return gpu.Q8_0
	}
	return gpu.BF16
}

// seedOf is a tensor's own seed.
func (r *drawnWeights) seedOf(name string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(name)) // a hash takes everything
	return ref.Mix64(r.seed + h.Sum64())
}

// randomMatrix is what matrix and table load, drawn. A device that cannot draw gets what the host draws.
func (l *loader) randomMatrix(purpose use, k int, parts ...part) gpu.Tensor {
	packed, dtype := purpose != embedding, l.random.typeFor(purpose, l.spec, l.mem.dev.Info().Experts)
	n := 0
	for _, p := range parts {
		n += p.rows
	}
	if l.err != nil {
		return gpu.Tensor{}
	}
	name, spread := parts[0].name, float32(1/math.Sqrt(float64(k)))
	seed := l.random.seedOf(name)
	var t gpu.Tensor
	var err error
	if maker, ok := l.mem.dev.(gpu.RandomMaker); ok {
		t, err = l.mem.keep(maker.Random(name, dtype, packed, seed, spread, n, k))
	} else if dtype != gpu.BF16 {
		err = fmt.Errorf("%w: %s draws no weights of %v", gpu.ErrNotSupported, l.mem.dev.Info().Name, dtype)
	} else if data := randomBF16(seed, spread, n*k); packed {
		t, err = l.mem.pack(name, gpu.BF16, n, k, data)
	} else if t, err = l.mem.alloc(gpu.BF16, n, k); err == nil {
		err = l.mem.dev.Upload(t, data)
	}
	if !l.used[name] { // a tied output projection is the embedding table again
		l.parameters += int64(n) * int64(k)
	}
	l.used[name] = true
	l.finish(err, parts)
	return t
}

func randomBF16(seed uint64, spread float32, n int) []byte {
	scale := ref.RandomScale(spread)
	out := make([]byte, 0, 2*n)
	for i := range n {
		v := roundBF16(float32(ref.RandomWeight(seed, i)) * scale)
		out = binary.LittleEndian.AppendUint16(out, uint16(math.Float32bits(v)>>16))
	}
	return out
}

// randomVector is what vector loads: norms that change nothing, and biases of zero.
func (l *loader) randomVector(parts ...part) gpu.Tensor {
	if l.err != nil {
		return gpu.Tensor{}
	}
	var values []float32
	for _, p := range parts {
		value := float32(0)
		if strings.HasSuffix(p.name, "norm.weight") {
			value = 1 - l.spec.NormOffset
		}
		for range p.rows {
			values = append(values, value)
		}
	}
	t, err := l.mem.alloc(gpu.F32, len(values))
	if err == nil {
		err = l.mem.dev.Upload(t, floatBytes(values))
	}
	l.parameters += int64(len(values))
	l.finish(err, parts)
	return t
}

// noSource is the checkpoint of random weights: it has no tensors and no bytes.
type noSource struct{ source }

func (noSource) Names() []string { return nil }
func (noSource) Bytes() int64    { return 0 }
func (noSource) Close() error    { return nil }

// open returns the checkpoint in files, or none for random weights.
func (o *Options) open(files fs.FS, spec *Spec) (source, error) {
	if o.RandomSeed != nil {
		return noSource{}, nil
	}
	return openSource(files, spec.Quantization)
}
