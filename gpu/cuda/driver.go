package cuda

import (
	"bytes"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// driver is libcuda: addresses of the functions in use, by the names of the CUDA driver API.
type driver struct {
	cuInit, cuDriverGetVersion, cuGetErrorName, cuGetErrorString                              uintptr
	cuDeviceGetCount, cuDeviceGet, cuDeviceGetName, cuDeviceGetAttribute, cuDeviceTotalMem    uintptr
	cuCtxCreate, cuCtxDestroy, cuCtxSetCurrent                                                uintptr
	cuMemAlloc, cuMemFree, cuMemGetInfo, cuMemHostAlloc, cuMemFreeHost                        uintptr
	cuMemcpyHtoDAsync, cuMemcpyDtoHAsync, cuMemcpyDtoDAsync, cuMemsetD8Async                  uintptr
	cuStreamCreate, cuStreamDestroy, cuStreamSynchronize                                      uintptr
	cuEventCreate, cuEventDestroy, cuEventRecord, cuEventSynchronize, cuEventElapsedTime      uintptr
	cuModuleLoadData, cuModuleUnload, cuModuleGetFunction, cuFuncSetAttribute, cuLaunchKernel uintptr
	cuLaunchKernelEx, cuStreamBeginCapture, cuStreamEndCapture                                uintptr
	cuGraphInstantiate, cuGraphLaunch, cuGraphExecDestroy, cuGraphDestroy                     uintptr
	cuDeviceGetUuid, cuDeviceCanAccessPeer, cuMemGetAddressRange                              uintptr
	cuIpcGetMemHandle, cuIpcOpenMemHandle, cuIpcCloseMemHandle                                uintptr
}

// symbols pairs every field with the function's name in the library.
func (d *driver) symbols() map[string]*uintptr {
	return map[string]*uintptr{
		"cuInit": &d.cuInit, "cuDriverGetVersion": &d.cuDriverGetVersion,
		"cuGetErrorName": &d.cuGetErrorName, "cuGetErrorString": &d.cuGetErrorString,
		"cuDeviceGetCount": &d.cuDeviceGetCount, "cuDeviceGet": &d.cuDeviceGet, "cuDeviceGetName": &d.cuDeviceGetName,
		"cuDeviceGetAttribute": &d.cuDeviceGetAttribute, "cuDeviceTotalMem_v2": &d.cuDeviceTotalMem,
		"cuCtxCreate_v2": &d.cuCtxCreate, "cuCtxDestroy_v2": &d.cuCtxDestroy, "cuCtxSetCurrent": &d.cuCtxSetCurrent,
		"cuMemAlloc_v2": &d.cuMemAlloc, "cuMemFree_v2": &d.cuMemFree, "cuMemGetInfo_v2": &d.cuMemGetInfo,
		"cuMemHostAlloc": &d.cuMemHostAlloc, "cuMemFreeHost": &d.cuMemFreeHost,
		"cuMemcpyHtoDAsync_v2": &d.cuMemcpyHtoDAsync, "cuMemcpyDtoHAsync_v2": &d.cuMemcpyDtoHAsync,
		"cuMemcpyDtoDAsync_v2": &d.cuMemcpyDtoDAsync, "cuMemsetD8Async": &d.cuMemsetD8Async,
		"cuStreamCreate": &d.cuStreamCreate, "cuStreamDestroy_v2": &d.cuStreamDestroy, "cuStreamSynchronize": &d.cuStreamSynchronize,
		"cuEventCreate": &d.cuEventCreate, "cuEventDestroy_v2": &d.cuEventDestroy, "cuEventRecord": &d.cuEventRecord,
		"cuEventSynchronize": &d.cuEventSynchronize, "cuEventElapsedTime": &d.cuEventElapsedTime,
		"cuModuleLoadData": &d.cuModuleLoadData, "cuModuleUnload": &d.cuModuleUnload, "cuModuleGetFunction": &d.cuModuleGetFunction,
		"cuFuncSetAttribute": &d.cuFuncSetAttribute, "cuLaunchKernel": &d.cuLaunchKernel,
		"cuLaunchKernelEx": &d.cuLaunchKernelEx, "cuStreamBeginCapture_v2": &d.cuStreamBeginCapture, "cuStreamEndCapture": &d.cuStreamEndCapture,
		"cuGraphInstantiateWithFlags": &d.cuGraphInstantiate, "cuGraphLaunch": &d.cuGraphLaunch,
		"cuGraphExecDestroy": &d.cuGraphExecDestroy, "cuGraphDestroy": &d.cuGraphDestroy,
		"cuDeviceGetUuid": &d.cuDeviceGetUuid, "cuDeviceCanAccessPeer": &d.cuDeviceCanAccessPeer, "cuMemGetAddressRange_v2": &d.cuMemGetAddressRange,
		"cuIpcGetMemHandle": &d.cuIpcGetMemHandle, "cuIpcOpenMemHandle_v2": &d.cuIpcOpenMemHandle, "cuIpcCloseMemHandle": &d.cuIpcCloseMemHandle,
	}
}

// loaded is the process's driver: loading and initializing it twice gains nothing.
var loaded struct {
	sync.Mutex
	driver *driver
	lib    Library
}

// loadDriver loads and initializes libcuda. The Library says what was found also on error.
func loadDriver(s search) (*driver, Library, error) {
	loaded.Lock()
	defer loaded.Unlock()
	if loaded.driver != nil {
		return loaded.driver, loaded.lib, nil
	}
	var handle uintptr
	lib, ok := s.find("libcuda.so.1 (NVIDIA driver)", s.driverPatterns(), func(path string) (err error) {
		handle, err = openLibrary(path)
		return err
	})
	if !ok {
		return nil, lib, lib.err(driverHint)
	}
	d := &driver{}
	if err := bindAll(handle, d.symbols()); err != nil {
		return nil, lib, fmt.Errorf("%w: %s: %w", gpu.ErrNotSupported, lib.Path, err)
	}
	if err := d.check("cuInit", call(d.cuInit, 0)); err != nil {
		return nil, lib, fmt.Errorf("%w: %s is there but: %w", gpu.ErrNotSupported, lib.Path, err)
	}
	loaded.driver, loaded.lib = d, lib
	return d, lib, nil
}

// bindAll fills in the addresses of all symbols, or names those that the library lacks.
func bindAll(library uintptr, symbols map[string]*uintptr) error {
	var errs []error
	for name, at := range symbols {
		address, err := findSymbol(library, name)
		if err != nil {
			errs = append(errs, err)
		}
		*at = address
	}
	return errors.Join(errs...)
}

// Status codes (CUresult in cuda.h).
const (
	statusOutOfMemory = 2
	statusNotFound    = 500
	statusNotReady    = 600
)

// sticky are the codes after which a context is unusable: ECC errors, illegal accesses and
// instructions, launch failures and timeouts, a lost or reset device.
var sticky = map[int32]bool{4: true, 46: true, 201: true, 214: true, 219: true, 220: true, 226: true, 700: true, 702: true, 709: true,
	710: true, 714: true, 715: true, 716: true, 717: true, 718: true, 719: true, 721: true, 999: true}

// Error is a call of the driver that failed. Codes that ruin the context are gpu.ErrDeviceLost,
// exhausted memory is gpu.ErrOutOfMemory.
type Error struct {
	Call string // "cuLaunchKernel of rmsnorm_warp"
	Code int32  // CUresult
	Text string // the driver's description
}

func (e *Error) Error() string { return fmt.Sprintf("cuda: %s: %s (error %d)", e.Call, e.Text, e.Code) }

// Unwrap returns the error of package gpu that e is one of, if any.
func (e *Error) Unwrap() error {
	switch {
	case e.Code == statusOutOfMemory:
		return gpu.ErrOutOfMemory
	case sticky[e.Code]:
		return gpu.ErrDeviceLost
	}
	return nil
}

// check turns a status into an error.
func (d *driver) check(what string, status int32) error {
	if status == 0 {
		return nil
	}
	name, text := d.errorText(d.cuGetErrorName, status), d.errorText(d.cuGetErrorString, status)
	return &Error{Call: what, Code: status, Text: name + ", " + text}
}

func (d *driver) errorText(function uintptr, status int32) string {
	var text unsafe.Pointer
	if call(function, uintptr(uint32(status)), uintptr(unsafe.Pointer(&text))) != 0 || text == nil {
		return "unknown to this driver"
	}
	return cString(text)
}

// cString copies a C string of at most 4096 bytes.
func cString(p unsafe.Pointer) string {
	const bytesMax = 4096
	var b []byte
	for i := range bytesMax {
		c := *(*byte)(unsafe.Add(p, i))
		if c == 0 {
			break
		}
		b = append(b, c)
	}
	return string(b)
}

func (d *driver) version() (int, error) {
	var v int32
	err := d.check("cuDriverGetVersion", call(d.cuDriverGetVersion, uintptr(unsafe.Pointer(&v))))
	return int(v), err
}

func (d *driver) deviceCount() (int, error) {
	var n int32
	err := d.check("cuDeviceGetCount", call(d.cuDeviceGetCount, uintptr(unsafe.Pointer(&n))))
	return int(n), err
}

// properties are what the backend asks of a GPU.
type properties struct {
	name             string
	major, minor     int // compute capability
	multiprocessors  int
	sharedBytesBlock int // most dynamic shared memory of a block, after opting in
	memoryBytes      int64
}

// arch is what to compile for: sm_90a is Hopper with the instructions that no other GPU has.
func (p properties) arch() string {
	suffix := ""
	if p.major == wgmmaMajor {
		suffix = "a"
	}
	return fmt.Sprintf("sm_%d%d%s", p.major, p.minor, suffix)
}

func (p properties) String() string {
	return fmt.Sprintf("%s, %s, %d multiprocessors, %d MB", p.name, p.arch(), p.multiprocessors, p.memoryBytes/1e6)
}

// Device attributes (CUdevice_attribute in cuda.h).
const (
	attributeMultiprocessors  = 16
	attributeMajor            = 75
	attributeMinor            = 76
	attributeSharedBytesBlock = 97
)

// properties describes device number i.
func (d *driver) properties(i int) (p properties, err error) {
	var handle int32
	if err := d.check("cuDeviceGet", call(d.cuDeviceGet, uintptr(unsafe.Pointer(&handle)), uintptr(i))); err != nil {
		return p, err
	}
	name := make([]byte, 256)
	if err := d.check("cuDeviceGetName", call(d.cuDeviceGetName, uintptr(unsafe.Pointer(&name[0])), uintptr(len(name)), uintptr(handle))); err != nil {
		return p, err
	}
	p.name = string(name[:max(0, bytes.IndexByte(name, 0))])
	for attribute, to := range map[int]*int{attributeMajor: &p.major, attributeMinor: &p.minor,
		attributeMultiprocessors: &p.multiprocessors, attributeSharedBytesBlock: &p.sharedBytesBlock} {
		var v int32
		if err := d.check("cuDeviceGetAttribute", call(d.cuDeviceGetAttribute, uintptr(unsafe.Pointer(&v)), uintptr(attribute), uintptr(handle))); err != nil {
			return p, err
		}
		*to = int(v)
	}
	err = d.check("cuDeviceTotalMem", call(d.cuDeviceTotalMem, uintptr(unsafe.Pointer(&p.memoryBytes)), uintptr(handle)))
	return p, err
}
