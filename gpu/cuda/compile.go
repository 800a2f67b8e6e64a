package cuda

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/troupe-engine/troupe/gpu"
)

//go:embed kernels
var kernelFiles embed.FS

// module is a file of kernels, or a part of it, compiled and loaded as one: apart from the
// others, so that a change recompiles little and cold starts use all processors.
type module struct {
	file    string
	include string    // sources of its own put in front, separated by blanks
	define  string    // "WIDTH 4": the part of the file, or ""
	only    gpu.DType // the compute type that it is for; 0 is any
	compute gpu.DType // that it is compiled for
	overlap bool      // its kernels may start while the kernel before ends: they call pdl_wait
	kernels []string  // that it must have
}

// modules are all kernels of a device that computes in the given type.
func modules(compute gpu.DType) []module {
	list := []module{
		{file: "elementwise.cu", overlap: true, kernels: []string{"write_bytes", "fetch_bytes", "copy_parts", "feed_tokens", "embed_f32", "embed_f16", "embed_bf16", "gather_rows_f32", "gather_rows_act", "add", "add_bias",
			"softcap_f32", "softcap_act", "act_mul_silu", "act_mul_gelu_tanh", "act_mul_silu_8", "act_mul_gelu_tanh_8", "random_weights_f32", "random_weights_bf16"}},
		{file: "norm.cu", overlap: true, kernels: []string{"rmsnorm_warp", "rmsnorm_block", "rmsnorm_block_8"}},
		{file: "rope.cu", include: "rope.cuh", overlap: true, kernels: []string{"rope_table", "rope", "rope_norm", "kv_write", "rope_kv"}},
		{file: "moe.cu", include: "matmul.cuh", overlap: true, kernels: append(moeNames(), "moe_route", "moe_sort", "moe_combine")},
		{file: "logits.cu", kernels: []string{"edit_logits", "mask_logits", "top_tokens"}},
		{file: "sample.cu", overlap: true, kernels: []string{"sample", "log_softmax"}},
		{file: "skinny.cu", include: "tiles.cuh pieces.cuh", only: gpu.BF16, overlap: true, kernels: skinnyNames()},
	}
	for _, dtype := range weightTypes {
		list = append(list, module{file: "matmul.cu", include: "matmul.cuh", define: "MATMULS_" + dtype.String(), overlap: true, kernels: matMulNames(dtype)})
	}
	list = append(list, moeTensorModules()...)
	list = append(list, quantModules()...)
	list = append(list, attentionModules(compute)...)
	list = slices.DeleteFunc(list, func(m module) bool { return m.only != 0 && m.only != compute })
	for i := range list {
		list[i].compute = compute
	}
	return list
}

// name is for messages and tests.
func (m module) name() string {
	return strings.TrimSpace(fmt.Sprintf("%s %v %s", m.file, m.compute, m.define))
}

// source is the module's complete text.
func (m module) source() string {
	var b bytes.Buffer
	if m.compute == gpu.BF16 {
		b.WriteString("#define ACT_BF16\n")
	}
	if m.define != "" {
		fmt.Fprintf(&b, "#define %s\n", m.define)
	}
	for _, name := range strings.Fields("common.cuh " + m.include + " " + m.file) {
		text, err := kernelFiles.ReadFile("kernels/" + name)
		if err != nil {
			panic(err) // embedded when this was built
		}
		fmt.Fprintf(&b, "#line 1 %q\n%s\n", name, text)
	}
	return b.String()
}

// compileOptions are NVRTC's for a GPU architecture such as "sm_90". Nothing here may loosen
// float32 arithmetic: division and square root are rounded correctly and denormals are kept.
func compileOptions(arch string) []string {
	return []string{"--gpu-architecture=" + arch, "--std=c++17"}
}

// compileAll returns the machine code of every module, from the cache where it has it.
func compileAll(c *compiler, list []module, arch string) ([][]byte, error) {
	code, errs := make([][]byte, len(list)), make([]error, len(list))
	var wait sync.WaitGroup
	for i, m := range list {
		wait.Go(func() { code[i], errs[i] = c.compile(m.name(), m.source(), compileOptions(arch)) })
	}
	wait.Wait()
	return code, errors.Join(errs...)
}

// compiler compiles through a cache on disk.
type compiler struct {
	dir     string // of the cache; "" keeps nothing
	driver  string // part of the key: its version
	version string // NVRTC's
	run     func(name, source string, options []string) ([]byte, error)
}

// cacheDir is $TROUPE_CACHE/kernels, or troupe/kernels in the user's cache directory.
func cacheDir() string {
	if dir := os.Getenv("TROUPE_CACHE"); dir != "" {
		return filepath.Join(dir, "kernels")
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "" // no home: compile each time
	}
	return filepath.Join(dir, "troupe", "kernels")
}

// compile returns the machine code of source.
func (c *compiler) compile(name, source string, options []string) ([]byte, error) {
	path := ""
	if c.dir != "" {
		path = filepath.Join(c.dir, c.key(name, source, options)+".cubin")
		if code, ok := readChecked(path); ok {
			return code, nil
		}
	}
	code, err := c.run(name, source, options)
	if err == nil && path != "" {
		writeChecked(path, code)
	}
	return code, err
}

// key is a hash of everything that the code depends on.
func (c *compiler) key(name, source string, options []string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %q %q %q", c.driver, c.version, options, name, source)
	return hex.EncodeToString(h.Sum(nil))
}

// readChecked reads a file of the cache: a SHA-256 of the code, then the code. A file that does
// not fit its sum, such as one cut short by a full disk, counts as absent.
func readChecked(path string) ([]byte, bool) {
	raw, err := os.ReadFile(path)
	if err != nil || len(raw) <= sha256.Size {
		return nil, false
	}
	code := raw[sha256.Size:]
	sum := sha256.Sum256(code)
	return code, bytes.Equal(sum[:], raw[:sha256.Size])
}

// writeChecked writes a file of the cache, whole or not at all. Failing costs a compilation next
// time, so it is no error.
func writeChecked(path string, code []byte) {
	if os.MkdirAll(filepath.Dir(path), 0o755) != nil {
		return
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".partial-*")
	if err != nil {
		return
	}
	sum := sha256.Sum256(code)
	_, err = f.Write(append(sum[:], code...))
	if closeErr := f.Close(); err == nil && closeErr == nil && os.Rename(f.Name(), path) == nil {
		return
	}
	_ = os.Remove(f.Name()) // an abandoned part is harmless
}
