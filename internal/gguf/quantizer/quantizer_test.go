package quantizer_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/gpu/cpu"
	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/internal/gguf"
	"github.com/troupe-engine/troupe/internal/gguf/checkpoint"
	"github.com/troupe-engine/troupe/internal/gguf/quantizer"
	"github.com/troupe-engine/troupe/internal/safetensors"
)

// run quantizes files to a new file and returns that as a model directory.
func run(t *testing.T, files fs.FS, o quantizer.Options) (*checkpoint.Dir, *quantizer.Result) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "out.gguf")
	r, err := quantizer.Run(t.Context(), files, out, o)
	if err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(filepath.Dir(out)); err != nil || len(list) != 1 {
		t.Fatalf("the folder holds %v (%v), want the result alone", list, err)
	}
	return checkpoint.NewDir(out), r
}

// logits runs a prompt through the model in files.
func logits(t *testing.T, files fs.FS, quantize string) []float32 {
	t.Helper()
	dev, err := cpu.Open(cpu.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	m, err := model.Load(dev, files, model.Options{SequencesMax: 1, TokensPerStepMax: 8, ContextMax: 16, BlockSize: 16, KVBlocks: 1, Quantize: quantize}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.SetBlocks(0, 0, []int32{0}); err != nil {
		t.Fatal(err)
	}
	in := model.StepInput{Tokens: []int32{1, 2, 3, 4}, Positions: []int32{0, 1, 2, 3}, TokenSlots: make([]int32, 4), SlotMapping: []int32{0, 1, 2, 3},
		Slots: []int32{0}, QueryStart: []int32{0, 4}, LogitRows: []int32{0, 1, 2, 3}}
	out, err := m.Forward(&in)
	if err != nil {
		t.Fatal(err)
	}
	values := slices.Clone(dev.Float32s(out))
	if err := errors.Join(m.Close(), dev.Close()); err != nil {
		t.Fatal(err)
	}
	return values
}

// TestSameAsQuantizedWhileLoading: the file gives the same logits, bit for bit, as the directory with --quant, and so
// does a file made of a file.
func TestSameAsQuantizedWhileLoading(t *testing.T) {
	full, _ := run(t, defaultmodel.Files(), quantizer.Options{Type: "f32"})
	if got, want := logits(t, full, model.QuantizeOff), logits(t, defaultmodel.Files(), model.QuantizeOff); !slices.Equal(got, want) {
		t.Error("widening to f32 changes the model")
	}
	for quant, name := range map[string]string{model.QuantizeQ8: "q8", model.QuantizeQ4: "q4"} {
		want := logits(t, defaultmodel.Files(), quant)
		if slices.Equal(want, logits(t, defaultmodel.Files(), model.QuantizeOff)) {
			t.Fatalf("%s: quantizing changes nothing, so this shows nothing", name)
		}
		for from, files := range map[string]fs.FS{"directory": defaultmodel.Files(), "file": full} {
			got, r := run(t, files, quantizer.Options{Type: name})
			if !slices.Equal(logits(t, got, model.QuantizeOff), want) {
				t.Errorf("%s of the %s differs from --quant %s", name, from, name)
			}
			if r.BytesOut >= r.BytesIn || r.FileBytes < r.BytesOut || r.Kept == 0 {
				t.Errorf("%s of the %s: %+v", name, from, r)
			}
		}
	}
}

// TestFilesSurvive: the directory's files are in the archive as they were.
func TestFilesSurvive(t *testing.T) {
	files := fstest.MapFS{"chat_template.jinja": {Data: []byte("{{ messages }}")}}
	if err := fs.WalkDir(defaultmodel.Files(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			raw, _ := fs.ReadFile(defaultmodel.Files(), name)
			files[name] = &fstest.MapFile{Data: raw}
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	got, _ := run(t, files, quantizer.Options{Type: "q8"})
	found := 0
	for _, name := range checkpoint.ArchivedFiles {
		want, there := files[name]
		raw, err := fs.ReadFile(got, name)
		if there && (err != nil || !bytes.Equal(raw, want.Data)) || !there && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %d bytes, %v", name, len(raw), err)
		}
		if there {
			found++
		}
	}
	if found < 4 {
		t.Errorf("only %d files were compared", found)
	}
}

// TestMetadataSurvives: of a file of another architecture everything is taken over, and its values are what
// arithmetic says.
func TestMetadataSurvives(t *testing.T) {
	path := filepath.Join("..", "..", "..", "..", "shared", "models", "stories260K-f32.gguf")
	if _, err := os.Stat(path); err != nil {
		t.Skipf("SKIPPED: the real model is not here: %v", err)
	}
	dir, _ := run(t, checkpoint.NewDir(path), quantizer.Options{Type: "q8", Keep: []string{"blk.1.*"}})
	in, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := gguf.OpenFS(dir, checkpoint.FileName)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	for _, key := range in.Keys() {
		a, _ := in.Meta(key)
		if b, ok := out.Meta(key); !ok || b.String() != a.String() && key != "general.file_type" {
			t.Errorf("%s is %v, want %v", key, b, a)
		}
	}
	quantized := 0
	for _, info := range in.Tensors() {
		a, _ := in.Tensor(info.Name)
		b, err := out.Tensor(info.Name)
		if err != nil || !slices.Equal(a.Dims, b.Dims) {
			t.Fatalf("%s: %v %v, want %v", info.Name, err, b.Dims, a.Dims)
		}
		if b.Type == a.Type {
			if !bytes.Equal(a.Data, b.Data) {
				t.Errorf("%s was kept and changed", info.Name)
			}
			continue
		}
		quantized++
		if strings.HasPrefix(info.Name, "blk.1.") || b.Type != gguf.Q8_0 {
			t.Errorf("%s is %v", info.Name, b.Type)
		}
		values := make([]float32, len(a.Data)/4)
		gguf.Dequantize(a.Type, values, a.Data)
		if want, err := gguf.QuantizeFit(gguf.Q8_0, nil, values); err != nil || !bytes.Equal(want, b.Data) {
			t.Errorf("%s is not the quantized tensor (%v)", info.Name, err)
		}
	}
	if quantized == 0 {
		t.Error("nothing was quantized")
	}
}

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	there := filepath.Join(dir, "there.gguf")
	if err := os.WriteFile(there, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	q8, _ := run(t, defaultmodel.Files(), quantizer.Options{Type: "q8"})
	for name, c := range map[string]struct {
		files fs.FS
		out   string
		o     quantizer.Options
		want  string
	}{
		"an unknown type":      {o: quantizer.Options{Type: "q3"}, want: "q4_1, q8, q8_0"},
		"a broken pattern":     {o: quantizer.Options{Type: "q8", Keep: []string{"["}}, want: `"["`},
		"a mistyped pattern":   {o: quantizer.Options{Type: "q8", Keep: []string{"nothing*"}}, want: `"nothing*"`},
		"a file that exists":   {out: there, o: quantizer.Options{Type: "q8"}, want: "--force"},
		"a directory":          {out: dir, o: quantizer.Options{Type: "q8", Force: true}, want: "is a directory"},
		"no such folder":       {out: filepath.Join(dir, "none", "x.gguf"), o: quantizer.Options{Type: "q8"}, want: "no such file"},
		"an empty folder":      {files: fstest.MapFS{}, o: quantizer.Options{Type: "q8"}, want: "config.json"},
		"quantized twice":      {files: q8, o: quantizer.Options{Type: "q4"}, want: "--requantize"},
		"everything kept":      {o: quantizer.Options{Type: "q8", Keep: []string{"*"}}, want: "nothing would change"},
		"weights not a number": {files: damaged(t), o: quantizer.Options{Type: "q8"}, want: "NaN"},
	} {
		if c.files == nil {
			c.files = defaultmodel.Files()
		}
		if c.out == "" {
			c.out = filepath.Join(dir, "new.gguf")
		}
		_, err := quantizer.Run(t.Context(), c.files, c.out, c.o)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want an error with %q", name, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	o := quantizer.Options{Type: "q8", Progress: func(p quantizer.Progress) {
		if p.TensorsDone > 0 {
			cancel()
		}
	}}
	if _, err := quantizer.Run(ctx, defaultmodel.Files(), filepath.Join(dir, "new.gguf"), o); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if list, err := os.ReadDir(dir); err != nil || len(list) != 1 {
		t.Errorf("the folder holds %v (%v), want what was there alone", list, err)
	}
	if raw, err := os.ReadFile(there); err != nil || string(raw) != "precious" {
		t.Errorf("the file that was there holds %q (%v)", raw, err)
	}
	if _, err := quantizer.Run(t.Context(), defaultmodel.Files(), there, quantizer.Options{Type: "q8", Force: true}); err != nil {
		t.Errorf("with Force: %v", err)
	}
}

// damaged is a model with a weight that is no number.
func damaged(t *testing.T) fs.FS {
	data := make([]byte, 4*64)
	for i := range 4 {
		data[4*40+i] = byte(math.Float32bits(float32(math.NaN())) >> (8 * i))
	}
	var file bytes.Buffer
	if err := safetensors.Write(&file, []safetensors.Named{{Name: "a.weight", View: safetensors.View{DType: safetensors.F32, Shape: []int{1, 64}, Data: data}}}); err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{"config.json": {Data: []byte("{}")}, "tokenizer.json": {Data: []byte("{}")}, "model.safetensors": {Data: file.Bytes()}}
}

// FuzzRun: no bytes make it panic, or leave a file behind after an error.
func FuzzRun(f *testing.F) {
	out := filepath.Join(f.TempDir(), "seed.gguf")
	if _, err := quantizer.Run(f.Context(), smallest(), out, quantizer.Options{Type: "q8"}); err != nil {
		f.Fatal(err)
	}
	raw, err := os.ReadFile(out)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, data []byte) {
		dir := t.TempDir()
		files := checkpoint.NewDirFS(fstest.MapFS{"x.gguf": {Data: data}}, "x.gguf")
		_, err := quantizer.Run(t.Context(), files, filepath.Join(dir, "out.gguf"), quantizer.Options{Type: "q4", Requantize: true})
		list, _ := os.ReadDir(dir)
		if (err == nil) != (len(list) == 1) {
			t.Errorf("error %v, and the folder holds %v", err, list)
		}
	})
}

// smallest is the smallest directory that can be quantized.
func smallest() fs.FS {
	var file bytes.Buffer
	_ = safetensors.Write(&file, []safetensors.Named{ // to memory
		{Name: "a.weight", View: safetensors.View{DType: safetensors.F32, Shape: []int{2, 64}, Data: make([]byte, 4*128)}},
		{Name: "norm.weight", View: safetensors.View{DType: safetensors.F32, Shape: []int{64}, Data: make([]byte, 4*64)}}})
	return fstest.MapFS{"config.json": {Data: []byte("{}")}, "tokenizer.json": {Data: []byte("{}")}, "model.safetensors": {Data: file.Bytes()}}
}
