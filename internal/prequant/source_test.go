package prequant

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
	"github.com/troupe-engine/troupe/internal/gguf"
	"github.com/troupe-engine/troupe/internal/safetensors"
)

// cases are what scripts/prequant/make.py wrote, and the first of the types of a matrix in each: 0 is one that no type
// holds.
var cases = map[string]map[string]gpu.DType{
	"fp8-tensor":        {"k_proj": gpu.E4M3, "down_proj": gpu.E4M3},
	"fp8-block":         {"k_proj": 0, "down_proj": 0},
	"fp8-block-128":     {"k_proj": gpu.E4M3_128, "down_proj": gpu.E4M3, "o_proj": gpu.E4M3},
	"float-channel":     {"q_proj": gpu.E4M3},
	"int8-channel":      {"q_proj": gpu.I8},
	"int8-zeros":        {"q_proj": 0},
	"packed-symmetric":  {"q_proj": gpu.I4_32, "down_proj": gpu.I4_32},
	"packed-mixed":      {"q_proj": gpu.I8, "o_proj": 0, "up_proj": gpu.I4_64},
	"gptq-v1":           {"q_proj": gpu.I4_32},
	"gptq-v2-act-order": {"q_proj": 0},
	"gptq-channel":      {"q_proj": gpu.I4_64, "down_proj": gpu.I4_128},
	"gptq-8bit":         {"q_proj": gpu.I8, "down_proj": gpu.Q8_0},
	"awq":               {"q_proj": gpu.I4_64},
}

// checkpoint is the raw config and the tensors of a case.
func checkpoint(t testing.TB, name string) (raw []byte, file *safetensors.File) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", name, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var model struct {
		Quantization json.RawMessage `json:"quantization_config"`
	}
	if err := json.Unmarshal(text, &model); err != nil {
		t.Fatal(err)
	}
	if file, err = safetensors.OpenDir(os.DirFS(filepath.Join("testdata", name))); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	return model.Quantization, file
}

func opened(t testing.TB, name string) *Source {
	t.Helper()
	raw, file := checkpoint(t, name)
	config, err := ParseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	return Open(file, config)
}

// TestGoldens: every matrix has, bit by bit, the elements that the script says it has, and so have its rows in the types
// that hold it.
func TestGoldens(t *testing.T) {
	for name, types := range cases {
		t.Run(name, func(t *testing.T) {
			s := opened(t, name)
			text, err := os.ReadFile(filepath.Join("testdata", name, "golden.json"))
			if err != nil {
				t.Fatal(err)
			}
			golden := map[string]struct {
				Shape  []int
				SHA256 string
				First  []float64
			}{}
			if err := json.Unmarshal(text, &golden); err != nil {
				t.Fatal(err)
			}
			for matrix, want := range golden {
				if !slices.Contains(s.Names(), matrix) {
					t.Errorf("Names lacks %s", matrix)
				}
				w, err := s.Weight(matrix)
				if err != nil {
					t.Fatal(err)
				}
				if w == nil { // left out of the quantization: a tensor like any other
					if v, err := s.file.Tensor(matrix); err != nil || v.DType != safetensors.BF16 {
						t.Errorf("%s: %v %v", matrix, v.DType, err)
					}
					continue
				}
				got, err := w.Dequantize(gguf.F32)
				if err != nil {
					t.Fatal(err)
				}
				sum := sha256.Sum256(got)
				if hex.EncodeToString(sum[:]) != want.SHA256 || !slices.Equal(w.Shape, want.Shape) {
					t.Errorf("%s %v begins %v, want %v that begins %v", matrix, w.Shape, floats(got)[:4], want.Shape, want.First)
				}
				checkTypes(t, w, floats(got))
				module := strings.Split(matrix, ".")[4] // model.layers.0.mlp.MODULE.weight
				first := slices.Concat(w.Types, []gpu.DType{0})[0]
				if want, ok := types[module]; ok && first != want {
					t.Errorf("%s: %v, %q; want %v", matrix, w.Types, w.Why, want)
				}
				if (len(w.Types) == 0) != (w.Why != "") {
					t.Errorf("%s: %v and %q", matrix, w.Types, w.Why)
				}
			}
		})
	}
}

// checkTypes compares what the types that hold w have for elements with want.
func checkTypes(t *testing.T, w *Weight, want []float32) {
	t.Helper()
	for _, dtype := range w.Types {
		rows, err := w.Rows(dtype)
		if err != nil {
			t.Fatal(err)
		}
		if len(rows) != w.Shape[0]*dtype.RowBytes(w.Shape[1]) {
			t.Fatalf("%s: %d bytes of %v for %v", w.name, len(rows), dtype, w.Shape)
		}
		for i, v := range ref.DequantizeRows(dtype.String(), w.Shape[1], rows) {
			// Only a scale that float16 had to round makes a difference.
			if math.Abs(float64(v-want[i])) > 0x1p-11*math.Abs(float64(want[i])) {
				t.Fatalf("%s as %v: element %d is %v, want %v", w.name, dtype, i, v, want[i])
			}
		}
	}
}

func floats(raw []byte) []float32 {
	out := make([]float32, len(raw)/4)
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return out
}

// TestNames: what belongs to a matrix is not listed beside it.
func TestNames(t *testing.T) {
	for name := range cases {
		names := opened(t, name).Names()
		if len(names) != 12 {
			t.Errorf("%s: %d names, want the model's 12: %v", name, len(names), names)
		}
	}
}

// edited returns the case with its tensors changed.
func edited(t testing.TB, name string, edit func(tensors map[string]safetensors.View)) *Source {
	t.Helper()
	raw, file := checkpoint(t, name)
	tensors := map[string]safetensors.View{}
	for _, name := range file.Names() {
		v, err := file.Tensor(name)
		if err != nil {
			t.Fatal(err)
		}
		v.Data = bytes.Clone(v.Data)
		tensors[name] = v
	}
	edit(tensors)
	var list []safetensors.Named
	for name, v := range tensors {
		list = append(list, safetensors.Named{Name: name, View: v})
	}
	var out bytes.Buffer
	if err := safetensors.Write(&out, list); err != nil {
		t.Fatal(err)
	}
	parsed, err := safetensors.Parse("model.safetensors", out.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	config, err := ParseConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	return Open(parsed, config)
}

// TestDamagedTensors: each error names the tensor and what is wrong with it.
func TestDamagedTensors(t *testing.T) {
	const module = "model.layers.0.self_attn.o_proj"
	type tensors = map[string]safetensors.View
	shape := func(suffix string, shape ...int) func(tensors) {
		return func(all tensors) {
			v := all[module+suffix]
			v.Shape, v.Data = shape, make([]byte, product(shape)*v.DType.Size())
			all[module+suffix] = v
		}
	}
	without := func(suffix string) func(tensors) {
		return func(all tensors) { delete(all, module+suffix) }
	}
	put := func(suffix string, at int, b ...byte) func(tensors) {
		return func(all tensors) { copy(all[module+suffix].Data[at:], b) }
	}
	retype := func(suffix string, dtype safetensors.DType) func(tensors) {
		return func(all tensors) {
			v := all[module+suffix]
			v.DType = dtype
			all[module+suffix] = v
		}
	}
	nan16, nan32 := []byte{0, 0x7e}, []byte{0, 0, 0xc0, 0x7f}
	for _, c := range []struct {
		of   string
		edit func(tensors)
		want string
	}{
		{"gptq-v1", without(".qweight"), `neither "` + module + `.qweight" nor`},
		{"gptq-v1", without(".scales"), `no tensor "` + module + `.scales", which the codes`},
		{"gptq-v1", without(".qzeros"), `.qzeros"`},
		{"gptq-v1", shape(".scales", 3, 64), `.scales" has shape [3 64], want [[2 64]]`},
		{"gptq-v1", shape(".qzeros", 2, 7), `.qzeros" has shape [2 7]`},
		{"gptq-v1", shape(".qweight", 8), `.qweight" is I32 [8], want a matrix of I32`},
		{"gptq-v1", shape(".qweight", 0, 64), `makes a matrix of [64, 0]`},
		{"gptq-v1", put(".scales", 2, nan16...), `.scales" has the scale NaN as its element 1`},
		{"gptq-v1", put(".g_idx", 8, 2), `.g_idx" puts column 2 into group 2, want 0..1`},
		{"gptq-v1", put(".g_idx", 4, 255, 255, 255, 255), `puts column 1 into group -1`},
		{"gptq-v1", shape(".g_idx", 63), `.g_idx" has shape [63]`},
		{"gptq-v1", retype(".scales", safetensors.U16), `.scales" is U16, want one of`},
		{"gptq-v2-act-order", without(".g_idx"), `.g_idx"`},
		{"awq", shape(".qweight", 64, 9), `.scales" has shape [1 64], want [[1 72]]`},
		{"awq", without(".qzeros"), `.qzeros"`},
		{"packed-symmetric", without(".weight_shape"), `.weight_shape"`},
		{"packed-symmetric", put(".weight_shape", 8, 1), `.weight_shape" is [64 1], which`},
		{"packed-symmetric", put(".weight_shape", 15, 0x80), `.weight_shape" is [64 9223372036854775872]`},
		{"packed-symmetric", put(".weight_shape", 0, 65), `.weight_shape" is [65 64]`},
		{"packed-symmetric", without(".weight_scale"), `.weight_scale"`},
		{"packed-mixed", without(".weight_g_idx"), `.weight_g_idx"`},
		{"fp8-tensor", without(".weight_scale"), `.weight_scale"`},
		{"fp8-tensor", put(".weight_scale", 0, nan32...), `.weight_scale" has the scale NaN`},
		{"fp8-tensor", retype(".weight", safetensors.I8), `.weight" is I8 [64 64], want a matrix of F8_E4M3`},
		{"fp8-tensor", retype(".weight", safetensors.F8E5M2), `.weight" is F8_E5M2`},
		{"fp8-tensor", put(".weight", 65, 0x7f), `.weight": row 1: column 1 is NaN`},
		{"fp8-block", shape(".weight_scale_inv", 2, 1), `.weight_scale_inv" has shape [2 1], want [[2 2]]`},
		{"fp8-block", without(".weight_scale_inv"), `no tensor "` + module + `.weight_scale_inv", which the codes in "` + module + `.weight" need, of one of the types [F32 BF16 F16 F8_E8M0] and shapes [[2 2]]`},
		{"fp8-block", put(".weight_scale_inv", 4, nan32...), `.weight_scale_inv" has the scale NaN as its element 1`},
		{"fp8-block", put(".weight_scale_inv", 4, 0, 0, 0x80, 0x7f), `.weight_scale_inv" has the scale +Inf as its element 1`},
		{"fp8-block", put(".weight_scale_inv", 4, 0xff, 0xff, 0x7f, 0x7f), `has the scale 3.4028235e+38 as its element 1, want finite numbers of at most 7.6e+35`},
		{"fp8-block", put(".weight_scale_inv", 4, 0, 0, 0, 0), `.weight": row 0: column 40 is `},
		{"fp8-block", retype(".weight_scale_inv", safetensors.I32), `.weight_scale_inv" is I32, want one of [F32 BF16 F16 F8_E8M0]`},
		{"fp8-block-128", shape(".weight_scale_inv", 1, 2), `.weight_scale_inv" has shape [1 2], want [[2 1]] for a matrix of [256 64]`},
		{"int8-zeros", without(".weight_zero_point"), `.weight_zero_point"`},
		{"int8-zeros", shape(".weight_zero_point", 1), `.weight_zero_point" has 1 elements, want one for each of the 64`},
	} {
		w, err := edited(t, c.of, c.edit).Weight(module + ".weight")
		if err == nil && w != nil {
			_, err = w.Dequantize(gguf.F32)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\n got %v\nwant %q", c.of, err, c.want)
		}
	}
}

func product(shape []int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	return n
}

// TestContradictions: a config that does not fit the tensors is not guessed at.
func TestContradictions(t *testing.T) {
	const name = "model.layers.0.self_attn.o_proj.weight"
	for _, c := range []struct{ config, of, want string }{
		{`{"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": false}`, "packed-symmetric", `.weight_packed" is there, but quantization_config makes it "model.layers.0.self_attn.o_proj.qweight"`},
		{`{"quant_method": "awq", "bits": 4, "group_size": 64, "modules_to_not_convert": ["self_attn.o_proj"]}`, "awq", "leaves the module out"},
		{`{"quant_method": "fp8", "ignored_layers": ["re:.*o_proj"]}`, "fp8-tensor", "leaves the module out"},
		{`{"quant_method": "compressed-tensors", "format": "dense"}`, "fp8-tensor", "leaves the module out"},
		{`{"quant_method": "gptq", "bits": 8, "group_size": 32}`, "gptq-v1", "want [[1 64]] for a matrix of [64 32]"},
	} {
		config, err := ParseConfig([]byte(c.config))
		if err != nil {
			t.Fatal(err)
		}
		_, file := checkpoint(t, c.of)
		if _, err := Open(file, config).Weight(name); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s:\n got %v\nwant %q", c.config, err, c.want)
		}
	}
}

// TestPowerScales: scales that are stored as their exponents are powers of two.
func TestPowerScales(t *testing.T) {
	const module = "model.layers.0.self_attn.o_proj"
	s := edited(t, "fp8-block", func(all map[string]safetensors.View) {
		codes := all[module+".weight"]
		clear(codes.Data)
		codes.Data[0], codes.Data[40] = 0x38, 0xb8 // 1 and -1
		all[module+".weight_scale_inv"] = safetensors.View{DType: safetensors.F8E8M0, Shape: []int{2, 2}, Data: []byte{120, 130, 127, 0}}
	})
	w, err := s.Weight(module + ".weight")
	if err != nil {
		t.Fatal(err)
	}
	got, err := w.Dequantize(gguf.F32)
	if err != nil || floats(got)[0] != 1./128 || floats(got)[40] != -8 {
		t.Error(floats(got)[0], floats(got)[40], err)
	}
}

// TestScalesThatHalvesCannotHold are dequantized instead.
func TestScalesThatHalvesCannotHold(t *testing.T) {
	const module = "model.layers.0.self_attn.o_proj"
	s := edited(t, "packed-symmetric", func(all map[string]safetensors.View) {
		copy(all[module+".weight_scale"].Data[2:], []byte{0x80, 0x30}) // 2^-30
	})
	w, err := s.Weight(module + ".weight")
	if err != nil || w.Types != nil || w.Why != "scales that float16 cannot hold" {
		t.Fatal(w.Types, w.Why, err)
	}
	got, err := w.Dequantize(gguf.F32)
	if err != nil || floats(got)[32] == 0 && floats(got)[33] == 0 && floats(got)[34] == 0 {
		t.Error(floats(got)[32:64], err)
	}
}
