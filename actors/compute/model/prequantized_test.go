package model

import (
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"maps"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
	"github.com/troupe-engine/troupe/internal/prequant/prequanttest"
)

var prequantizedDir = filepath.Join("..", "..", "..", "internal", "prequant", "testdata")

// taker is a device that takes every quantized type, as CUDA with bf16 does, but for Q8_0 by way of float32.
type taker struct {
	gpu.Device
	took map[gpu.DType]int
}

func (d *taker) PackMatrix(name string, dtype gpu.DType, n, k int, parts ...[]byte) (gpu.Tensor, error) {
	d.took[dtype]++
	if !dtype.Quantized() || dtype == gpu.Q8_0 {
		return d.Device.PackMatrix(name, dtype, n, k, parts...)
	}
	var wide []byte
	for _, part := range parts {
		wide = append(wide, floatBytes(ref.DequantizeRows(dtype.String(), k, part))...)
	}
	return d.Device.PackMatrix(name, gpu.F32, n, k, wide)
}

// TestPrequantized: a checkpoint that is quantized has the logits of its dequantized form, on a device that
// multiplies its types and on one that does not.
func TestPrequantized(t *testing.T) {
	var prompt []int32
	for i := range 24 {
		prompt = append(prompt, int32(7*i%32))
	}
	// The types that matrices are given to a device in, which tries what it is given first, and to the CPU, without
	// the plain ones that go with them.
	e4m3, i8 := []gpu.DType{gpu.E4M3}, []gpu.DType{gpu.I8}
	for name, want := range map[string][]gpu.DType{
		"fp8-tensor": e4m3, "fp8-block": nil, "fp8-block-128": {gpu.E4M3, gpu.E4M3_128}, "float-channel": e4m3, "int8-channel": i8, "int8-zeros": nil,
		"packed-symmetric": {gpu.I4_32}, "packed-mixed": {gpu.I8, gpu.I4_64}, "gptq-v1": {gpu.I4_32}, "gptq-v2-act-order": nil,
		"gptq-channel": {gpu.I4_64, gpu.I4_128}, "gptq-8bit": {gpu.Q8_0, gpu.I8}, "awq": {gpu.I4_64},
	} {
		t.Run(name, func(t *testing.T) {
			files := os.DirFS(filepath.Join(prequantizedDir, name))
			plain, err := prequanttest.Dequantized(files)
			if err != nil {
				t.Fatal(err)
			}
			reference := newEngine(t, plain, testOptions)
			expected := reference.logitsInChunks(&sequence{slot: 0}, prompt, len(prompt))

			dev := &taker{openDevice(t), map[gpu.DType]int{}}
			spec, err := ReadSpec(files)
			if err != nil {
				t.Fatal(err)
			}
			e := newEngineOn(t, dev, files, spec, testOptions)
			if d := relativeDiff(e.logitsInChunks(&sequence{slot: 0}, prompt, len(prompt)), expected); d > 4e-3 {
				t.Errorf("with its own types, logits differ by %g of their size", d)
			}
			got := slices.DeleteFunc(slices.Sorted(maps.Keys(dev.took)), func(dtype gpu.DType) bool { return !dtype.Quantized() })
			if slices.Sort(want); !slices.Equal(got, want) {
				t.Errorf("the device was given %v, want %v", got, want)
			}

			onCPU := newEngine(t, files, testOptions)
			if d := relativeDiff(onCPU.logitsInChunks(&sequence{slot: 0}, prompt, len(prompt)), expected); d > 4e-3 {
				t.Errorf("on the CPU, logits differ by %g of their size", d)
			} else {
				t.Logf("CPU: %.2g", d)
			}
			if unused := onCPU.m.UnusedTensors(); len(unused) > 0 {
				t.Errorf("unused tensors: %v", unused)
			}
			if onCPU.m.Parameters() != reference.m.Parameters() {
				t.Errorf("%d parameters, want %d", onCPU.m.Parameters(), reference.m.Parameters())
			}
		})
	}
}

// TestPrequantizedGolden: a golden model that scripts/prequant/make.py quantizes has the logits of its dequantized form, and
// about those of transformers.
func TestPrequantizedGolden(t *testing.T) {
	g := readGolden(t, sharedDir(t, "golden", "llama"))
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("SKIPPED: python3 is not here")
	}
	out := t.TempDir()
	// What rounding does to the logits of this random model, of their root mean square.
	limits := map[string]float64{"float-channel": 0.15, "fp8-block": 0.15, "gptq-v1": 0.4, "packed-symmetric": 0.4, "awq": 0.4}
	args := append([]string{"../../../scripts/prequant/make.py", out, g.dir}, slices.Sorted(maps.Keys(limits))...)
	if text, err := exec.CommandContext(t.Context(), python, args...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	for name, limit := range limits {
		files := os.DirFS(filepath.Join(out, name))
		plain, err := prequanttest.Dequantized(files)
		if err != nil {
			t.Fatal(err)
		}
		logits := func(files fs.FS) [][]float32 {
			e := newEngine(t, files, testOptions)
			return e.logitsInChunks(&sequence{slot: 0}, g.Prompt, len(g.Prompt))
		}
		got := logits(files)
		own, rounded := relativeDiff(got, logits(plain)), relativeDiff(got, g.logits)
		t.Logf("%s: %.2g from the dequantized model, %.2g from the model before", name, own, rounded)
		if own > 8e-3 || rounded > limit {
			t.Errorf("%s: logits differ by %g of their size from the dequantized model's and by %g from those before, allowed 0.008 and %g", name, own, rounded, limit)
		}
	}
}

// TestWidened: what a device cannot multiply as it is stored is named, with its cost.
func TestWidened(t *testing.T) {
	for name, want := range map[string]Widened{
		"fp8-block":     {Matrices: 6, Why: "8-bit floats with a scale for 48 by 40 of them", As: gpu.BF16, StoredBytes: 34936, Bytes: 69632},
		"float-channel": {Matrices: 7, Why: "e4m3, which cpu:0 does not multiply here", As: gpu.BF16, StoredBytes: 37888, Bytes: 73728},
	} {
		e := newEngine(t, os.DirFS(filepath.Join(prequantizedDir, name)), testOptions)
		if got := e.m.Widened(); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %+v, want %+v", name, got, want)
		}
	}
	if got := newEngine(t, os.DirFS(filepath.Join(prequantizedDir, "awq")), testOptions).m.Widened(); got != nil {
		t.Errorf("awq: %+v, want nothing: Q8_0 holds it", got)
	}
	// What the user asks for goes before widening.
	o := testOptions
	o.Quantize = QuantizeQ8
	if got := newEngine(t, os.DirFS(filepath.Join(prequantizedDir, "float-channel")), o).m.Widened(); len(got) != 1 || got[0].As != gpu.Q8_0 {
		t.Errorf("q8: %+v", got)
	}
}

// TestDamagedPrequantized: an error names the tensor, and nothing stays on the device.
func TestDamagedPrequantized(t *testing.T) {
	dir := os.DirFS(filepath.Join(prequantizedDir, "fp8-tensor"))
	weights, err := fs.ReadFile(dir, "model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	config, err := fs.ReadFile(dir, "config.json")
	if err != nil {
		t.Fatal(err)
	}
	const suffix = `.down_proj.weight_scale"`
	header := weights[8 : 8+binary.LittleEndian.Uint64(weights)]
	var entries map[string]struct {
		Offsets [2]int `json:"data_offsets"`
	}
	if err := json.Unmarshal(header, &entries); err != nil {
		t.Fatal(err)
	}
	at := 8 + len(header) + entries["model.layers.0.mlp.down_proj.weight_scale"].Offsets[0]
	binary.LittleEndian.PutUint32(weights[at:], math.Float32bits(float32(math.Inf(1))))
	dev := openDevice(t)
	_, err = Load(dev, fstest.MapFS{"config.json": {Data: config}, "model.safetensors": {Data: weights}}, testOptions, nil)
	if err == nil || !strings.Contains(err.Error(), suffix) || !strings.Contains(err.Error(), "+Inf") {
		t.Error(err)
	}
	if s := dev.Memory(); s.Tensors != 0 {
		t.Errorf("%d tensors left on the device", s.Tensors)
	}
}

// TestQuantizedFloats: with matrices as 8-bit floats, the embeddings and the output projection are Q8_0, one matrix if
// they are tied, and logits stay near those of transformers.
func TestQuantizedFloats(t *testing.T) {
	eachGolden(t, func(t *testing.T, g *golden) {
		dev := &taker{openDevice(t), map[gpu.DType]int{}}
		o := testOptions
		o.Quantize = QuantizeFP8
		e := newEngineOn(t, dev, os.DirFS(g.dir), g.spec, o)
		want := 2
		switch elements, _ := gpu.Q8_0.Block(); {
		case g.spec.HiddenSize%elements != 0:
			want = 0
		case g.spec.TiedEmbeddings:
			want = 1
		}
		if dev.took[gpu.Q8_0] != want || dev.took[gpu.E4M3] == 0 {
			t.Errorf("the device was given %v, want %d of Q8_0, and E4M3", dev.took, want)
		}
		d := relativeDiff(e.logitsInChunks(&sequence{slot: 0}, g.Prompt, len(g.Prompt)), g.logits)
		t.Logf("difference from transformers: %.2g of the logits", d)
		limit := 0.25
		if g.spec.LogitSoftCap > 0 || g.spec.Layers[len(g.spec.Layers)-1].MoE {
			limit *= 2 // see TestQuantizedGoldens
		}
		if d > limit {
			t.Errorf("logits differ by %g of their size, allowed %g", d, limit)
		}
	})
}
