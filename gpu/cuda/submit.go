package cuda

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// The structs that submitted kernels are given, laid out as their namesakes in kernels/submit.cuh.
type (
	givenNorm struct {
		out, x, weight uintptr
		rows, cols     int32
		eps, offset    float32
	}
	givenActMul struct {
		out, x           uintptr
		rows, cols, gelu int32
		_                int32
	}
	givenRoPE struct {
		x, cos, sin                            uintptr
		rows, cols, stride, column, heads, dim int32
	}
	givenMatMul struct {
		out, x, w, bias                                 uintptr
		rows, cols, outputs, stride, accumulate, outF32 int32
	}
)

// submittedMax bounds the kernels that are registered while the device lives: their code stays.
const submittedMax = 64

// Submittable implements gpu.Submitter.
func (d *Device) Submittable(op gpu.Op) error {
	switch op {
	case gpu.OpRMSNorm, gpu.OpActMul, gpu.OpRoPE, gpu.OpMatMul:
		return nil
	}
	return fmt.Errorf("%w: kernels of %.80q cannot be submitted; those of rmsnorm, act_mul, rope and matmul can", gpu.ErrNotSupported, string(op))
}

// submittedSource is the complete text of a submitted kernel's module. Lines count from the submitted text's first.
func submittedSource(compute gpu.DType, text string) string {
	var b bytes.Buffer
	if compute == gpu.BF16 {
		b.WriteString("#define ACT_BF16\n")
	}
	for _, name := range []string{"common.cuh", "submit.cuh"} {
		own, err := kernelFiles.ReadFile("kernels/" + name)
		if err != nil {
			panic(err) // embedded when this was built
		}
		fmt.Fprintf(&b, "#line 1 %q\n%s\n", name, own)
	}
	fmt.Fprintf(&b, "#line 1 %q\n%s\n", submittedFile, text)
	return b.String()
}

// submittedFile is what the compiler calls the text.
const submittedFile = "submitted.cu"

// directives are the preprocessor's that a submitted text may have: those that read no files.
var directives = []string{"define", "undef", "if", "ifdef", "ifndef", "elif", "else", "endif", "pragma", "error"}

// blankSplice is what some compilers, too, take for a line that goes on.
var blankSplice = regexp.MustCompile(`\\\s+(\n|$)|\\\r`)

// checkDirectives refuses a text that could make the compiler read files of this machine and show them in its
// messages. It looks at each #, wherever it is, since what is a comment or a string is the compiler's to say.
func checkDirectives(text string) error {
	bad := func(what string) error {
		return &gpu.KernelFieldError{Field: "source", Text: fmt.Sprintf("source has %s; expected # at the beginning of #%s, or as ##, alone: no file can be included", what, strings.Join(directives, ", #"))}
	}
	spliced := strings.NewReplacer("\\\n", "", "\\\r\n", "").Replace(text)
	if blankSplice.MatchString(spliced) {
		return bad("a backslash and blanks at the end of a line")
	}
	for _, odd := range []string{"??", "%:", "__has_include", "__has_embed"} {
		if strings.Contains(spliced, odd) {
			return bad(odd)
		}
	}
	rest := strings.ReplaceAll(spliced, "##", "")
	for {
		_, after, found := strings.Cut(rest, "#")
		if !found {
			return nil
		}
		rest = after
		after = strings.TrimLeft(after, " \t")
		n := strings.IndexFunc(after+"\n", func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) })
		if word := after[:n]; !slices.Contains(directives, word) {
			return bad(fmt.Sprintf("a # before %.20q", word))
		}
	}
}

// submitted is a gpu.LoadedKernel.
type submitted struct {
	d      *Device
	source gpu.KernelSource
	f      function
	module uintptr
}

// Load implements gpu.Submitter.
func (d *Device) Load(k *gpu.KernelSource, code []byte) (gpu.LoadedKernel, error) {
	if err := d.Submittable(k.Op); err != nil {
		return nil, err
	}
	if len(code) == 0 {
		return nil, fmt.Errorf("cuda: kernel %s was not compiled", k.Name)
	}
	if k.SharedBytes > d.properties.sharedBytesBlock {
		return nil, &gpu.KernelFieldError{Field: "shared_bytes", Text: fmt.Sprintf("shared_bytes is %d; expected at most this GPU's %d", k.SharedBytes, d.properties.sharedBytesBlock)}
	}
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.leave()
	s := &submitted{d: d, source: *k}
	if err := d.check("cuModuleLoadData of "+k.Name, call(d.driver.cuModuleLoadData, uintptr(unsafe.Pointer(&s.module)), uintptr(unsafe.Pointer(&code[0])))); err != nil {
		return nil, err
	}
	s.f = function{name: k.Entry, overlap: k.Overlap && d.properties.major >= overlapMajor}
	text := cBytes(k.Entry)
	status := call(d.driver.cuModuleGetFunction, uintptr(unsafe.Pointer(&s.f.handle)), s.module, uintptr(unsafe.Pointer(&text[0])))
	if status == statusNotFound {
		return nil, errors.Join(&gpu.KernelFieldError{Field: "entry", Text: fmt.Sprintf("entry is %q, which the source has no kernel of; expected one that is declared as KERNEL %s(…)", k.Entry, k.Entry)}, s.unload())
	}
	if err := d.check("cuModuleGetFunction of "+k.Entry, status); err != nil {
		return nil, errors.Join(err, s.unload())
	}
	const maxDynamicSharedSize = 8 // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
	if err := d.check("cuFuncSetAttribute of "+k.Entry, call(d.driver.cuFuncSetAttribute, s.f.handle, maxDynamicSharedSize, uintptr(k.SharedBytes))); err != nil {
		return nil, errors.Join(err, s.unload())
	}
	return s, nil
}

// Launch implements gpu.LoadedKernel.
func (s *submitted) Launch(args any) error {
	if err := s.d.enter(); err != nil {
		return err
	}
	defer s.d.leave()
	return s.run(s.d, args)
}

// Register implements gpu.LoadedKernel.
func (s *submitted) Register(doc string, batchVariant bool) error {
	d := s.d
	for _, im := range d.Implementations(s.source.Op) {
		if im.Name == s.source.Name {
			return &gpu.KernelFieldError{Field: "name", Text: fmt.Sprintf("name is %q, which %s has already; expected a new one", im.Name, s.source.Op)}
		}
	}
	if d.submissions >= submittedMax {
		return fmt.Errorf("%w: %d kernels were submitted since this device was opened; restart the engine to forget them", gpu.ErrNotSupported, submittedMax)
	}
	d.submissions++
	d.Register(s.source.Op, s.source.Name, doc, func(d *Device, args any) error {
		if !s.takes(d, args) {
			first, _ := d.ops.First(s.source.Op)
			return first(d, args)
		}
		return s.run(d, args)
	})
	if batchVariant {
		d.ops.Vary(s.source.Op, s.source.Name)
	}
	return nil
}

// Unload implements gpu.LoadedKernel.
func (s *submitted) Unload() error {
	if err := s.d.enter(); err != nil {
		return err
	}
	defer s.d.leave()
	return s.unload()
}

func (s *submitted) unload() error {
	return s.d.check("cuModuleUnload of "+s.source.Name, call(s.d.driver.cuModuleUnload, s.module))
}

// takes reports whether the kernel is one for args; what it is not is left to the op's first implementation. So are
// rotations that normalize heads first: a submitted kernel is told nothing of norms.
func (s *submitted) takes(d *Device, args any) bool {
	k := &s.source
	aligned := func(addresses ...uintptr) bool {
		for _, a := range addresses {
			if k.ColsMultiple > 1 && a%16 != 0 {
				return false
			}
		}
		return true
	}
	whole := func(columns ...int) bool { // of which heads and rows consist
		for _, c := range columns {
			if c%max(1, k.ColsMultiple) != 0 {
				return false
			}
		}
		return true
	}
	switch a := args.(type) {
	case *gpu.RMSNorm:
		cols := a.Weight.Len()
		return cols > 0 && k.Takes(a.X.Len()/cols, cols) && aligned(d.act(a.Out), d.act(a.X), d.f32(a.Weight))
	case *gpu.ActMul:
		return k.Takes(a.X.Dims[0], a.X.Dims[1]/2) && aligned(d.act(a.Out), d.act(a.X))
	case *gpu.RoPE:
		return a.Norm == nil && k.Takes(a.X.Dims[0], a.Cos.Dims[1]) && whole(a.X.Dims[1], a.Column, a.HeadDim) && aligned(d.act(a.X), d.f32(a.Cos), d.f32(a.Sin))
	case *gpu.MatMul:
		m := d.weight(a.W).weight
		out, _ := d.output(a.Out)
		return m.dtype == gpu.BF16 && k.Takes(a.X.Dims[0], m.k) && aligned(out, d.act(a.X))
	}
	return false
}

// run launches the kernel. Arguments that no kernel of the op takes panic.
func (s *submitted) run(d *Device, args any) error {
	switch a := args.(type) {
	case *gpu.RMSNorm:
		cols := a.Weight.Len()
		mustLen(gpu.OpRMSNorm, "Out", a.Out, a.X.Len())
		if cols == 0 || a.X.Len()%cols != 0 {
			panic(fmt.Sprintf("cuda: rmsnorm: X is %v, not rows of %d", a.X, cols))
		}
		rows := a.X.Len() / cols
		return start(s, rows, givenNorm{d.act(a.Out), d.act(a.X), d.f32(a.Weight), int32(rows), int32(cols), a.Eps, a.Offset})
	case *gpu.ActMul:
		rows, cols := a.X.Dims[0], a.X.Dims[1]/2
		mustShape(gpu.OpActMul, "X", a.X, rows, 2*cols)
		mustShape(gpu.OpActMul, "Out", a.Out, rows, cols)
		given := givenActMul{out: d.act(a.Out), x: d.act(a.X), rows: int32(rows), cols: int32(cols)}
		if a.Act == gpu.GELUTanh {
			given.gelu = 1
		}
		return start(s, rows*cols, given)
	case *gpu.RoPE:
		r := d.ropeArgs(a)
		return start(s, int(r.n), givenRoPE{r.x, r.cos, r.sin, int32(a.X.Dims[0]), r.half, r.stride, r.column, r.heads, r.headDim})
	case *gpu.MatMul:
		return d.around(a, func() error {
			m, p := d.product(a)
			return start(s, m.n, givenMatMul{p.out, p.x, p.w, p.bias, p.tokens, p.k, p.n, int32(m.stride / m.dtype.Size()), p.accumulate, p.outF32})
		})
	}
	panic(fmt.Sprintf("cuda: a submitted kernel of %s got %T", s.source.Op, args))
}

// start launches the blocks that so many units need.
func start[A any](s *submitted, units int, given A) error {
	if units > math.MaxInt32 {
		return fmt.Errorf("%w: %s for %d units, more than the %d that an int of the kernel counts", gpu.ErrNotSupported, s.source.Name, units, math.MaxInt32)
	}
	return run(s.d, s.f, grid{ceilDiv(units, s.source.PerBlock), 1, 1}, s.source.Threads, s.source.SharedBytes, given)
}
