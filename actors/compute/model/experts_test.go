package model

import (
	"slices"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/safetensors"
)

// packer is a device that remembers the types of experts' matrices. Where it wants them alike it is as CUDA.
type packer struct {
	gpu.Device
	alike bool
	types map[string]gpu.DType // by the name of a matrix' first tensor
}

func (d *packer) Info() gpu.Info {
	info := d.Device.Info()
	info.ExpertsAlike = d.alike
	return info
}

func (d *packer) PackMatrix(name string, dtype gpu.DType, n, k int, parts ...[]byte) (gpu.Tensor, error) {
	if strings.Contains(name, ".experts.") {
		d.types[name] = dtype
	}
	return d.Device.PackMatrix(name, dtype, n, k, parts...)
}

// One expert that is stored otherwise than the rest does not part it from them on a device that takes experts of one type alone.
// Elsewhere each has its own.
func TestExpertsAlike(t *testing.T) {
	const layer = "model.layers.1.block_sparse_moe.experts."
	const odd, other = layer + "1.w2.weight", layer + "0.w2.weight"
	files := editedOf(t, "testdata/golden/mixtral-window", func(views map[string]safetensors.View) {
		v := views[odd]
		if v.DType != safetensors.BF16 {
			t.Fatalf("%s is %v", odd, v.DType)
		}
		wide := make([]byte, 0, 2*len(v.Data))
		for at := 0; at < len(v.Data); at += 2 {
			wide = append(wide, 0, 0, v.Data[at], v.Data[at+1])
		}
		v.DType, v.Data = safetensors.F32, wide
		views[odd] = v
	})
	spec, err := ReadSpec(files)
	if err != nil {
		t.Fatal(err)
	}
	for _, alike := range []bool{false, true} {
		dev := &packer{openDevice(t), alike, map[string]gpu.DType{}}
		newEngineOn(t, dev, files, spec, testOptions)
		for name, dtype := range dev.types {
			want := gpu.BF16
			if name == odd || alike && strings.HasPrefix(name, layer) && strings.HasSuffix(name, ".w2.weight") {
				want = gpu.F32
			}
			if dtype != want {
				t.Errorf("alike %v: %s is %v, want %v", alike, name, dtype, want)
			}
		}
		if dev.types[odd] == 0 || dev.types[other] == 0 {
			t.Errorf("alike %v: %v has not both %s and %s", alike, dev.types, odd, other)
		}
	}
}

// Down projections that are stored in another plain type are widened, or rounded, beside gates that stay quantized.
func TestExpertsBesideQuantized(t *testing.T) {
	type types = []gpu.DType
	for _, c := range []struct{ in, down, wantIn, wantDown types }{
		{types{gpu.Q4_K, gpu.Q8_0, gpu.BF16}, types{gpu.F16, gpu.BF16}, types{gpu.Q4_K, gpu.Q8_0, gpu.BF16}, types{gpu.BF16}},
		{types{gpu.F32, gpu.BF16}, types{gpu.I8, gpu.BF16}, types{gpu.BF16}, types{gpu.I8, gpu.BF16}},
		{types{gpu.F16, gpu.BF16}, types{gpu.F32, gpu.BF16}, types{gpu.F16, gpu.BF16}, types{gpu.F32, gpu.BF16}},
		{types{gpu.Q4_K, gpu.BF16}, types{gpu.Q8_0, gpu.BF16}, types{gpu.Q4_K, gpu.BF16}, types{gpu.Q8_0, gpu.BF16}},
		{nil, nil, nil, nil},
	} {
		in, down := besideQuantized(slices.Clone(c.in), slices.Clone(c.down), gpu.BF16)
		if !slices.Equal(in, c.wantIn) || !slices.Equal(down, c.wantDown) {
			t.Errorf("%v and %v: %v and %v, want %v and %v", c.in, c.down, in, down, c.wantIn, c.wantDown)
		}
	}
}
