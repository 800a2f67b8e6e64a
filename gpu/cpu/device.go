package cpu

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// ThreadsMax bounds Options.Threads.
const ThreadsMax = 1024

// Options configures Open. The zero value uses all processors, all memory and the best tier.
type Options struct {
	Threads          int    // goroutines that compute, the caller included; 0 is GOMAXPROCS
	MemoryLimitBytes int64  // most bytes that tensors may take; 0 is what the machine has
	Tier             string // "go", "avx2", "avx512"; "" is $TROUPE_CPU_TIER or else the best
	// Compute is gpu.F32, which 0 is too, or gpu.BF16: then products with bfloat16 weights round activations to
	// bfloat16, as some processors multiply pairs of it at almost twice the rate. Everything else stays float32.
	Compute gpu.DType
	// WeightsDir, if not empty, is a directory for packed weights, which processes then share: see panels.go. Who can
	// write to it decides what models compute.
	WeightsDir string
	// WeightsDirBytesMax bounds what WeightsDir keeps; 0 is no bound. What was used last longest ago goes first, but
	// nothing that was used since the device is open.
	WeightsDirBytesMax int64
}

// Device is the CPU as a gpu.Device. See the package comment.
type Device struct {
	description string
	tier        *tier // that Open selected
	limit       int64 // bytes; 0 is none
	table       gpu.Table[*buffer]
	ops         *gpu.Registry[Kernel]
	pool        *pool
	pairs       bool  // Options.Compute is BF16
	shelf       shelf // Options.WeightsDir
	closed      atomic.Bool
	work        workspace
}

var _ gpu.Device = (*Device)(nil)

// buffer is the payload of an allocation: raw memory, or a packed weight.
type buffer struct {
	raw    []byte // 64-byte aligned
	mapped bool   // raw is outside the Go heap and must be unmapped
	weight *matrix
}

// Open returns the CPU device. It fails with gpu.ErrNotSupported if the processor lacks the
// tier that was asked for.
func Open(o Options) (*Device, error) {
	if o.Threads < 0 || o.Threads > ThreadsMax {
		return nil, fmt.Errorf("cpu: Options.Threads is %d; use 0 for all processors or 1..%d", o.Threads, ThreadsMax)
	}
	if o.MemoryLimitBytes < 0 {
		return nil, fmt.Errorf("cpu: Options.MemoryLimitBytes is %d; use 0 for no limit", o.MemoryLimitBytes)
	}
	if o.Compute != 0 && o.Compute != gpu.F32 && o.Compute != gpu.BF16 {
		return nil, fmt.Errorf("%w: cpu: Options.Compute is %v; use f32 or bf16", gpu.ErrNotSupported, o.Compute)
	}
	threads := o.Threads
	if threads == 0 {
		threads = runtime.GOMAXPROCS(0)
	}
	name := o.Tier
	if name == "" {
		name = os.Getenv("TROUPE_CPU_TIER")
	}
	best, err := findTier(name)
	if err != nil {
		return nil, err
	}
	kept, err := openShelf(o.WeightsDir, o.WeightsDirBytesMax)
	if err != nil {
		return nil, err
	}
	d := &Device{
		description: fmt.Sprintf("%s, %d %s, %s", processorName(), threads, plural(threads, "thread"), best.name),
		tier:        best,
		limit:       o.MemoryLimitBytes,
		pool:        newPool(threads),
		pairs:       o.Compute == gpu.BF16,
		shelf:       kept,
		ops:         gpu.NewRegistry[Kernel]("cpu"),
	}
	if d.pairs {
		d.description += ", bf16 products"
	}
	d.work.workers = make([]workerSpace, threads)
	d.registerAll(best.name)
	return d, nil
}

func plural(n int, noun string) string {
	if n == 1 {
		return noun
	}
	return noun + "s"
}

// Info implements gpu.Device.
func (d *Device) Info() gpu.Info {
	total, free := systemMemory()
	if d.limit > 0 {
		total = min(total, d.limit)
		free = max(0, min(free, d.limit-d.table.Stats().Bytes))
	}
	return gpu.Info{Name: "cpu:0", Description: d.description, MemoryTotal: total, MemoryFree: free, Synchronous: true, Compute: gpu.F32, KV: []gpu.DType{gpu.F32, gpu.BF16, gpu.I8},
		Experts: slices.Collect(maps.Keys(quantFormats))}
}

// Memory implements gpu.Device.
func (d *Device) Memory() gpu.MemoryStats { return d.table.Stats() }

// Alloc implements gpu.Device.
func (d *Device) Alloc(dtype gpu.DType, dims ...int) (gpu.Tensor, error) {
	bytes, err := allocBytes(dtype, dims)
	if err != nil {
		return gpu.Tensor{}, err
	}
	b, err := d.reserve(bytes)
	if err != nil {
		return gpu.Tensor{}, fmt.Errorf("Alloc(%v, %v): %w", dtype, dims, err)
	}
	return d.table.Put(b, bytes, "", dtype, dims...), nil
}

// allocBytes returns the bytes of a tensor that is not packed.
func allocBytes(dtype gpu.DType, dims []int) (int64, error) {
	if slices.ContainsFunc(dims, func(n int) bool { return n < 0 }) {
		return 0, fmt.Errorf("cpu: Alloc(%v, %v): negative dimension", dtype, dims)
	}
	factors := slices.Clone(dims)
	if last := len(dims) - 1; dtype == gpu.I8 && last >= 0 {
		factors[last] = dtype.RowBytes(dims[last]) // a row is more than its elements
	} else {
		factors = append(factors, dtype.Size())
	}
	bytes := int64(1)
	for _, n := range factors {
		if n < 0 || n > 0 && bytes > math.MaxInt/int64(n) {
			return 0, fmt.Errorf("%w: Alloc(%v, %v): size overflows an int", gpu.ErrOutOfMemory, dtype, dims)
		}
		bytes *= int64(n)
	}
	return bytes, nil
}

// reserve returns zeroed memory, or ErrOutOfMemory stating sizes.
func (d *Device) reserve(bytes int64) (*buffer, error) {
	if err := d.admit(bytes); err != nil {
		return nil, err
	}
	raw, mapped, err := allocate(int(bytes))
	if err != nil {
		return nil, fmt.Errorf("%w: need %d bytes: %w", gpu.ErrOutOfMemory, bytes, err)
	}
	return &buffer{raw: raw, mapped: mapped}, nil
}

// admit returns an error if the device may not, or the machine cannot, hold so many bytes more.
func (d *Device) admit(bytes int64) error {
	if d.closed.Load() {
		return errClosed
	}
	// Below this size the machine is not asked: it costs microseconds and cannot matter.
	const checkedBytesMin = 16 << 20
	free := int64(math.MaxInt64)
	if d.limit > 0 {
		free = d.limit - d.table.Stats().Bytes
	}
	if bytes >= checkedBytesMin {
		if _, available := systemMemory(); available > 0 { // 0: the machine does not say
			free = min(free, available)
		}
	}
	if bytes > free {
		return fmt.Errorf("%w: need %d bytes, %d free", gpu.ErrOutOfMemory, bytes, max(0, free))
	}
	return nil
}

// Free implements gpu.Device.
func (d *Device) Free(t gpu.Tensor) { d.table.Free(t).release() }

func (b *buffer) release() {
	if b.mapped {
		unmap(b.raw)
	}
	*b = buffer{}
}

// Upload implements gpu.Device.
func (d *Device) Upload(dst gpu.Tensor, src []byte) error {
	b := d.bytes(dst)
	if len(src) != len(b) {
		panic(fmt.Sprintf("cpu: Upload of %d bytes to %v, which has %d", len(src), dst, len(b)))
	}
	copy(b, src)
	return nil
}

// Download implements gpu.Device.
func (d *Device) Download(dst []byte, src gpu.Tensor) error {
	b := d.bytes(src)
	if len(dst) != len(b) {
		panic(fmt.Sprintf("cpu: Download of %d bytes from %v, which has %d", len(dst), src, len(b)))
	}
	copy(dst, b)
	return nil
}

// Fetch implements gpu.Device. Launches are done when they return, so the copy is made at once.
func (d *Device) Fetch(src gpu.Tensor) (gpu.Fetched, error) {
	if d.closed.Load() {
		return nil, errClosed
	}
	b := d.bytes(src)
	f := &fetched{data: append(make([]byte, 0, len(b)), b...)}
	return f, nil
}

type fetched struct {
	data   []byte
	waited atomic.Bool
}

// Wait implements gpu.Fetched.
func (f *fetched) Wait(dst []byte) error {
	if f.waited.Swap(true) || len(dst) != len(f.data) {
		panic(fmt.Sprintf("cpu: Wait for %d bytes of a copy of %d, or a second time", len(dst), len(f.data)))
	}
	copy(dst, f.data)
	return nil
}

// Sync implements gpu.Device. Launches on the CPU are done when they return.
func (d *Device) Sync() error {
	if d.closed.Load() {
		return errClosed
	}
	return nil
}

var errClosed = fmt.Errorf("%w: the cpu device is closed", gpu.ErrDeviceLost)

// Close implements gpu.Device.
func (d *Device) Close() error {
	if d.closed.Swap(true) {
		return errors.New("cpu: Close of a closed device")
	}
	d.pool.close()
	leaks := d.table.Leaks()
	for _, b := range d.table.All() {
		b.release()
	}
	return leaks
}

// bytes returns the memory of t.
func (d *Device) bytes(t gpu.Tensor) []byte {
	b := d.table.Get(t)
	if t.Packed || b.weight != nil {
		panic(fmt.Sprintf("cpu: %v is a packed weight; only MatMul can read it", t))
	}
	return b.raw[t.ByteOffset():][:t.Bytes()]
}

// Float32s returns the elements of an F32 tensor, valid until it is freed. For implementations
// of operations.
func (d *Device) Float32s(t gpu.Tensor) []float32 { return view[float32](d, t, gpu.F32) }

// Int32s returns the elements of an I32 tensor, valid until it is freed. For implementations
// of operations.
func (d *Device) Int32s(t gpu.Tensor) []int32 { return view[int32](d, t, gpu.I32) }

func view[E float32 | int32](d *Device, t gpu.Tensor, dtype gpu.DType) []E {
	if t.DType != dtype {
		panic(fmt.Sprintf("cpu: %v where %v is needed", t, dtype))
	}
	b := d.bytes(t)
	return unsafe.Slice((*E)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/4)
}

// weight returns the packed weight that t names.
func (d *Device) weight(t gpu.Tensor) *matrix {
	m := d.table.Get(t).weight
	if m == nil {
		panic(fmt.Sprintf("cpu: %v is not a packed weight; make it with PackMatrix", t))
	}
	return m
}
