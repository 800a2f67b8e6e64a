package quantizer

import (
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/internal/gguf"
)

// kind is what a value of Options.Type makes of a model.
type kind struct {
	matrices gguf.Type
	ends     gguf.Type // the embedding table and the output projection, which more depends on
	values   gguf.Type // projections to values, whose rounding costs several times what their size would suggest
	fileType uint32    // general.file_type, as llama.cpp numbers the mixtures
}

// asStored is a kind's type for tensors that it leaves as they are.
const asStored gguf.Type = math.MaxUint32

var kinds = map[string]kind{
	"q8":   {gguf.Q8_0, gguf.Q8_0, asStored, 7},
	"q4":   {gguf.Q4_1, gguf.Q8_0, gguf.Q8_0, 3},
	"q8_0": {gguf.Q8_0, gguf.Q8_0, gguf.Q8_0, 7},
	"q4_0": {gguf.Q4_0, gguf.Q8_0, gguf.Q4_0, 2},
	"q4_1": {gguf.Q4_1, gguf.Q8_0, gguf.Q4_1, 3},
	"bf16": {gguf.BF16, gguf.BF16, gguf.BF16, 32},
	"f16":  {gguf.F16, gguf.F16, gguf.F16, 1},
	"f32":  {gguf.F32, gguf.F32, gguf.F32, 0},
}

// Types lists the values of Options.Type.
func Types() []string { return slices.Sorted(maps.Keys(kinds)) }

// PatternsMax bounds Options.Keep.
const PatternsMax = 1 << 10

// check says what of o makes no sense.
func (o *Options) check() error {
	if _, ok := kinds[o.Type]; !ok {
		return fmt.Errorf("the type is %q, want one of %s", o.Type, strings.Join(Types(), ", "))
	}
	if len(o.Keep) > PatternsMax {
		return fmt.Errorf("there are %d patterns of tensors to keep, the limit is %d", len(o.Keep), PatternsMax)
	}
	for _, pattern := range o.Keep {
		if _, err := path.Match(pattern, ""); err != nil {
			return fmt.Errorf("the pattern %q of tensors to keep: %w; * stands for any characters, [0-9] for one of some", pattern, err)
		}
	}
	return nil
}

// kept reports whether a pattern keeps a tensor as it is, and marks the pattern as used.
func (o *Options) kept(name string, used map[string]bool) bool {
	kept := false
	for _, pattern := range o.Keep {
		if ok, _ := path.Match(pattern, name); ok { // check has refused bad patterns
			used[pattern], kept = true, true
		}
	}
	return kept
}

// target returns the type that a tensor gets: its own unless it is a matrix, or a stack of them, whose rows divide
// into blocks. Experts' routers are too small and sensitive to be worth it, and so are norms and biases.
func (o *Options) target(t *tensor) gguf.Type {
	k := kinds[o.Type]
	to := k.matrices
	switch t.Name {
	case "token_embd.weight", "output.weight", "model.embed_tokens.weight", "lm_head.weight":
		to = k.ends
	}
	if t.values() {
		to = k.values
	}
	if to == asStored {
		return t.Type
	}
	plain := !to.Quantized()
	switch {
	case len(t.Dims) < 2 || !strings.HasSuffix(t.Name, ".weight") || strings.Contains(t.Name, "norm"),
		t.Type.Quantized() && !o.Requantize,
		!plain && (strings.HasSuffix(t.Name, ".gate.weight") || strings.HasSuffix(t.Name, "ffn_gate_inp.weight")),
		t.Dims[0]%to.BlockLen() != 0:
		return t.Type
	}
	return to
}

// values reports whether t projects to values.
func (t *tensor) values() bool {
	return strings.HasSuffix(t.Name, ".attn_v.weight") || strings.HasSuffix(t.Name, ".v_proj.weight")
}

// plan returns the tensors of the result. It is an error if nothing would change, or if a pattern matches nothing:
// most likely it is mistyped.
func (o *Options) plan(s *source) ([]gguf.Info, error) {
	used := map[string]bool{}
	var out []gguf.Info
	changed, quantized := false, false
	for i := range s.tensors {
		t := &s.tensors[i]
		to := o.target(t)
		if o.kept(t.Name, used) {
			to = t.Type
		}
		quantized = quantized || t.Type.Quantized()
		changed = changed || to != t.Type && !t.values() // which q8 leaves to others, without being unfinished
		out = append(out, gguf.Info{Name: t.Name, Type: to, Dims: t.Dims})
	}
	for _, pattern := range o.Keep {
		if !used[pattern] {
			return nil, fmt.Errorf("no tensor's name matches the pattern %q of tensors to keep; the first ones are %s", pattern, s.names(3))
		}
	}
	switch {
	case !changed && quantized && !o.Requantize:
		return nil, fmt.Errorf("nothing would change: the weights are quantized already, and quantizing twice costs precision; --requantize does it all the same")
	case !changed:
		return nil, fmt.Errorf("nothing would change: no weight that is not kept can become %s", o.Type)
	}
	return out, nil
}

// names lists the first n tensors.
func (s *source) names(n int) string {
	var list []string
	for _, t := range s.tensors[:min(n, len(s.tensors))] {
		list = append(list, fmt.Sprintf("%q", t.Name))
	}
	return strings.Join(list, ", ")
}
