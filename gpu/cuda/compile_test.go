package cuda

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/troupe-engine/troupe/gpu"
)

// argumentStructs pairs the structs that cross to the GPU with their names in the kernels.
var argumentStructs = map[string]map[string]any{
	"elementwise.cu":       {"WriteArgs": writeArgs{}, "FetchArgs": fetchArgs{}, "CopyPart": copyPart{}, "CopyArgs": copyArgs{}, "FeedTokensArgs": feedTokensArgs{}, "EmbedArgs": embedArgs{}, "AddArgs": addArgs{}, "SoftCapArgs": softCapArgs{}, "ActMulArgs": actMulArgs{}, "AddBiasArgs": addBiasArgs{}, "RandomArgs": randomArgs{}},
	"norm.cu":              {"RMSNormArgs": rmsNormArgs{}},
	"rope.cu":              {"RoPETableArgs": ropeTableArgs{}, "RoPEArgs": ropeArgs{}, "HeadNormArgs": headNormArgs{}, "KVWriteArgs": kvWriteArgs{}, "RoPEKVArgs": ropeKVArgs{}},
	"skinny.cu":            {"SkinnyArgs": skinnyArgs{}},
	"quantized.cu":         {"QuantArgs": quantArgs{}, "DequantizeArgs": dequantizeArgs{}, "EmbedQuantArgs": embedQuantArgs{}},
	"quantize.cu":          {"QuantizeRowsArgs": quantizeRowsArgs{}, "FillArgs": fillArgs{}},
	"matmul.cu":            {"MatMulArgs": matMulArgs{}},
	"attention.cu":         {"AttentionArgs": attentionArgs{}},
	"attention_decode.cu":  {"FlashArgs": flashArgs{}},
	"attention_stream.cu":  {"FlashArgs": flashArgs{}},
	"attention_cluster.cu": {"FlashArgs": flashArgs{}, "RoPEKVArgs": ropeKVArgs{}, "FlashClusterArgs": flashClusterArgs{}},
	"attention_wgmma.cu":   {"FlashArgs": flashArgs{}},
	"attention_prefill.cu": {"FlashArgs": flashArgs{}},
	"moe.cu":               {"MoERouteArgs": moeRouteArgs{}, "MoESortArgs": moeSortArgs{}, "GroupedArgs": groupedArgs{}, "MoECombineArgs": moeCombineArgs{}},
	"moe_few.cu":           {"ExpertsArgs": expertsArgs{}},
	"moe_few_q.cu":         {"ExpertsArgs": expertsArgs{}},
	"moe_wgmma.cu":         {"ExpertsArgs": expertsArgs{}},
	"moe_tile_q.cu":        {"ExpertsArgs": expertsArgs{}},
	"moe_tile.cu":          {"ExpertsArgs": expertsArgs{}, "PlanArgs": planArgs{}},
	"logits.cu":            {"LogitEdit": logitEdit{}, "EditLogitsArgs": editLogitsArgs{}, "MaskLogitsArgs": maskLogitsArgs{}, "TopTokensArgs": topTokensArgs{}},
	"sample.cu":            {"SampleRow": sampleRow{}, "SampleArgs": sampleArgs{}, "LogSoftmaxArgs": logSoftmaxArgs{}},
}

// layoutAsserts is CUDA C++ that compiles only if every field lies where Go puts it.
func layoutAsserts(file string) string {
	var b strings.Builder
	b.WriteString("#define OFFSET_OF(type, field) ((unsigned long long)__INTADDR__(&((type*)0)->field))\n")
	for name, value := range argumentStructs[file] {
		t := reflect.TypeOf(value)
		fmt.Fprintf(&b, "static_assert(sizeof(%s) == %d, \"size of %s\");\n", name, t.Size(), name)
		for i := range t.NumField() {
			if f := t.Field(i); f.Name != "_" {
				fmt.Fprintf(&b, "static_assert(OFFSET_OF(%s, %s) == %d, \"%s.%s\");\n", name, snake(f.Name), f.Offset, name, f.Name)
			}
		}
	}
	return b.String()
}

func snake(name string) string {
	var b strings.Builder
	for _, r := range name {
		if unicode.IsUpper(r) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}

// TestKernelsCompile compiles every kernel without a GPU, for the oldest architecture that is
// supported and for Hopper, and checks that both sides agree on every argument's place.
func TestKernelsCompile(t *testing.T) {
	n, lib, err := loadNVRTC(hostSearch())
	if err != nil {
		t.Skipf("SKIPPED: no kernel was compiled (a virtual environment with pip install nvidia-cuda-nvrtc is enough): %v", err)
	}
	t.Logf("NVRTC %s from %s", n.version, lib.Path)
	for _, arch := range []string{"sm_80", "sm_90a"} {
		for _, m := range slices.Concat(modules(gpu.F32), modules(gpu.BF16)) {
			t.Run(arch+"/"+m.name(), func(t *testing.T) {
				t.Parallel()
				code, err := n.compile(m.name(), m.source()+layoutAsserts(m.file), compileOptions(arch))
				if err != nil {
					t.Fatal(err)
				}
				for _, name := range m.kernels {
					if !strings.Contains(string(code), name) {
						t.Errorf("the module lacks the kernel %s", name)
					}
				}
			})
		}
	}
}

// A kernel that does not compile is an error with the compiler's message and place.
func TestCompileError(t *testing.T) {
	n, _, err := loadNVRTC(hostSearch())
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	_, err = n.compile("bad.cu", "#line 7 \"bad.cu\"\n__global__ void f() { no_such_thing(); }", compileOptions("sm_80"))
	if err == nil || !strings.Contains(err.Error(), "no_such_thing") || !strings.Contains(err.Error(), "bad.cu(7)") {
		t.Errorf("%v", err)
	}
	if _, err = n.compile("ok.cu", "", compileOptions("sm_1")); err == nil || !strings.Contains(err.Error(), "sm_1") {
		t.Errorf("an unknown architecture: %v", err)
	}
}

// TestKernelCache: code is compiled once per source, options and versions; a damaged file is
// compiled again; a directory that cannot be written costs nothing but time.
func TestKernelCache(t *testing.T) {
	runs := 0
	c := &compiler{dir: filepath.Join(t.TempDir(), "kernels"), driver: "13.0", version: "13.0",
		run: func(name, source string, _ []string) ([]byte, error) {
			runs++
			return []byte("code of " + name + source), nil
		}}
	compile := func(c *compiler, source string, want int) {
		t.Helper()
		code, err := c.compile("a.cu", source, []string{"-O3"})
		if err != nil || string(code) != "code of a.cu"+source || runs != want {
			t.Fatalf("%q, %v after %d compilations, want %d", code, err, runs, want)
		}
	}
	compile(c, "x", 1)
	compile(c, "x", 1)
	compile(c, "y", 2)
	other := *c
	other.driver = "13.1"
	compile(&other, "x", 3)
	compile(c, "x", 3)
	files, err := filepath.Glob(filepath.Join(c.dir, "*"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		if err := os.Truncate(f, 35); err != nil {
			t.Fatal(err)
		}
	}
	compile(c, "x", 4)
	compile(c, "x", 4)
	c.dir = "/dev/null/kernels"
	compile(c, "x", 5)
	c.dir = ""
	compile(c, "x", 6)
}

func TestCacheDir(t *testing.T) {
	t.Setenv("TROUPE_CACHE", "/somewhere")
	if got := cacheDir(); got != "/somewhere/kernels" {
		t.Errorf("%q", got)
	}
	t.Setenv("TROUPE_CACHE", "")
	t.Setenv("XDG_CACHE_HOME", "/home/x/.cache")
	if got := cacheDir(); got != "/home/x/.cache/troupe/kernels" {
		t.Errorf("%q", got)
	}
}
