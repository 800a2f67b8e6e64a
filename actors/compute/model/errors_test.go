package model

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
	"github.com/troupe-engine/troupe/internal/safetensors"
)

const tinyDir = "testdata/golden/llama-yarn"

// edited returns tinyDir's checkpoint with its tensors changed by edit.
func edited(t *testing.T, edit func(map[string]safetensors.View)) fs.FS {
	t.Helper()
	return editedOf(t, tinyDir, edit)
}

// editedOf does so with a folder's.
func editedOf(t *testing.T, dir string, edit func(map[string]safetensors.View)) fs.FS {
	t.Helper()
	f, err := safetensors.OpenDir(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	views := map[string]safetensors.View{}
	for _, name := range f.Names() {
		views[name], _ = f.Tensor(name)
	}
	edit(views)
	var tensors []safetensors.Named
	for name, v := range views {
		tensors = append(tensors, safetensors.Named{Name: name, View: v})
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, tensors); err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile(dir + "/config.json")
	if err != nil {
		t.Fatal(err)
	}
	return fstest.MapFS{"config.json": {Data: config}, "model.safetensors": {Data: b.Bytes()}}
}

// TestWeightErrors: a checkpoint that does not fit its config is refused by tensor name, and
// leaves nothing on the device.
func TestWeightErrors(t *testing.T) {
	const name = "model.layers.1.self_attn.k_proj.weight"
	cases := []struct {
		what string
		edit func(map[string]safetensors.View)
		want []string
	}{
		{"missing", func(v map[string]safetensors.View) { delete(v, name) }, []string{name, "[12 24]", "no tensor"}},
		{"missing output", func(v map[string]safetensors.View) { delete(v, "lm_head.weight") }, []string{"lm_head.weight", "tie_word_embeddings"}},
		{"misshapen", func(v map[string]safetensors.View) {
			w := v[name]
			w.Shape = []int{24, 12}
			v[name] = w
		}, []string{name, "[24 12]", "[12 24]"}},
		{"flat", func(v map[string]safetensors.View) {
			w := v[name]
			w.Shape = []int{24 * 12}
			v[name] = w
		}, []string{name, "[288]"}},
		{"integers", func(v map[string]safetensors.View) {
			w := v[name]
			w.DType = safetensors.I16
			v[name] = w
		}, []string{name, "I16", "F32, F16 or BF16"}},
	}
	for _, c := range cases {
		t.Run(c.what, func(t *testing.T) {
			dev := openDevice(t)
			_, err := Load(dev, edited(t, c.edit), testOptions, nil)
			if err == nil {
				t.Fatal("no error")
			}
			for _, w := range append(c.want, "model.safetensors") {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("error %q does not mention %q", err, w)
				}
			}
			if s := dev.Memory(); s.Tensors != 0 {
				t.Errorf("%d tensors left on the device", s.Tensors)
			}
		})
	}
}

func TestUnusedTensorsAndProgress(t *testing.T) {
	extra := safetensors.View{DType: safetensors.F32, Shape: []int{1}, Data: make([]byte, 4)}
	files := edited(t, func(v map[string]safetensors.View) {
		v["model.layers.0.self_attn.rotary_emb.inv_freq"] = extra
		v["vision.weight"] = extra
	})
	var last, sum int64
	m, err := Load(openDevice(t), files, testOptions, func(done, total int64) {
		if done < last || done > total {
			t.Errorf("progress %d of %d after %d", done, total, last)
		}
		last, sum = done, total
	})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if got := m.UnusedTensors(); !slices.Equal(got, []string{"vision.weight"}) {
		t.Errorf("UnusedTensors = %v", got)
	}
	if last != sum || sum == 0 {
		t.Errorf("progress ended at %d of %d", last, sum)
	}
}

// TestOutOfMemory: whatever allocation fails, nothing stays behind.
func TestOutOfMemory(t *testing.T) {
	for _, limit := range []int64{1 << 10, 10 << 10, 30 << 10, 100 << 10, 200 << 10} {
		dev, err := cpu.Open(cpu.Options{Threads: 1, MemoryLimitBytes: limit})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Load(dev, os.DirFS(tinyDir), testOptions, nil); !errors.Is(err, gpu.ErrOutOfMemory) {
			t.Errorf("limit %d: %v, want ErrOutOfMemory", limit, err)
		}
		if err := dev.Close(); err != nil {
			t.Errorf("limit %d: %v", limit, err)
		}
	}
}

func TestOptionErrors(t *testing.T) {
	cases := []struct {
		want string
		edit func(*Options)
	}{
		{"SequencesMax is 0", func(o *Options) { o.SequencesMax = 0 }},
		{"TokensPerStepMax is -1", func(o *Options) { o.TokensPerStepMax = -1 }},
		{"ContextMax is 129, want 1..128", func(o *Options) { o.ContextMax = 129 }},
		{"BlockSize is 0", func(o *Options) { o.BlockSize = 0 }},
		{"KVBlocks is 0", func(o *Options) { o.KVBlocks = 0 }},
		{"KVBlocks is 1073741824", func(o *Options) { o.KVBlocks = 1 << 30 }},
	}
	for _, c := range cases {
		o := testOptions
		c.edit(&o)
		if _, err := Load(openDevice(t), os.DirFS(tinyDir), o, nil); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
}

// computeKV is a device whose pools have the type that it computes in alone, as CUDA's.
type computeKV struct{ gpu.Device }

func (d computeKV) Info() gpu.Info {
	info := d.Device.Info()
	info.Name, info.KV = "cuda:0", []gpu.DType{info.Compute}
	return info
}

func TestKeysAndValuesThatADeviceLacks(t *testing.T) {
	o := testOptions
	o.KV = gpu.I8
	_, err := Load(computeKV{openDevice(t)}, os.DirFS(tinyDir), o, nil)
	if want := "keys and values in i8 (Options.KV): cuda:0 has them in [f32]"; !errors.Is(err, gpu.ErrNotSupported) || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
}

// TestStepInputErrors: a plan with any number out of range is refused by field and index.
func TestStepInputErrors(t *testing.T) {
	g := readGolden(t, tinyDir)
	e := newEngineOf(t, os.DirFS(tinyDir), g.spec, testOptions)
	cases := []struct {
		want string
		edit func(*StepInput)
	}{
		{"has 0 tokens", func(in *StepInput) { in.Tokens = nil }},
		{"has 257 tokens", func(in *StepInput) { in.Tokens = make([]int32, 257) }},
		{"Tokens[1] is -2", func(in *StepInput) { in.Tokens[1] = -2 }},
		{"Tokens[0] is 48, want -1..47", func(in *StepInput) { in.Tokens[0] = 48 }},
		{"Positions has 1 entries, want 5", func(in *StepInput) { in.Positions = in.Positions[:1] }},
		{"Positions[4] is 128", func(in *StepInput) { in.Positions[4] = 128 }},
		{"TokenSlots[2] is 6", func(in *StepInput) { in.TokenSlots[2] = 6 }},
		{"TokenSlots[2] is 3, but the token belongs to slot 0", func(in *StepInput) { in.TokenSlots[2] = 3 }},
		{"SlotMapping[3] is 400", func(in *StepInput) { in.SlotMapping[3] = 400 }},
		{"SlotMapping[3] is -2", func(in *StepInput) { in.SlotMapping[3] = -2 }},
		{"Slots has 0 sequences", func(in *StepInput) { in.Slots = nil }},
		{"Slots[0] is -1", func(in *StepInput) { in.Slots[0] = -1 }},
		{"QueryStart has 2 entries, want 3", func(in *StepInput) { in.QueryStart = in.QueryStart[:2] }},
		{"QueryStart runs from 1", func(in *StepInput) { in.QueryStart[0] = 1 }},
		{"QueryStart runs from 0 to 4", func(in *StepInput) { in.QueryStart[2] = 4 }},
		{"sequence 1 has no token", func(in *StepInput) { in.QueryStart[1] = 5; in.TokenSlots[3], in.TokenSlots[4] = 0, 0 }},
		{"LogitRows[0] is 5", func(in *StepInput) { in.LogitRows[0] = 5 }},
		{"LogitRows has 6 entries", func(in *StepInput) { in.LogitRows = make([]int32, 6) }},
	}
	for _, c := range cases {
		in := &StepInput{Tokens: []int32{1, 2, 3, 4, 5}, Positions: []int32{0, 1, 2, 0, 1}, TokenSlots: []int32{0, 0, 0, 1, 1},
			SlotMapping: []int32{0, 1, 2, 4, 5}, Slots: []int32{0, 1}, QueryStart: []int32{0, 3, 5}, LogitRows: []int32{2, 4}}
		c.edit(in)
		if _, err := e.m.Forward(in); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want %q", err, c.want)
		}
	}
	for _, err := range []error{
		e.m.SetBlocks(6, 0, []int32{1}), e.m.SetBlocks(0, 33, nil), e.m.SetBlocks(0, 32, []int32{1}),
		e.m.SetBlocks(0, 0, []int32{100}), e.m.CopyBlocks([]int32{1}), e.m.CopyBlocks([]int32{1, 100}),
	} {
		if err == nil {
			t.Error("an argument out of range was accepted")
		}
	}
	if _, err := e.m.Sample(nil, gpu.Tensor{}); err == nil {
		t.Error("Sample without logits was accepted")
	}
}

func TestCloseTwice(t *testing.T) {
	m, err := Load(openDevice(t), os.DirFS(tinyDir), testOptions, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	if err := m.Close(); err == nil {
		t.Error("the second Close gave no error")
	}
}
