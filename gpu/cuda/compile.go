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
	"sync"
)

//go:embed kernels
var kernelFiles embed.FS

// module is a file of kernels and the shared sources put in front of it.
type module struct {
	name    string
	include []string
}

// modules are compiled and loaded one by one, so that a change recompiles one file.
var modules = []module{{name: "elementwise.cu"}, {name: "norm.cu"}, {name: "rope.cu"}, {name: "matmul.cu", include: []string{"matmul.cuh"}},
	{name: "attention.cu"}, {name: "moe.cu", include: []string{"matmul.cuh"}}, {name: "sample.cu"}}

// source is the module's complete text.
func (m module) source() string {
	var b bytes.Buffer
	for _, name := range append(append([]string{"common.cuh"}, m.include...), m.name) {
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
func compileAll(c *compiler, arch string) ([][]byte, error) {
	code, errs := make([][]byte, len(modules)), make([]error, len(modules))
	var wait sync.WaitGroup
	for i, m := range modules {
		wait.Go(func() { code[i], errs[i] = c.compile(m.name, m.source(), compileOptions(arch)) })
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
