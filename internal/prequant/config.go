package prequant

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/internal/safetensors"
)

// Limits on what a config may ask for.
const (
	// PatternsMax bounds the names in one list of modules.
	PatternsMax = 1 << 13
	// GroupsMax bounds the config_groups of compressed-tensors.
	GroupsMax = 64
	// BlockMax bounds the rows and columns that share a scale.
	BlockMax = 1 << 20
)

// layout is how a matrix is cut into tensors.
type layout int

const (
	layoutFloats layout = iota // weight F8_E4M3 [n, k], weight_scale or weight_scale_inv
	layoutBytes                // weight I8 [n, k], weight_scale, weight_zero_point
	layoutPacked               // weight_packed I32 [n, k/per], weight_scale, weight_shape, weight_zero_point, weight_g_idx
	layoutGPTQ                 // qweight I32 [k/per, n], qzeros, scales, g_idx
	layoutAWQ                  // qweight I32 [k, n/per], qzeros, scales
)

// codeSuffix is what the tensor with a module's codes is called, and codeType what it is of.
var (
	codeSuffix = map[layout]string{layoutFloats: weightSuffix, layoutBytes: weightSuffix, layoutPacked: ".weight_packed", layoutGPTQ: ".qweight", layoutAWQ: ".qweight"}
	codeType   = map[layout]safetensors.DType{layoutFloats: safetensors.F8E4M3, layoutBytes: safetensors.I8, layoutPacked: safetensors.I32, layoutGPTQ: safetensors.I32, layoutAWQ: safetensors.I32}
)

// scheme is how the matrices of some modules are quantized.
type scheme struct {
	targets   patterns
	layout    layout
	bits      int
	group     int    // columns that share a scale; 0: all of a row, or of a tensor
	block     [2]int // rows and columns that share a scale; 0 where group says it
	zeros     bool   // codes count from zeros that are stored
	zerosLess bool   // what is stored is one less (GPTQ v1)
	ordered   bool   // the group of each column is stored
}

// Config is a parsed quantization_config.
type Config struct {
	Method  string // "gptq", or "compressed-tensors pack-quantized"
	schemes []scheme
	ignored patterns
}

// methods are the values of quant_method that are read.
var methods = map[string]func(c *Config, f fields) error{
	"fp8": parseFP8, "fbgemm_fp8": parseFP8, "modelopt": parseModelOpt, "gptq": parseGPTQ, "awq": parseAWQ, "compressed-tensors": parseCompressed,
}

// ParseConfig reads the quantization_config of a config.json. The error names the field, its value and what is
// supported.
func ParseConfig(raw []byte) (*Config, error) {
	f := fields{}
	if err := json.Unmarshal(raw, &f.values); err != nil || f.values == nil {
		return nil, errors.New("it is not a JSON object")
	}
	var method string
	if err := f.read("quant_method", &method, "a string"); err != nil {
		return nil, err
	}
	parse, ok := methods[strings.ToLower(method)]
	if !ok {
		return nil, fmt.Errorf("quant_method is %q; supported: %s", clip(method), strings.Join(slices.Sorted(maps.Keys(methods)), ", "))
	}
	c := &Config{Method: strings.ToLower(method)}
	for _, key := range []string{"ignore", "ignored_layers", "modules_to_not_convert"} {
		var names []string
		err := f.read(key, &names, "a list of strings")
		if err == nil {
			err = c.ignored.add(key, names)
		}
		if err != nil {
			return nil, err
		}
	}
	return c, parse(c, f)
}

func parseFP8(c *Config, f fields) error {
	format, activations, scales, block := "e4m3", "dynamic", "ue8m0", []int(nil)
	if err := errors.Join(f.read("fmt", &format, "a string"), f.read("activation_scheme", &activations, "a string"),
		f.read("scale_fmt", &scales, "a string"), f.read("weight_block_size", &block, "two whole numbers")); err != nil {
		return err
	}
	switch {
	case format != "e4m3" && format != "float8_e4m3fn":
		return fmt.Errorf("fmt is %q; supported: e4m3, float8_e4m3fn", clip(format))
	case activations != "dynamic" && activations != "static":
		return fmt.Errorf("activation_scheme is %q; supported: dynamic, static", clip(activations))
	case scales != "ue8m0":
		return fmt.Errorf("scale_fmt is %q; supported: ue8m0", clip(scales))
	}
	s := scheme{targets: everything, layout: layoutFloats, bits: 8}
	if block != nil {
		if len(block) != 2 || !inBlock(block[0]) || !inBlock(block[1]) {
			return f.wrong("weight_block_size", fmt.Sprintf("two whole numbers in 1..%d", BlockMax))
		}
		s.block = [2]int(block)
	}
	c.schemes = []scheme{s}
	return nil
}

// parseModelOpt reads what NVIDIA's ModelOpt writes of 8-bit floats.
func parseModelOpt(c *Config, f fields) error {
	algorithms := []string{"FP8", "FP8_PER_CHANNEL_PER_TOKEN"}
	var algorithm string
	if err := f.read("quant_algo", &algorithm, "a string"); err != nil {
		return err
	}
	if !slices.Contains(algorithms, algorithm) {
		return fmt.Errorf("quant_algo is %q; supported with modelopt: %s", clip(algorithm), strings.Join(algorithms, ", "))
	}
	c.schemes = []scheme{{targets: everything, layout: layoutFloats, bits: 8}}
	return nil
}

func parseGPTQ(c *Config, f fields) error {
	s := scheme{targets: everything, layout: layoutGPTQ, zeros: true}
	format, packed, marlin := "gptq", "int32", false
	var dynamic map[string]json.RawMessage
	err := errors.Join(f.read("bits", &s.bits, "4 or 8"), f.read("desc_act", &s.ordered, "true or false"), f.read("checkpoint_format", &format, "a string"),
		f.read("pack_dtype", &packed, "a string"), f.read("is_marlin_format", &marlin, "true or false"), f.read("dynamic", &dynamic, "an object"))
	switch {
	case err != nil:
		return err
	case s.bits != 4 && s.bits != 8:
		return fmt.Errorf("bits is %d; supported with gptq: 4, 8", s.bits)
	case format != "gptq" && format != "gptq_v2":
		return fmt.Errorf("checkpoint_format is %q; supported: gptq, gptq_v2", clip(format))
	case marlin:
		return errors.New("is_marlin_format is true: weights in Marlin's own order are not supported; use the checkpoint in the format gptq")
	case packed != "int32":
		return fmt.Errorf("pack_dtype is %q; supported: int32", clip(packed))
	case len(dynamic) > 0:
		return errors.New("dynamic is set: modules that are quantized differently are not supported with gptq")
	}
	s.zerosLess = format == "gptq"
	s.group, err = f.groupSize("group_size")
	c.schemes = []scheme{s}
	return err
}

func parseAWQ(c *Config, f fields) error {
	s := scheme{targets: everything, layout: layoutAWQ, zeros: true}
	version := "gemm"
	// AutoAWQ's own config calls two of them otherwise.
	bitsKey, groupKey := f.first("bits", "w_bit"), f.first("group_size", "q_group_size")
	err := errors.Join(f.read(bitsKey, &s.bits, "4"), f.read("zero_point", &s.zeros, "true or false"), f.read("version", &version, "a string"))
	switch {
	case err != nil:
		return err
	case s.bits != 4:
		return fmt.Errorf("%s is %d; supported with awq: 4", bitsKey, s.bits)
	case strings.ToLower(version) != "gemm":
		return fmt.Errorf("version is %q; supported with awq: gemm", clip(version))
	case !s.zeros:
		return errors.New("zero_point is false; supported with awq: true")
	}
	s.group, err = f.groupSize(groupKey)
	c.schemes = []scheme{s}
	return err
}

func inBlock(n int) bool { return n >= 1 && n <= BlockMax }

// fields are the keys of one JSON object.
type fields struct {
	path   string // with a dot at its end, or empty
	values map[string]json.RawMessage
}

func (f fields) has(key string) bool {
	raw, ok := f.values[key]
	return ok && string(raw) != "null"
}

// first returns the first of keys that is there, or the first of all.
func (f fields) first(keys ...string) string {
	for _, key := range keys {
		if f.has(key) {
			return key
		}
	}
	return keys[0]
}

// read decodes the value under key; an absent one leaves into as it is.
func (f fields) read(key string, into any, want string) error {
	if f.has(key) && json.Unmarshal(f.values[key], into) != nil {
		return f.wrong(key, want)
	}
	return nil
}

func (f fields) wrong(key, want string) error {
	return fmt.Errorf("%s%s is %s, want %s", f.path, key, cmp.Or(clip(string(f.values[key])), "missing"), want)
}

// groupSize reads the columns of a group: 0 if it is all of them, which files spell -1.
func (f fields) groupSize(key string) (int, error) {
	group := 0
	err := f.read(key, &group, "a whole number")
	if err != nil || group != -1 && !inBlock(group) {
		return 0, f.wrong(key, fmt.Sprintf("-1 or a whole number in 1..%d", BlockMax))
	}
	return max(group, 0), nil
}

// clip shortens text from a file before it goes into a message.
func clip(s string) string {
	const clipBytesMax = 120
	if len(s) <= clipBytesMax {
		return s
	}
	return s[:clipBytesMax] + "…"
}
