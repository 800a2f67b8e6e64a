package cuda

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// A Kernel executes one operation: args points to the operation's argument struct in package
// gpu. It launches work on the device's stream; the context is current.
type Kernel func(d *Device, args any) error

// Register adds an implementation of op, or replaces the one of that name; Select makes it the
// one that runs. Call it before launching work.
func (d *Device) Register(op gpu.Op, name, doc string, kernel Kernel) {
	switch op {
	case gpu.OpMatMul:
		kernel = leavingOut(kernel)
	case gpu.OpAttention:
		kernel = afterWrite(kernel)
	}
	d.ops.Register(op, name, doc, kernel)
}

// leavingOut is a product that does not take in a norm or a gate of which another implementation was chosen than the first.
func leavingOut(product Kernel) Kernel {
	return func(d *Device, args any) error {
		a := args.(*gpu.MatMul)
		norm, gate := a.Norm != nil && !d.ownFirst(gpu.OpRMSNorm), a.Gate != nil && !d.ownFirst(gpu.OpActMul)
		if !norm && !gate {
			return product(d, a)
		}
		alone := *a
		if norm {
			if err := d.launch(gpu.OpRMSNorm, a.Norm); err != nil {
				return err
			}
			alone.Norm = nil
		}
		if gate {
			alone.Gate = nil
		}
		if err := product(d, &alone); err != nil || !gate {
			return err
		}
		return d.launch(gpu.OpActMul, a.Gate)
	}
}

// afterWrite is an attention whose keys and values are written by another kernel before.
func afterWrite(attention Kernel) Kernel {
	return func(d *Device, args any) error {
		a := args.(*gpu.Attention)
		if a.Write == nil {
			return attention(d, a)
		}
		if err := d.launch(gpu.OpKVWrite, a.Write); err != nil {
			return err
		}
		alone := *a
		alone.Write = nil
		return attention(d, &alone)
	}
}

// Launch implements gpu.Device.
func (d *Device) Launch(op gpu.Op, args any) error {
	kernel, err := d.ops.Active(op)
	if err != nil {
		return err
	}
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	return kernel(d, args)
}

// launch executes op with its active kernel, as a part of another op.
func (d *Device) launch(op gpu.Op, args any) error {
	kernel, err := d.ops.Active(op)
	if err != nil {
		return err
	}
	return kernel(d, args)
}

// ownFirst reports whether op's first implementation is active, so that another kernel may take op in: whoever selected
// another one wants to see that.
func (d *Device) ownFirst(op gpu.Op) bool {
	_, active := d.ops.First(op)
	return active
}

// Implementations implements gpu.Device.
func (d *Device) Implementations(op gpu.Op) []gpu.Implementation { return d.ops.Implementations(op) }

// Select implements gpu.Device.
func (d *Device) Select(op gpu.Op, name string) error { return d.ops.Select(op, name) }

// registerAll registers every operation.
func (d *Device) registerAll() error {
	const plain = "float32, one thread per element"
	register(d, gpu.OpFeedTokens, "portable", plain, (*Device).feedTokens)
	register(d, gpu.OpEmbed, "portable", plain, (*Device).embed)
	register(d, gpu.OpRMSNorm, "portable", "float32, a warp or a block per row, by the row's length", (*Device).rmsNorm)
	if d.compute == gpu.BF16 {
		register(d, gpu.OpMatMul, "auto", "as skinny up to 8 tokens, from there on cuBLASLt with algorithms chosen by measurement", (*Device).auto)
		d.ops.Vary(gpu.OpMatMul, "auto")
		if err := d.registerSkinny(); err != nil {
			return err
		}
	}
	register(d, gpu.OpMatMul, "rows", "float32 fused multiply-adds; warps stream rows of W for up to 8 tokens at once", (*Device).rows)
	register(d, gpu.OpRoPETable, "portable", plain, (*Device).ropeTable)
	register(d, gpu.OpRoPE, "portable", "float32, one thread per rotated pair", (*Device).rope)
	register(d, gpu.OpKVWrite, "portable", plain, (*Device).kvWrite)
	register(d, gpu.OpKVCopy, "memcpy", "a device-to-device copy per block", (*Device).kvCopy)
	register(d, gpu.OpActMul, "portable", plain, (*Device).actMul)
	register(d, gpu.OpAdd, "portable", plain, (*Device).add)
	register(d, gpu.OpGatherRows, "portable", plain, (*Device).gatherRows)
	register(d, gpu.OpSoftCap, "portable", plain, (*Device).softCap)
	register(d, gpu.OpMoERoute, "portable", "float32, a warp per token", (*Device).moeRoute)
	if err := d.registerExperts(); err != nil {
		return err
	}
	register(d, gpu.OpSample, "portable", "float64 noise and mass, radix descent for cuts, a block per row", (*Device).sample)
	register(d, gpu.OpEditLogits, "portable", "a thread per edit, a block per mask", (*Device).editLogits)
	register(d, gpu.OpTopTokens, "portable", "a block per row and a pass per token", (*Device).topTokens)
	register(d, gpu.OpLogSoftmax, "portable", "float64 sum, a block per row", (*Device).logSoftmax)
	d.prepareMatMul()
	return d.registerAttention()
}

func register[A any](d *Device, op gpu.Op, name, doc string, run func(*Device, *A) error) {
	d.Register(op, name, doc, func(d *Device, args any) error { return run(d, args.(*A)) })
}

// function is a kernel on the GPU.
type function struct {
	name    string
	handle  uintptr
	overlap bool // it waits by itself for the kernel before
}

// overlapMajor is the compute capability from which kernels can overlap (programmatic dependent
// launch).
const overlapMajor = 9

// launchConfig is CUlaunchConfig.
type launchConfig struct {
	gridX, gridY, gridZ, blockX, blockY, blockZ, sharedBytes uint32
	_                                                        uint32
	stream                                                   uintptr
	attributes                                               unsafe.Pointer
	attributeCount                                           uint32
	_                                                        uint32
}

// launchAttribute is CUlaunchAttribute.
type launchAttribute struct {
	id, _ uint32
	value [16]uint32
}

// Values of CUlaunchAttributeID.
const (
	clusterDimension          = 4
	programmaticSerialization = 6
)

// grid is the number of blocks in each direction.
type grid struct{ x, y, z int }

// argumentBytesMax is what CUDA passes to a kernel at most.
const argumentBytesMax = 4096

// run launches a kernel whose only parameter is a struct laid out as A, in which pointers are
// 64-bit addresses. Nothing runs on an empty grid.
func run[A any](d *Device, f function, blocks grid, threads, sharedBytes int, args A) error {
	return runClusters(d, f, blocks, 1, threads, sharedBytes, args)
}

// runClusters is run with clusters of so many blocks, which divide blocks.x.
func runClusters[A any](d *Device, f function, blocks grid, cluster, threads, sharedBytes int, args A) error {
	if blocks.x == 0 || blocks.y == 0 || blocks.z == 0 {
		return nil
	}
	if blocks.x > math.MaxInt32 || blocks.y > math.MaxUint16 || blocks.z > math.MaxUint16 {
		return fmt.Errorf("%w: %s on a grid of %v, more than a GPU takes", gpu.ErrNotSupported, f.name, blocks)
	}
	if f.handle == 0 || unsafe.Sizeof(args) > argumentBytesMax {
		panic(fmt.Sprintf("cuda: kernel %q with %d bytes of arguments", f.name, unsafe.Sizeof(args)))
	}
	// The driver copies the arguments before it returns. They must not lie on a goroutine's
	// stack, which moves.
	w := &d.work
	*(*A)(unsafe.Pointer(&w.arguments)) = args
	w.parameters[0] = unsafe.Pointer(&w.arguments)
	if f.overlap {
		w.attributes = [2]launchAttribute{{id: programmaticSerialization, value: [16]uint32{1}}, {id: clusterDimension, value: [16]uint32{uint32(cluster), 1, 1}}}
		w.config = launchConfig{gridX: uint32(blocks.x), gridY: uint32(blocks.y), gridZ: uint32(blocks.z), blockX: uint32(threads), blockY: 1, blockZ: 1,
			sharedBytes: uint32(sharedBytes), stream: d.stream, attributes: unsafe.Pointer(&w.attributes), attributeCount: 1}
		if cluster > 1 {
			w.config.attributeCount = 2
		}
		return d.check("cuLaunchKernelEx of "+f.name, call(d.driver.cuLaunchKernelEx, uintptr(unsafe.Pointer(&w.config)), f.handle,
			uintptr(unsafe.Pointer(&w.parameters)), 0))
	}
	status := call(d.driver.cuLaunchKernel, f.handle, uintptr(blocks.x), uintptr(blocks.y), uintptr(blocks.z),
		uintptr(threads), 1, 1, uintptr(sharedBytes), d.stream, uintptr(unsafe.Pointer(&w.parameters)), 0)
	if status != 0 {
		return d.check("cuLaunchKernel of "+f.name, status)
	}
	return nil
}

// threadsPerBlock is for kernels whose threads are independent.
const threadsPerBlock = 256

// runEach launches a kernel with a thread for each of n elements.
func runEach[A any](d *Device, name string, n int, args A) error {
	return run(d, d.functions[name], grid{ceilDiv(n, threadsPerBlock), 1, 1}, threadsPerBlock, 0, args)
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// workspace is what launches reuse.
type workspace struct {
	arguments  [argumentBytesMax / 8]uint64
	parameters [1]unsafe.Pointer
	config     launchConfig
	attributes [2]launchAttribute
	scratch    block
	retired    []block // earlier scratch that recordings use
	recordings int     // alive
	rows       []sampleRow
	pointers   []uint64
	experts    map[*buffer]*expertTable // by the first expert's GateUp
	spare      []block                  // of tables whose experts were freed
}

// scratch returns device memory of at least n bytes that the launches of one op may use; the
// next op's launches overwrite it.
func (d *Device) scratch(n int64) (uintptr, error) {
	if n > d.work.scratch.bytes {
		b, err := d.heap.get(n)
		if err != nil {
			return 0, err
		}
		if d.recording || d.work.recordings > 0 {
			d.work.retired = append(d.work.retired, d.work.scratch) // recorded launches use it
		} else {
			d.heap.put(d.work.scratch)
		}
		d.work.scratch = b
	}
	return d.work.scratch.address, nil
}

// f32, i32 and act return the address of a tensor of that type; act is the compute type.
func (d *Device) f32(t gpu.Tensor) uintptr { return d.typed(t, gpu.F32) }
func (d *Device) i32(t gpu.Tensor) uintptr { return d.typed(t, gpu.I32) }
func (d *Device) act(t gpu.Tensor) uintptr { return d.typed(t, d.compute) }

// output returns the address of a tensor of the compute type or float32, and 1 if it is float32.
func (d *Device) output(t gpu.Tensor) (address uintptr, isF32 int32) {
	if t.DType == gpu.F32 {
		return d.f32(t), 1
	}
	return d.act(t), 0
}

func (d *Device) typed(t gpu.Tensor, dtype gpu.DType) uintptr {
	if t.DType != dtype {
		panic(fmt.Sprintf("cuda: %v where %v is needed", t, dtype))
	}
	return d.address(t)
}

// mustShape panics unless t has the given dimensions (trailing ones are implied).
func mustShape(op gpu.Op, field string, t gpu.Tensor, dims ...int) {
	want := [gpu.RankMax]int{1, 1, 1, 1}
	copy(want[:], dims)
	if t.Dims != want {
		panic(fmt.Sprintf("cuda: %s: %s is %v, want %v", op, field, t, append([]int(nil), dims...)))
	}
}

// mustLen panics unless t has n elements.
func mustLen(op gpu.Op, field string, t gpu.Tensor, n int) {
	if t.Len() != n {
		panic(fmt.Sprintf("cuda: %s: %s is %v, want %d elements", op, field, t, n))
	}
}

// mustIndex panics unless 0 <= index < n.
func mustIndex(op gpu.Op, field string, index, n int) {
	if uint(index) >= uint(n) {
		panic(fmt.Sprintf("cuda: %s: %s is %d, outside 0..%d", op, field, index, n-1))
	}
}

// Fault commits an illegal access, which ruins CUDA for the process: for tests and drills of what comes after. No op can be
// made to, as they check every number that they are given.
func (d *Device) Fault() error {
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	const nowhere, n = 16, 32
	return run(d, d.functions["add"], grid{1, 1, 1}, n, 0, addArgs{out: nowhere, x: nowhere, y: nowhere, n: n})
}
