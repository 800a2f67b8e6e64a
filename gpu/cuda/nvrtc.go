package cuda

import (
	"fmt"
	"strings"
	"sync"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// nvrtc is NVIDIA's run-time compiler for CUDA C++.
type nvrtc struct {
	version string // "13.0"

	nvrtcVersion, nvrtcCreateProgram, nvrtcCompileProgram, nvrtcDestroyProgram   uintptr
	nvrtcGetCUBINSize, nvrtcGetCUBIN, nvrtcGetProgramLogSize, nvrtcGetProgramLog uintptr
}

func (n *nvrtc) symbols() map[string]*uintptr {
	return map[string]*uintptr{
		"nvrtcVersion":       &n.nvrtcVersion,
		"nvrtcCreateProgram": &n.nvrtcCreateProgram, "nvrtcCompileProgram": &n.nvrtcCompileProgram, "nvrtcDestroyProgram": &n.nvrtcDestroyProgram,
		"nvrtcGetCUBINSize": &n.nvrtcGetCUBINSize, "nvrtcGetCUBIN": &n.nvrtcGetCUBIN,
		"nvrtcGetProgramLogSize": &n.nvrtcGetProgramLogSize, "nvrtcGetProgramLog": &n.nvrtcGetProgramLog,
	}
}

var loadedNVRTC struct {
	sync.Mutex
	nvrtc *nvrtc
	lib   Library
}

// loadNVRTC loads the compiler. The Library says what was found also on error.
func loadNVRTC(s search) (*nvrtc, Library, error) {
	loadedNVRTC.Lock()
	defer loadedNVRTC.Unlock()
	if loadedNVRTC.nvrtc != nil {
		return loadedNVRTC.nvrtc, loadedNVRTC.lib, nil
	}
	var handle uintptr
	lib, ok := s.find("libnvrtc (CUDA's run-time compiler)", s.nvrtcPatterns(), func(path string) (err error) {
		handle, err = openLibrary(path)
		return err
	})
	if !ok {
		return nil, lib, lib.err(nvrtcHint)
	}
	n := &nvrtc{}
	if err := bindAll(handle, n.symbols()); err != nil {
		return nil, lib, fmt.Errorf("%w: %s: %w", gpu.ErrNotSupported, lib.Path, err)
	}
	var major, minor int32
	if err := n.check("nvrtcVersion", call(n.nvrtcVersion, uintptr(unsafe.Pointer(&major)), uintptr(unsafe.Pointer(&minor)))); err != nil {
		return nil, lib, err
	}
	n.version = fmt.Sprintf("%d.%d", major, minor)
	loadedNVRTC.nvrtc, loadedNVRTC.lib = n, lib
	return n, lib, nil
}

// nvrtcStatus names the statuses (nvrtcResult in nvrtc.h) that a use like ours can meet.
var nvrtcStatus = map[int32]string{1: "out of memory", 3: "invalid input", 5: "invalid option, such as a GPU this NVRTC does not know",
	6: "compilation failed", 7: "libnvrtc-builtins was not found beside libnvrtc", 11: "internal error"}

func (n *nvrtc) check(what string, status int32) error {
	if status == 0 {
		return nil
	}
	return fmt.Errorf("cuda: %s: %s (nvrtcResult %d)", what, nvrtcStatus[status], status)
}

// compile returns the machine code of source. An error holds the compiler's messages.
func (n *nvrtc) compile(name, source string, options []string) ([]byte, error) {
	var program uintptr
	text, file := cBytes(source), cBytes(name)
	if err := n.check("nvrtcCreateProgram", call(n.nvrtcCreateProgram, uintptr(unsafe.Pointer(&program)),
		uintptr(unsafe.Pointer(&text[0])), uintptr(unsafe.Pointer(&file[0])), 0, 0, 0)); err != nil {
		return nil, err
	}
	defer func() { call(n.nvrtcDestroyProgram, uintptr(unsafe.Pointer(&program))) }()
	pointers := make([]unsafe.Pointer, len(options)+1) // C reads no further than len(options)
	for i, o := range options {
		pointers[i] = unsafe.Pointer(&cBytes(o)[0])
	}
	status := call(n.nvrtcCompileProgram, program, uintptr(len(options)), uintptr(unsafe.Pointer(&pointers[0])))
	if err := n.check("nvrtcCompileProgram", status); err != nil {
		log, logErr := n.bytes("log", program, n.nvrtcGetProgramLogSize, n.nvrtcGetProgramLog)
		if logErr != nil {
			log = nil
		}
		return nil, fmt.Errorf("%w compiling %s with %s:\n%s", err, name, strings.Join(options, " "), strings.TrimRight(string(log), "\x00\n"))
	}
	return n.bytes("CUBIN", program, n.nvrtcGetCUBINSize, n.nvrtcGetCUBIN)
}

// bytes reads one of a program's results.
func (n *nvrtc) bytes(what string, program, size, get uintptr) ([]byte, error) {
	const bytesMax = 1 << 30
	var count uint64
	if err := n.check("size of the "+what, call(size, program, uintptr(unsafe.Pointer(&count)))); err != nil {
		return nil, err
	}
	if count == 0 || count > bytesMax {
		return nil, fmt.Errorf("cuda: NVRTC's %s has %d bytes", what, count)
	}
	b := make([]byte, count)
	return b, n.check(what, call(get, program, uintptr(unsafe.Pointer(&b[0]))))
}

// cBytes is s with a terminating zero.
func cBytes(s string) []byte { return append([]byte(s), 0) }
