package prequant

import (
	"fmt"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/internal/safetensors"
)

// Source finds the quantized matrices of a checkpoint.
type Source struct {
	file   *safetensors.File
	config *Config
	names  []string
}

// Open returns the quantized matrices of file. It reads no more than names and types.
func Open(file *safetensors.File, config *Config) *Source {
	s := &Source{file: file, config: config}
	for _, name := range file.Names() {
		if name = s.matrixOf(name); name != "" {
			s.names = append(s.names, name)
		}
	}
	return s
}

// weightSuffix is what models call a module's matrix.
const weightSuffix = ".weight"

// codeSuffixes are what the tensor with a module's codes may be called, before its matrix.
var codeSuffixes = []string{codeSuffix[layoutGPTQ], codeSuffix[layoutPacked]}

// besideCodes are the tensors that modules have with their codes, or instead of what a config says about activations,
// keys and values, which this engine does not use.
var besideCodes = []string{".qzeros", ".scales", ".g_idx", ".weight_scale", ".weight_scale_inv", ".weight_zero_point", ".weight_shape", ".weight_g_idx",
	".input_scale", ".input_zero_point", ".input_scale_ub", ".activation_scale", ".output_scale", ".q_scale", ".k_scale", ".v_scale", ".prob_scale"}

// matrixOf is the name under which a model asks for a tensor: "" if it is a part of another.
func (s *Source) matrixOf(name string) string {
	for _, suffix := range codeSuffixes {
		if module, ok := strings.CutSuffix(name, suffix); ok {
			return module + weightSuffix
		}
	}
	if slices.ContainsFunc(besideCodes, func(suffix string) bool { return strings.HasSuffix(name, suffix) }) {
		return ""
	}
	return name
}

// Names returns the checkpoint's tensors by the names that they would have if none were quantized. The caller must not
// modify it.
func (s *Source) Names() []string { return s.names }

// Weight returns the matrix called name, or nil if no quantized one is.
func (s *Source) Weight(name string) (*Weight, error) {
	module, ok := strings.CutSuffix(name, weightSuffix)
	if !ok {
		return nil, nil
	}
	codes, found := s.find(module)
	scheme := s.config.schemeOf(module)
	switch {
	case codes == "" && scheme != nil:
		return nil, fmt.Errorf("prequant: the checkpoint has neither %q nor, not quantized, %q", module+codeSuffix[scheme.layout], name)
	case codes == "", !isCode[found.DType] && codes == name:
		return nil, nil
	case scheme == nil:
		return nil, s.errorf(codes, "is quantized (%s), but quantization_config leaves the module out", found.DType)
	}
	b := &builder{source: s, scheme: scheme, module: module}
	w, err := b.build(codes, found)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// isCode are the types that codes are stored in.
var isCode = map[safetensors.DType]bool{safetensors.F8E4M3: true, safetensors.F8E5M2: true, safetensors.I8: true, safetensors.U8: true, safetensors.I32: true}

// find returns the tensor with a module's matrix, quantized or not.
func (s *Source) find(module string) (name string, v safetensors.View) {
	for _, suffix := range append(slices.Clone(codeSuffixes), weightSuffix) {
		if v, err := s.file.Tensor(module + suffix); err == nil {
			return module + suffix, v
		}
	}
	return "", v
}

// errorf is an error about the tensor called name.
func (s *Source) errorf(name, format string, args ...any) error {
	return fmt.Errorf("prequant: %s: tensor %q %s", s.file.Origin(name), name, fmt.Sprintf(format, args...))
}
