package cuda

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/examine"
	"github.com/troupe-engine/troupe/schemas"
)

func init() {
	argumentStructs["submit.cuh"] = map[string]any{"RMSNormArgs": givenNorm{}, "ActMulArgs": givenActMul{}, "RoPEArgs": givenRoPE{}, "MatMulArgs": givenMatMul{}}
}

// Kernels as people would submit them, the simplest there are.
const (
	plainNorm = `KERNEL plain_norm(RMSNormArgs a) {
  __shared__ float room[33];
  i64 base = (i64)blockIdx.x * a.cols;
  float squares = 0;
  for (int i = threadIdx.x; i < a.cols; i += blockDim.x) squares += load(a.x + base + i) * load(a.x + base + i);
  float scale = 1.0f / sqrtf(block_sum(squares, room) / a.cols + a.eps);
  for (int i = threadIdx.x; i < a.cols; i += blockDim.x) store(a.out + base + i, load(a.x + base + i) * scale * (a.weight[i] + a.offset));
}`
	plainGate = `KERNEL gate(ActMulArgs a) {
  i64 i = global_thread();
  if (i >= (i64)a.rows * a.cols) return;
  const act* row = a.x + i / a.cols * 2 * a.cols;
  float g = load(row + i % a.cols);
  store(a.out + i, (a.gelu ? GELUTanh::of(g) : SiLU::of(g)) * load(row + a.cols + i % a.cols));
}`
	plainRoPE = `KERNEL rotate(RoPEArgs a) {
  i64 at = global_thread();
  if (at >= (i64)a.rows * a.heads * a.cols) return;
  int i = at % a.cols, head = at / a.cols % a.heads;
  i64 r = at / a.cols / a.heads;
  act* low = a.x + r * a.stride + a.column + head * a.dim + i;
  float u = load(low), v = load(low + a.cols), c = a.cos[r * a.cols + i], s = a.sin[r * a.cols + i];
  store(low, u * c - v * s);
  store(low + a.cols, v * c + u * s);
}`
	plainProduct = `KERNEL product(MatMulArgs a) { // a warp for each o
  int o = blockIdx.x * (blockDim.x >> 5) + warp_id();
  if (o >= a.outputs) return;
  for (int r = 0; r < a.rows; r++) {
    float sum = 0;
    for (int c = lane_id(); c < a.cols; c += 32) sum += load(a.x + (i64)r * a.cols + c) * load(a.w + (i64)o * a.stride + c);
    sum = warp_sum(sum);
    if (lane_id() > 0) continue;
    if (a.bias) sum += a.bias[o];
    i64 at = (i64)r * a.outputs + o;
    if (a.out_f32) store((float*)a.out + at, a.accumulate ? sum + load((float*)a.out + at) : sum);
    else store((act*)a.out + at, a.accumulate ? sum + load((act*)a.out + at) : sum);
  }
}`
)

var plainKernels = []gpu.KernelSource{
	{Op: gpu.OpRMSNorm, Name: "plain-norm", Source: plainNorm, Entry: "plain_norm", Threads: 128, PerBlock: 1},
	{Op: gpu.OpActMul, Name: "plain-gate", Source: plainGate, Entry: "gate", Threads: 256, PerBlock: 256},
	{Op: gpu.OpRoPE, Name: "plain-rope", Source: plainRoPE, Entry: "rotate", Threads: 64, PerBlock: 64},
	{Op: gpu.OpMatMul, Name: "plain-product", Source: plainProduct, Entry: "product", Threads: 128, PerBlock: 4, RowsMax: 8},
}

// exampleKernel is the one that the documentation submits.
func exampleKernel(t *testing.T) gpu.KernelSource {
	t.Helper()
	text, err := os.ReadFile("../../examples/kernel/rmsnorm.cu")
	if err != nil {
		t.Fatal(err)
	}
	return gpu.KernelSource{Op: gpu.OpRMSNorm, Name: "registers", Source: string(text), Entry: "rmsnorm_registers", Threads: 256, PerBlock: 1,
		Overlap: true, ColsMin: 512, ColsMax: 8192, ColsMultiple: 8}
}

// messageKernel is the one that the message shows as an example.
func messageKernel() gpu.KernelSource {
	r := (*schemas.SubmitKernelRequest)(nil).Example()
	return gpu.KernelSource{Op: gpu.Op(r.Op), Name: r.Name, Source: r.Source, Entry: r.Entry, Threads: int(r.Threads), PerBlock: int(r.PerBlock)}
}

// What submitted kernels are given is what they are told, on both sides; and the examples compile.
func TestKernelsCompileSubmitted(t *testing.T) {
	n, _, err := loadNVRTC(hostSearch())
	if err != nil {
		t.Skipf("SKIPPED: no kernel was compiled: %v", err)
	}
	for _, arch := range []string{"sm_80", "sm_90a"} {
		for _, compute := range []gpu.DType{gpu.F32, gpu.BF16} {
			for _, k := range append(plainKernels, exampleKernel(t), messageKernel()) {
				if err := errors.Join(k.Validate(), checkDirectives(k.Source)); err != nil {
					t.Errorf("%s: %v", k.Name, err)
				}
				code, err := n.compile(submittedFile, submittedSource(compute, k.Source)+layoutAsserts("submit.cuh"), compileOptions(arch))
				if err != nil {
					t.Fatal(err)
				}
				if !strings.Contains(string(code), k.Entry) {
					t.Errorf("%s %v %s: the module lacks %s", arch, compute, k.Name, k.Entry)
				}
			}
		}
	}
}

// A text cannot make the compiler read files, however it spells that; what kernels need goes through.
func TestSubmitDirectives(t *testing.T) {
	for _, text := range []string{"#include </etc/passwd>", "  #  include \"/etc/passwd\"", "#\tinclude <x>", "#inc\\\nlude <x>", "#inc\\\r\nlude <x>", "#inc\\ \nlude <x>", "#inc\\ \t \nlude <x>",
		"#\\\ninclude <x>", "%:include <x>", "#/**/include <x>", "/*\n*/ #include <x>", "\"/*\" \n#include <x>", "??=include <x>", "#include_next <x>", "#import <x>", "#embed <x>", "#\vinclude <x>",
		"#if __has_include(<x>)\n#endif", "#define X #include <x>", "#line 3 \"/etc/passwd\"", "#\ninclude", "###include <x>", "#", "int x; \\\r#include"} {
		var field *gpu.KernelFieldError
		if err := checkDirectives(text); !errors.As(err, &field) || field.Field != "source" {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"", "#define A(x) x##_1\n#if A(1)\n#elif 1\n#else\n#endif\n#undef A", "#pragma unroll\nfor (;;);", "  # ifdef X\n#endif", "#define TWO \\\n  2\nint x = 5 % 3;"} {
		if err := checkDirectives(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// try runs the process that tries kernels by itself, as Try does.
func try(t *testing.T, limit time.Duration, text string) *gpu.KernelTrial {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	d := &Device{compute: gpu.BF16, properties: properties{major: 9}}
	trial, err := d.Try(ctx, &gpu.KernelSource{Op: gpu.OpRMSNorm, Name: "x", Source: text, Entry: "plain_norm", Threads: 32, PerBlock: 1}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return trial
}

// Without a GPU too: messages have the text's own lines, and a text that the compiler has no end of work with is given up.
func TestSubmitCompiles(t *testing.T) {
	if _, _, err := loadNVRTC(hostSearch()); err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	trial := try(t, time.Minute, "KERNEL plain_norm(RMSNormArgs a) {\n  no_such_thing();\n}")
	if !strings.HasPrefix(trial.Log, "submitted.cu(2): error") || !strings.Contains(trial.Log, "no_such_thing") || len(trial.Code) > 0 || trial.Ended != "" {
		t.Errorf("%+v", trial)
	}
	began := time.Now()
	trial = try(t, 2*time.Second, "template <int N> struct F { static constexpr unsigned long long v = F<N - 1>::v + F<N - 2>::v; };\n"+
		"constexpr unsigned long long slow(unsigned long long n) { return n < 2 ? n : slow(n - 1) + slow(n - 2); }\n"+
		strings.Repeat("static_assert(slow(24) > 0, \"\");\n", 5000)+"KERNEL plain_norm(RMSNormArgs a) {}")
	if took := time.Since(began); !strings.Contains(trial.Ended, "compiling took longer") || took > 10*time.Second {
		t.Errorf("%v: %+v", took, trial)
	}
	if r := Probe(); r.Error == "" && len(r.Devices) > 0 {
		return // TestSubmitOnDevice goes on from here
	}
	d := &Device{compute: gpu.F32, properties: properties{major: 8}}
	if trial, err := d.Try(t.Context(), &plainKernels[0], nil); err == nil || !strings.Contains(err.Error(), "could not be tried") || !strings.Contains(err.Error(), "libcuda") {
		t.Errorf("without a GPU: %+v, %v", trial, err)
	}
}

func TestSubmitRefuses(t *testing.T) {
	d := &Device{compute: gpu.BF16, properties: properties{major: 9}}
	good := plainKernels[0]
	for field, spoil := range map[string]func(k *gpu.KernelSource){
		"name":          func(k *gpu.KernelSource) { k.Name = "a b" },
		"entry":         func(k *gpu.KernelSource) { k.Entry = "f();" },
		"source":        func(k *gpu.KernelSource) { k.Source = "#include <x>" },
		"threads":       func(k *gpu.KernelSource) { k.Threads = 33 },
		"per_block":     func(k *gpu.KernelSource) { k.PerBlock = 0 },
		"shared_bytes":  func(k *gpu.KernelSource) { k.SharedBytes = 1 << 20 },
		"rows_max":      func(k *gpu.KernelSource) { k.RowsMax = -1 },
		"cols_min":      func(k *gpu.KernelSource) { k.ColsMin = 1 << 30 },
		"cols_max":      func(k *gpu.KernelSource) { k.ColsMax, k.ColsMultiple = 4, 8 },
		"cols_multiple": func(k *gpu.KernelSource) { k.ColsMultiple = -8 },
	} {
		k := good
		spoil(&k)
		var e *gpu.KernelFieldError
		if _, err := d.Try(t.Context(), &k, nil); !errors.As(err, &e) || e.Field != field || !strings.Contains(e.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	good.Op = gpu.OpSample
	if _, err := d.Try(t.Context(), &good, nil); !errors.Is(err, gpu.ErrNotSupported) {
		t.Errorf("%v", err)
	}
}

// A rotation that normalizes heads first is not for a kernel that only rotates.
func TestSubmittedRotationsLeaveNorms(t *testing.T) {
	d := &Device{compute: gpu.F32}
	x, table := gpu.NewTensor(1, 1, gpu.F32, 2, 8), gpu.NewTensor(2, 1, gpu.F32, 2, 4)
	s := &submitted{d: d, source: gpu.KernelSource{Op: gpu.OpRoPE}}
	if s.takes(d, &gpu.RoPE{X: x, Heads: 1, HeadDim: 8, Cos: table, Sin: table, Norm: &gpu.HeadNorm{Queries: 1}}) {
		t.Error("the norm is left out")
	}
}

var testModel = examine.Model{Hidden: 1024, Intermediate: 2816, Heads: 8, KVHeads: 2, HeadDim: 128, Rotated: 128, SequencesMax: 64, TokensMax: 512}
