package troupe

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/schemas"
)

// spoiler changes one file of a model. It gets the file's bytes; nil as its result removes the file.
type spoiler struct {
	name, file string
	spoil      func(t *testing.T, raw []byte) []byte
	want       string // in the error: the tensor or field that is wrong
}

// field sets a field of a JSON file to a value; the path leads through objects.
func field(value any, path ...string) func(*testing.T, []byte) []byte {
	return func(t *testing.T, raw []byte) []byte {
		t.Helper()
		var whole map[string]any
		if err := json.Unmarshal(raw, &whole); err != nil {
			t.Fatal(err)
		}
		at := whole
		for _, key := range path[:len(path)-1] {
			at = at[key].(map[string]any)
		}
		at[path[len(path)-1]] = value
		return marshal(t, whole)
	}
}

// header changes the header of a safetensors file.
func header(change func(tensors map[string]any)) func(*testing.T, []byte) []byte {
	return func(t *testing.T, raw []byte) []byte {
		t.Helper()
		size := binary.LittleEndian.Uint64(raw)
		var tensors map[string]any
		if err := json.Unmarshal(raw[8:8+size], &tensors); err != nil {
			t.Fatal(err)
		}
		change(tensors)
		changed := marshal(t, tensors)
		out := binary.LittleEndian.AppendUint64(nil, uint64(len(changed)))
		return append(append(out, changed...), raw[8+size:]...)
	}
}

const someTensor = "model.layers.1.mlp.down_proj.weight"

func tensor(key string, value any) func(*testing.T, []byte) []byte {
	return header(func(tensors map[string]any) { tensors[someTensor].(map[string]any)[key] = value })
}

func cut(keep float64) func(*testing.T, []byte) []byte {
	return func(_ *testing.T, raw []byte) []byte { return raw[:int(float64(len(raw))*keep)] }
}

func replaced(with string) func(*testing.T, []byte) []byte {
	return func(*testing.T, []byte) []byte { return []byte(with) }
}

func gone(*testing.T, []byte) []byte { return nil }

const (
	weights    = "model.safetensors"
	config     = "config.json"
	vocabulary = "tokenizer.json"
	chat       = "tokenizer_config.json"
)

var spoilers = []spoiler{
	{"no weights", weights, gone, "safetensors"},
	{"empty", weights, replaced(""), weights},
	{"cut in the header", weights, cut(0.0001), weights},
	{"cut in the data", weights, cut(0.5), weights},
	{"a header of 2^62 bytes", weights, func(_ *testing.T, raw []byte) []byte {
		return append(binary.LittleEndian.AppendUint64(nil, 1<<62), raw[8:]...)
	}, weights},
	{"a header that is no JSON", weights, func(_ *testing.T, raw []byte) []byte {
		copy(raw[8:], "not JSON")
		return raw
	}, weights},
	{"more data than the header says", weights, func(_ *testing.T, raw []byte) []byte { return append(raw, make([]byte, 1<<20)...) }, weights},
	{"a tensor that is missing", weights, header(func(tensors map[string]any) {
		tensors["renamed"] = tensors[someTensor]
		delete(tensors, someTensor)
	}), someTensor},
	{"offsets beyond the file", weights, tensor("data_offsets", []int64{0, 1 << 50}), someTensor},
	{"negative offsets", weights, tensor("data_offsets", []int64{-8, 8}), someTensor},
	{"offsets that run backwards", weights, tensor("data_offsets", []int64{4096, 0}), someTensor},
	{"one offset", weights, tensor("data_offsets", []int64{0}), someTensor},
	{"another shape", weights, tensor("shape", []int64{1, 1}), someTensor},
	{"a shape beyond 2^64 elements", weights, tensor("shape", []int64{1 << 40, 1 << 40}), someTensor},
	{"a negative shape", weights, tensor("shape", []int64{-1, -1}), someTensor},
	{"a shape that is text", weights, tensor("shape", "wide"), someTensor},
	{"an unknown type", weights, tensor("dtype", "Q17"), someTensor},
	{"another type", weights, tensor("dtype", "F64"), someTensor},

	{"cut", config, cut(0.5), config},
	{"a list", config, replaced("[]"), config},
	{"text for a number", config, field("wide", "hidden_size"), "hidden_size"},
	{"no width", config, field(0, "hidden_size"), "hidden_size"},
	{"a negative width", config, field(-64, "hidden_size"), "hidden_size"},
	{"a width beyond memory", config, field(1<<40, "hidden_size"), "hidden_size"},
	{"a million layers", config, field(1_000_000, "num_hidden_layers"), "num_hidden_layers|layers.4."},
	{"negative layers", config, field(-1, "num_hidden_layers"), "num_hidden_layers"},
	{"no heads", config, field(0, "num_attention_heads"), "num_attention_heads"},
	{"heads that do not divide", config, field(7, "num_attention_heads"), "num_attention_heads|num_key_value_heads|q_proj"},
	{"more KV heads than heads", config, field(512, "num_key_value_heads"), "num_key_value_heads"},
	{"a vocabulary beyond memory", config, field(1<<40, "vocab_size"), "vocab_size"},
	{"a vocabulary that the weights do not have", config, field(77, "vocab_size"), "embed_tokens|vocab_size"},
	{"a context beyond memory", config, field(1<<50, "max_position_embeddings"), "max_position_embeddings"},
	{"a negative epsilon", config, field(-1, "rms_norm_eps"), "rms_norm_eps"},
	{"no rotation", config, field(0, "rope_theta"), "rope_theta"},
	{"an unknown rotation", config, field(map[string]any{"rope_type": "spiral", "factor": 2}, "rope_scaling"), "rope_type"},
	{"an unknown architecture", config, field([]string{"PerceptronForCausalLM"}, "architectures"), "architectures"},
	{"an unknown activation", config, field("relu9", "hidden_act"), "hidden_act"},

	{"none", vocabulary, gone, vocabulary},
	{"cut", vocabulary, cut(0.5), vocabulary},
	{"a number", vocabulary, replaced("7"), vocabulary},
	{"an unknown model", vocabulary, field("Oracle", "model", "type"), "model.type"},
	{"a vocabulary that is a number", vocabulary, field(7, "model", "vocab"), "model.vocab"},
	{"a negative id", vocabulary, field(map[string]any{"a": -1}, "model", "vocab"), "vocab"},
	{"an id beyond memory", vocabulary, field(map[string]any{"a": 1 << 40}, "model", "vocab"), "vocab"},
	{"merges of unknown tokens", vocabulary, field([]string{"qqqq zzzz"}, "model", "merges"), "model.merges"},
	{"merges that are numbers", vocabulary, field([]int{1, 2}, "model", "merges"), "model.merges"},
	{"an unknown pre-tokenizer", vocabulary, field(map[string]any{"type": "Scissors"}, "pre_tokenizer"), "pre_tokenizer"},
	{"an added token without content", vocabulary, field([]any{map[string]any{"id": 1}}, "added_tokens"), "added_tokens"},

	{"cut", chat, cut(0.5), chat},
	{"a template that does not end", chat, field("{% if messages %}", "chat_template"), "chat_template"},
	{"a template with half an expression", chat, field("{{ messages[", "chat_template"), "chat_template"},
	{"a template that is a number", chat, field(17, "chat_template"), "chat_template"},
	{"a template that nests beyond reason", chat, field(strings.Repeat("{% if 1 %}", 100_000), "chat_template"), "chat_template"},
}

func TestHostileModelsAreRefusedByName(t *testing.T) {
	base := t.TempDir()
	if err := os.CopyFS(base, defaultmodel.Files()); err != nil {
		t.Fatal(err)
	}
	for _, s := range spoilers {
		t.Run(strings.ReplaceAll(s.file+": "+s.name, " ", "_"), func(t *testing.T) {
			defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
			err := openSpoilt(t, base, s)
			if err == nil {
				t.Fatal("the engine opened the model")
			}
			t.Log(err)
			if strings.Contains(err.Error(), "panic") {
				t.Error("the error is a caught panic")
			}
			named := false
			for _, want := range strings.Split(s.want, "|") {
				named = named || strings.Contains(err.Error(), want)
			}
			if !named {
				t.Errorf("the error does not name %s", s.want)
			}
			var e *schemas.Error
			if errors.As(err, &e) && e.Kind == schemas.KindInternal {
				t.Errorf("the model is wrong, but the error's kind is %s", e.Kind)
			}
		})
	}
}

// openSpoilt opens a copy of the model in base in which one file is spoilt.
func openSpoilt(t *testing.T, base string, s spoiler) error {
	t.Helper()
	dir := t.TempDir()
	entries, err := os.ReadDir(base)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		from, to := filepath.Join(base, entry.Name()), filepath.Join(dir, entry.Name())
		if entry.Name() != s.file {
			if err := os.Link(from, to); err != nil {
				t.Fatal(err)
			}
			continue
		}
		raw, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if raw = s.spoil(t, raw); raw == nil {
			continue
		}
		if err := os.WriteFile(to, raw, fs.FileMode(0o644)); err != nil {
			t.Fatal(err)
		}
	}
	opts := DefaultOptions()
	opts.Model, opts.HTTP, opts.NATSListen = dir, "127.0.0.1:0", "127.0.0.1:0"
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	e, err := Open(ctx, opts, zerolog.Nop(), nil)
	if err == nil {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	}
	// Where the system tells (Linux), no file of the model is still mapped.
	if maps, unknown := os.ReadFile("/proc/self/maps"); unknown == nil && strings.Contains(string(maps), dir) {
		t.Error("a file of the refused model is still mapped into memory")
	}
	return err
}
