package cuda

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/ebitengine/purego"

	"github.com/troupe-engine/troupe/gpu"
)

// What another process says is checked before the driver is told.
func TestShareRefuses(t *testing.T) {
	good := gpu.Shared{Device: "cuda:00", Process: os.Getpid() + 1, Handle: make([]byte, 64), DType: gpu.F32, Dims: []int{2, 3}}
	for want, spoil := range map[string]func(s *gpu.Shared){
		"Handle has 0 bytes":      func(s *gpu.Shared) { s.Handle = nil },
		"Handle has 63 bytes":     func(s *gpu.Shared) { s.Handle = make([]byte, 63) },
		"Handle has 1000 bytes":   func(s *gpu.Shared) { s.Handle = make([]byte, 1000) },
		"DType is DType(99)":      func(s *gpu.Shared) { s.DType = 99 },
		"DType is q4_0":           func(s *gpu.Shared) { s.DType = gpu.Q4_0 },
		"Dims are 0":              func(s *gpu.Shared) { s.Dims = nil },
		"Dims are 5":              func(s *gpu.Shared) { s.Dims = make([]int, 5) },
		"Dims are [2 -3]":         func(s *gpu.Shared) { s.Dims = []int{2, -3} },
		"Dims are [4294967296 42": func(s *gpu.Shared) { s.Dims = []int{1 << 32, 1 << 32} },
		"ByteOffset is -4":        func(s *gpu.Shared) { s.ByteOffset = -4 },
		"ByteOffset is 2":         func(s *gpu.Shared) { s.ByteOffset = 2 },
		"this process":            func(s *gpu.Shared) { s.Process = os.Getpid() },
	} {
		s := good
		spoil(&s)
		if _, err := (&Device{}).Import(s); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}

// A forged handle costs no device: for one of the importer's own memory the driver answers with a status that otherwise tells of a
// ruined context (201, CUDA_ERROR_INVALID_CONTEXT).
func TestShareForgedHandle(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: functions of Go stand for the driver's on Linux alone")
	}
	const invalidContext = 201
	status := func(code uintptr) uintptr { return purego.NewCallback(func(uintptr) uintptr { return code }) }
	d := &Device{driver: &driver{cuIpcOpenMemHandle: status(invalidContext), cuGetErrorName: status(1), cuGetErrorString: status(1)}}
	if _, err := d.openHandle(&ipcHandle{}); err == nil || !strings.Contains(err.Error(), "201") || errors.Is(err, gpu.ErrDeviceLost) {
		t.Errorf("%v: it should name the status, and not be a loss", err)
	}
	if e := d.lost.Load(); e != nil {
		t.Errorf("the device is lost: %v", e)
	}
}

// On x86-64 the eight words of a handle must lie side by side on the stack, behind six arguments in registers: where C looks
// for a struct by value, and for what a function of many arguments prints.
func TestShareHandleOnStack(t *testing.T) {
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("SKIPPED: a convention of x86-64 on Linux")
	}
	libc, err := openLibrary("libc.so.6")
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	snprintf, err := findSymbol(libc, "snprintf")
	if err != nil {
		t.Fatal(err)
	}
	out, format := make([]byte, 256), cBytes("%d %d %d %lx %lx %lx %lx %lx %lx %lx %lx")
	const high = 1 << 60 // whole words arrive
	n := call(snprintf, uintptr(unsafe.Pointer(&out[0])), uintptr(len(out)), uintptr(unsafe.Pointer(&format[0])), 1, 2, 3,
		high+1, high+2, high+3, high+4, high+5, high+6, high+7, high+8)
	want := "1 2 3 1000000000000001 1000000000000002 1000000000000003 1000000000000004 1000000000000005 1000000000000006 1000000000000007 1000000000000008"
	if got := string(out[:max(0, min(int(n), len(out)))]); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// shareVariable holds, in the process that imports, what it imports.
const shareVariable = "TROUPE_CUDA_SHARED"

// pattern is what the exporter, and then the importer, writes.
func pattern(n int, by byte) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(i*7) + by
	}
	return p
}

const shareRows, shareCols = 300, 3000 // of a tensor that has pages to itself, and is no whole number of them

// Another process maps a part of a tensor, reads what was written here, and writes what is read here afterwards; what it
// does with the mapping has no effect on this process's memory, and once the tensor is freed it gets none.
func TestShareWithAnotherProcess(t *testing.T) {
	needDevice(t)
	if text := os.Getenv(shareVariable); text != "" {
		importShared(t, text)
		return
	}
	d := open(t, Options{})
	defer mustClose(t, d)
	x, err := d.Alloc(gpu.F32, shareRows, shareCols)
	if err != nil {
		t.Fatal(err)
	}
	part := x.Slice(100, 200)
	if err := d.Upload(x, pattern(x.Bytes(), 1)); err != nil {
		t.Fatal(err)
	}
	shared, err := d.Export(part)
	if err != nil {
		t.Fatal(err)
	}
	if shared.ID != x.ID || shared.Generation != x.Generation || shared.Process != os.Getpid() {
		t.Errorf("%+v", shared)
	}
	if _, err := d.Import(shared); !errors.Is(err, gpu.ErrNotSupported) {
		t.Errorf("an import of one's own: %v", err)
	}
	if err := d.Sync(); err != nil {
		t.Fatal(err)
	}
	if out, err := importer(t, shared); err != nil || !strings.Contains(out, "imported and written") {
		t.Fatalf("%v\n%s", err, out)
	}
	want, got := pattern(x.Bytes(), 1), make([]byte, x.Bytes())
	row := shareCols * 4
	copy(want[100*row:], pattern(part.Bytes(), 2))
	if err := d.Download(got, x); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Error("what the other process wrote is not what is here")
	}
	for name, spoil := range map[string]func(s *gpu.Shared){
		"beyond the allocation": func(s *gpu.Shared) { s.Dims = []int{1 << 20, 1 << 10} },
		"of another GPU":        func(s *gpu.Shared) { s.Device = "cuda:0123" },
		"a handle of nothing":   func(s *gpu.Shared) { s.Handle = bytes.Repeat([]byte{0x5a}, 64) },
	} {
		s := shared
		spoil(&s)
		if out, err := importer(t, s); err == nil || !strings.Contains(out, "refused") {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	d.Free(x)
	if out, err := importer(t, shared); err == nil || !strings.Contains(out, "refused") {
		t.Errorf("an import after the tensor was freed: %v\n%s", err, out)
	}
	w, err := d.PackMatrix("w", gpu.F32, 2, 8, make([]byte, 64))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Export(w); !errors.Is(err, gpu.ErrNotSupported) {
		t.Errorf("an export of a packed weight: %v", err)
	}
	d.Free(w)
}

// importer runs this test in another process, which imports.
func importer(t *testing.T, s gpu.Shared) (string, error) {
	t.Helper()
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestShareWithAnotherProcess$", "-test.v", "-test.timeout=60s")
	cmd.Env = append(os.Environ(), shareVariable+"="+string(text))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// importShared is the other process.
func importShared(t *testing.T, text string) {
	var s gpu.Shared
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		t.Fatal(err)
	}
	d := open(t, Options{})
	defer mustClose(t, d)
	x, err := d.Import(s)
	if err != nil {
		t.Fatalf("refused: %v", err)
	}
	whole := pattern(shareRows*shareCols*4, 1)
	want, got := whole[100*shareCols*4:200*shareCols*4], make([]byte, x.Bytes())
	if err := d.Download(got, x); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) || x.Dims[0] != 100 || x.Dims[1] != shareCols {
		t.Errorf("%v holds other bytes than were written", x)
	}
	if _, err := d.Export(x); !errors.Is(err, gpu.ErrNotSupported) {
		t.Errorf("an export of an import: %v", err)
	}
	if err := errors.Join(d.Upload(x, pattern(x.Bytes(), 2)), d.Sync()); err != nil {
		t.Fatal(err)
	}
	if m := d.Memory(); m.Bytes != 0 || m.Tensors != 1 {
		t.Errorf("%+v: the memory is the exporter's", m)
	}
	d.Free(x)
	t.Log("imported and written")
}
