package cuda

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// Options configures Open. The zero value is the first GPU, with all of its memory, in float32.
type Options struct {
	Device           int       // the GPU's number, as CUDA counts; CUDA_VISIBLE_DEVICES applies
	MemoryLimitBytes int64     // most bytes that tensors may take; 0 is what the GPU has
	Compute          gpu.DType // of activations, keys and values: F32, the default, or BF16
}

// Device is a GPU as a gpu.Device. See the package comment.
type Device struct {
	name, description string
	ordinal           int // as CUDA counts
	properties        properties
	limit             int64 // bytes; 0 is none
	compute           gpu.DType
	driver            *driver
	context, stream   uintptr
	functions         map[string]function
	matMuls           map[matMulKernel]function
	table             gpu.Table[*buffer]
	heap              heap
	upload, download  staging
	fetches           fetches
	ops               *gpu.Registry[Kernel]
	work              workspace
	gemm              *gemm // nil without cuBLASLt, and in float32
	recording         bool  // launches are recorded and not executed
	submissions       int   // kernels that were submitted and registered

	closing sync.RWMutex // held to close; read-held by what may be called from anywhere
	closed  atomic.Bool
	lost    atomic.Pointer[Error] // the error that ruined the context
}

var (
	_ gpu.Device    = (*Device)(nil)
	_ gpu.Submitter = (*Device)(nil)
	_ gpu.Sharer    = (*Device)(nil)
)

// buffer is the payload of an allocation.
type buffer struct {
	block    block
	weight   *matrix // of a packed weight
	exported bool    // other processes may use it: its memory is not for another tensor
	mapping  uintptr // where another process's memory is mapped, of which block is a part; 0 for memory of this one
}

// Open returns the GPU as a device. It fails with gpu.ErrNotSupported, and says what it looked
// for and where, if there is no driver, no compiler or no such GPU.
func Open(o Options) (*Device, error) { return openWith(o, modules) }

// openWith opens the GPU with those kernels that list names for the compute type; without any, it has no ops.
func openWith(o Options, kernels func(compute gpu.DType) []module) (*Device, error) {
	if o.Device < 0 || o.MemoryLimitBytes < 0 {
		return nil, fmt.Errorf("cuda: Options %+v: want numbers of 0 or more", o)
	}
	if o.Compute == 0 {
		o.Compute = gpu.F32
	}
	if o.Compute != gpu.F32 && o.Compute != gpu.BF16 {
		return nil, fmt.Errorf("%w: the cuda device computes in f32 or bf16, not in %v", gpu.ErrNotSupported, o.Compute)
	}
	s := hostSearch()
	drv, _, err := loadDriver(s)
	if err != nil {
		return nil, err
	}
	count, err := drv.deviceCount()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", gpu.ErrNotSupported, err)
	}
	if o.Device >= count {
		return nil, fmt.Errorf("%w: GPU number %d was asked for; the driver shows %d (CUDA_VISIBLE_DEVICES limits them)", gpu.ErrNotSupported, o.Device, count)
	}
	p, err := drv.properties(o.Device)
	if err != nil {
		return nil, err
	}
	if p.major < 8 {
		return nil, fmt.Errorf("%w: %v; the kernels need sm_80 (Ampere) or later", gpu.ErrNotSupported, p)
	}
	list := kernels(o.Compute)
	code, err := kernelCode(s, drv, list, p.arch())
	if err != nil {
		return nil, err
	}
	d := &Device{name: fmt.Sprintf("cuda:%d", o.Device), ordinal: o.Device, description: p.String(), properties: p, limit: o.MemoryLimitBytes, compute: o.Compute,
		driver: drv, functions: map[string]function{}, ops: gpu.NewRegistry[Kernel]("cuda")}
	d.heap.d, d.upload.d, d.download.d = d, d, d
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := d.start(s, o.Device, list, code); err != nil {
		if errors.Is(err, gpu.ErrDeviceLost) {
			err = fmt.Errorf("%w; after a fault CUDA refuses the whole process: restart it", err)
		}
		return nil, errors.Join(err, d.stop())
	}
	return d, nil
}

// kernelCode compiles the kernels, through the cache.
func kernelCode(s search, drv *driver, list []module, arch string) ([][]byte, error) {
	version, err := drv.version()
	if err != nil {
		return nil, err
	}
	compilerLib, _, err := loadNVRTC(s)
	if err != nil {
		return nil, err
	}
	c := &compiler{dir: cacheDir(), driver: versionText(version), version: compilerLib.version, run: compilerLib.compile}
	return compileAll(c, list, arch)
}

// start creates the context and everything in it. The caller holds its thread.
func (d *Device) start(s search, ordinal int, list []module, code [][]byte) error {
	var handle int32
	if err := d.check("cuDeviceGet", call(d.driver.cuDeviceGet, uintptr(unsafe.Pointer(&handle)), uintptr(ordinal))); err != nil {
		return err
	}
	if err := d.check("cuCtxCreate", call(d.driver.cuCtxCreate, uintptr(unsafe.Pointer(&d.context)), 0, uintptr(handle))); err != nil {
		return err
	}
	const nonBlocking = 1 // not ordered with the default stream, which nothing here uses
	if err := d.check("cuStreamCreate", call(d.driver.cuStreamCreate, uintptr(unsafe.Pointer(&d.stream)), nonBlocking)); err != nil {
		return err
	}
	for i, m := range list {
		if err := d.loadModule(m, code[i]); err != nil {
			return err
		}
	}
	for _, ring := range []*staging{&d.upload, &d.download} {
		if err := ring.open(); err != nil {
			return err
		}
	}
	if len(list) == 0 {
		return nil
	}
	if d.compute == gpu.BF16 {
		if err := d.openGemm(s); err != nil {
			return err
		}
	}
	if err := d.registerAll(); err != nil {
		return err
	}
	return d.prepareQuantized()
}

// loadModule loads a module's code and finds its kernels.
func (d *Device) loadModule(m module, code []byte) error {
	var handle uintptr
	if err := d.check("cuModuleLoadData of "+m.name(), call(d.driver.cuModuleLoadData, uintptr(unsafe.Pointer(&handle)), uintptr(unsafe.Pointer(&code[0])))); err != nil {
		return err
	}
	for _, name := range m.kernels {
		f := function{name: name, overlap: m.overlap && d.properties.major >= overlapMajor}
		text := cBytes(name)
		if err := d.check("cuModuleGetFunction of "+name, call(d.driver.cuModuleGetFunction, uintptr(unsafe.Pointer(&f.handle)), handle, uintptr(unsafe.Pointer(&text[0])))); err != nil {
			return err
		}
		d.functions[name] = f
	}
	return nil
}

// enter makes the context current on the caller's thread until leave.
func (d *Device) enter() error {
	if d.closed.Load() {
		return errClosed
	}
	if e := d.lost.Load(); e != nil {
		return fmt.Errorf("%s is lost since: %w", d.name, e)
	}
	runtime.LockOSThread()
	if err := d.check("cuCtxSetCurrent", call(d.driver.cuCtxSetCurrent, d.context)); err != nil {
		runtime.UnlockOSThread()
		return err
	}
	return nil
}

func (d *Device) leave() { runtime.UnlockOSThread() }

var errClosed = fmt.Errorf("%w: the cuda device is closed", gpu.ErrDeviceLost)

// check turns a driver's status into an error, and remembers one that ruins the context.
func (d *Device) check(what string, status int32) error {
	if status == 0 {
		return nil
	}
	err := d.driver.check(what, status)
	var e *Error
	if errors.As(err, &e) && sticky[e.Code] {
		d.lost.CompareAndSwap(nil, e)
	}
	return err
}

// Info implements gpu.Device.
func (d *Device) Info() gpu.Info {
	info := gpu.Info{Name: d.name, Description: d.description, MemoryTotal: d.properties.memoryBytes, Compute: d.compute, KV: []gpu.DType{d.compute}, OwnMemory: true, ExpertsAlike: true}
	if d.compute == gpu.BF16 {
		info.Experts = slices.Sorted(maps.Keys(quantFormats))
	}
	d.closing.RLock()
	defer d.closing.RUnlock()
	if d.enter() != nil {
		return info // a lost device has no memory to give
	}
	defer d.leave()
	var free, total uint64
	if d.check("cuMemGetInfo", call(d.driver.cuMemGetInfo, uintptr(unsafe.Pointer(&free)), uintptr(unsafe.Pointer(&total)))) == nil {
		info.MemoryFree = int64(free) + d.heap.idle.Load()
	}
	if d.limit > 0 {
		info.MemoryTotal = min(info.MemoryTotal, d.limit)
		info.MemoryFree = max(0, min(info.MemoryFree, d.limit-d.table.Stats().Bytes))
	}
	return info
}

// Memory implements gpu.Device.
func (d *Device) Memory() gpu.MemoryStats { return d.table.Stats() }

// Alloc implements gpu.Device.
func (d *Device) Alloc(dtype gpu.DType, dims ...int) (gpu.Tensor, error) {
	bytes := int64(dtype.Size())
	for _, n := range dims {
		if n < 0 {
			return gpu.Tensor{}, fmt.Errorf("cuda: Alloc(%v, %v): negative dimension", dtype, dims)
		}
		if n > 0 && bytes > math.MaxInt/int64(n) {
			return gpu.Tensor{}, fmt.Errorf("%w: Alloc(%v, %v): size overflows an int", gpu.ErrOutOfMemory, dtype, dims)
		}
		bytes *= int64(n)
	}
	if err := d.enter(); err != nil {
		return gpu.Tensor{}, err
	}
	defer d.leave()
	b, err := d.reserve(bytes)
	if err != nil {
		return gpu.Tensor{}, fmt.Errorf("Alloc(%v, %v): %w", dtype, dims, err)
	}
	return d.table.Put(b, bytes, "", dtype, dims...), nil
}

// reserve returns zeroed memory.
func (d *Device) reserve(bytes int64) (*buffer, error) {
	if used := d.table.Stats().Bytes; d.limit > 0 && bytes > d.limit-used {
		return nil, fmt.Errorf("%w: need %d bytes, %d free of the limit of %d", gpu.ErrOutOfMemory, bytes, max(0, d.limit-used), d.limit)
	}
	b, err := d.heap.get(bytes)
	if err != nil {
		return nil, err
	}
	if bytes > 0 {
		if err := d.check("cuMemsetD8Async", call(d.driver.cuMemsetD8Async, b.address, 0, uintptr(bytes), d.stream)); err != nil {
			d.heap.put(b)
			return nil, err
		}
	}
	return &buffer{block: b}, nil
}

// Free implements gpu.Device. The memory is reused in the order of the stream, so work that was
// launched before may still use it.
func (d *Device) Free(t gpu.Tensor) {
	b := d.table.Free(t)
	d.work.forget(b)
	if b.exported || b.mapping != 0 {
		d.unshare(b)
		return
	}
	d.heap.put(b.block)
}

// Sync implements gpu.Device.
func (d *Device) Sync() error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	return d.wait()
}

// wait returns when the stream is idle; it reports what a kernel did wrong.
func (d *Device) wait() error {
	return d.check("cuStreamSynchronize", call(d.driver.cuStreamSynchronize, d.stream))
}

// Close implements gpu.Device.
func (d *Device) Close() error {
	d.closing.Lock()
	defer d.closing.Unlock()
	if d.closed.Swap(true) {
		return errors.New("cuda: Close of a closed device")
	}
	return errors.Join(d.table.Leaks(), d.stop())
}

// stop destroys the context, and with it all that was allocated in it; what a ruined context
// says to that is no news.
func (d *Device) stop() error {
	if d.context == 0 {
		return nil
	}
	context := d.context
	d.context = 0
	status := call(d.driver.cuCtxDestroy, context)
	if status != 0 && d.lost.Load() == nil {
		return d.driver.check("cuCtxDestroy", status)
	}
	return nil
}

// address returns the device address of t's first element.
func (d *Device) address(t gpu.Tensor) uintptr {
	b := d.table.Get(t)
	if t.Packed || b.weight != nil {
		panic(fmt.Sprintf("cuda: %v is a packed weight; only MatMul can read it", t))
	}
	size := int64(t.DType.Size())
	if to := (int64(t.Offset) + int64(t.Len())) * size; t.Offset < 0 || to > b.block.bytes {
		panic(fmt.Sprintf("cuda: %v ends at byte %d of an allocation of %d", t, to, b.block.bytes))
	}
	return b.block.address + uintptr(int64(t.Offset)*size)
}
