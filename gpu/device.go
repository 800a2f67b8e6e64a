package gpu

import (
	"errors"
	"fmt"
)

// Errors every backend returns (wrapped with detail).
var (
	// ErrNotSupported: this machine or build lacks what the call needs (no driver, no such op).
	ErrNotSupported = errors.New("gpu: not supported")
	// ErrOutOfMemory: the device cannot satisfy the allocation; the message states sizes.
	ErrOutOfMemory = errors.New("gpu: out of device memory")
	// ErrDeviceLost: the device can no longer be used and must be reopened.
	ErrDeviceLost = errors.New("gpu: device lost")
	// ErrStale: a recording does not do any more what it was made from; make it anew.
	ErrStale = errors.New("gpu: stale recording")
)

// DType is the element type of a tensor.
type DType uint8

// Element types. The values are stable: they appear in handles on the wire.
const (
	F32 DType = iota + 1
	F16
	BF16
	I32
	U64

	// The types below exist only in packed weights. Elements come in blocks that share a scale, laid
	// out in PackMatrix's input as GGUF stores them; a block never spans two rows.
	Q8_0 // 32 elements: float16 d, 32 int8
	Q4_0 // 32 elements: float16 d, 16 bytes of nibbles less 8
	Q4_1 // 32 elements: float16 d and m, 16 bytes of nibbles
	Q4_K // 256 elements: float16 d and dmin, 12 bytes of 6-bit scales and minimums, nibbles
	Q6_K // 256 elements: 6-bit codes, 16 int8 scales, float16 d

	// Types of checkpoints that were quantized by other means. The blocks of the first two are whole rows:
	// their codes, and then a float32 scale.
	E4M3   // 8-bit floats of 4 bits of exponent and 3 of mantissa (arXiv:2209.05433), without NaN
	I8     // int8; KV pools may have it too: then every row, of the last dimension, is its codes and a float32 scale
	I4_32  // 32 elements: float16 d, uint8 zero up to 16, a byte 0, nibbles as Q4_0's; an element is d * (code - zero)
	I4_64  // 64 elements, likewise
	I4_128 // 128 elements, likewise

	E4M3_128 // 128 elements: float32 d, 128 8-bit floats as those of E4M3
)

var dtypeNames = map[DType]string{F32: "f32", F16: "f16", BF16: "bf16", I32: "i32", U64: "u64",
	Q8_0: "q8_0", Q4_0: "q4_0", Q4_1: "q4_1", Q4_K: "q4_k", Q6_K: "q6_k",
	E4M3: "e4m3", I8: "i8", I4_32: "i4_32", I4_64: "i4_64", I4_128: "i4_128", E4M3_128: "e4m3_128"}

// blockSizes are the elements and bytes of a quantized type's block.
var blockSizes = map[DType][2]int{Q8_0: {32, 34}, Q4_0: {32, 18}, Q4_1: {32, 20}, Q4_K: {256, 144}, Q6_K: {256, 210},
	I4_32: {32, 20}, I4_64: {64, 36}, I4_128: {128, 68}, E4M3_128: {128, 132}}

// rowScaleBytes is what a row of E4M3 or I8 has after its codes.
const rowScaleBytes = 4

// Quantized reports whether elements of t come in blocks, which makes it a type of packed weights only.
func (t DType) Quantized() bool { return blockSizes[t][0] > 0 || t.scaledRows() }

// scaledRows reports whether whole rows share a scale.
func (t DType) scaledRows() bool { return t == E4M3 || t == I8 }

// RowBytes returns the bytes of a row of k elements in PackMatrix's input, k being whole blocks.
func (t DType) RowBytes(k int) int {
	if t.scaledRows() {
		return k + rowScaleBytes
	}
	elements, bytes := t.Block()
	return k / elements * bytes
}

// Block returns the elements of one block of t and its bytes in PackMatrix's input; where a row is a block, that
// is its elements and bytes but for the scale.
func (t DType) Block() (elements, bytes int) {
	if b, ok := blockSizes[t]; ok {
		return b[0], b[1]
	}
	if t.scaledRows() {
		return 1, 1
	}
	return 1, t.Size()
}

// Size returns the bytes of one element. A quantized type has no such size and panics: see Block.
func (t DType) Size() int {
	switch t {
	case F32, I32:
		return 4
	case F16, BF16:
		return 2
	case U64:
		return 8
	}
	panic(fmt.Sprintf("gpu: DType(%d) has no size", uint8(t)))
}

func (t DType) String() string {
	if s, ok := dtypeNames[t]; ok {
		return s
	}
	return fmt.Sprintf("DType(%d)", uint8(t))
}

// RankMax is the largest number of dimensions a tensor may have.
const RankMax = 4

// Tensor names an allocation on one device, or a contiguous part of one. It is a value:
// copying it copies the name, not the data. The zero Tensor names nothing.
//
// Generation makes use after free detectable: a freed slot's generation is bumped, so a
// stale Tensor no longer resolves and the backend panics with the creation site.
type Tensor struct {
	ID         uint32 // slot in the device's allocation table, 1-based
	Generation uint32
	DType      DType
	Packed     bool // device-private weight layout made by PackMatrix; only usable as a MatMul weight
	Rank       uint8
	Dims       [RankMax]int // unused dimensions are 1
	Offset     int          // elements from the start of the allocation
}

// Valid reports whether t names anything.
func (t Tensor) Valid() bool { return t.ID != 0 }

// Len returns the number of elements.
func (t Tensor) Len() int { return t.Dims[0] * t.Dims[1] * t.Dims[2] * t.Dims[3] }

// Bytes returns the size of t's elements in bytes, those of rows' scales included (not of a packed layout).
func (t Tensor) Bytes() int { return t.bytesOf(t.Len()) }

// ByteOffset is where t begins in its allocation.
func (t Tensor) ByteOffset() int { return t.bytesOf(t.Offset) }

// bytesOf returns the bytes of n elements, which are whole rows if rows have scales.
func (t Tensor) bytesOf(n int) int {
	if !t.DType.scaledRows() {
		return n * t.DType.Size()
	}
	row := max(1, t.Dims[max(1, t.Rank)-1])
	return n / row * t.DType.RowBytes(row)
}

// Slice returns rows [from, to) of t's first dimension.
func (t Tensor) Slice(from, to int) Tensor {
	if from < 0 || to < from || to > t.Dims[0] || t.Packed {
		panic(fmt.Sprintf("gpu: Slice(%d, %d) of %v", from, to, t))
	}
	row := t.Dims[1] * t.Dims[2] * t.Dims[3]
	t.Offset += from * row
	t.Dims[0] = to - from
	return t
}

// Reshape returns t with other dimensions and the same number of elements.
func (t Tensor) Reshape(dims ...int) Tensor {
	n := t.Len()
	t.setDims(dims)
	if t.Len() != n || t.Packed || t.DType.scaledRows() {
		panic(fmt.Sprintf("gpu: Reshape(%v) of %d elements", dims, n))
	}
	return t
}

func (t *Tensor) setDims(dims []int) {
	if len(dims) == 0 || len(dims) > RankMax {
		panic(fmt.Sprintf("gpu: rank %d outside 1..%d", len(dims), RankMax))
	}
	t.Rank = uint8(len(dims))
	t.Dims = [RankMax]int{1, 1, 1, 1}
	copy(t.Dims[:], dims)
}

// DTypeByName is the element type whose String is name, or 0.
func DTypeByName(name string) DType {
	for t, n := range dtypeNames {
		if n == name {
			return t
		}
	}
	return 0
}

// NewTensor builds the Tensor for slot id of a device's allocation table. For backends.
func NewTensor(id, generation uint32, dtype DType, dims ...int) Tensor {
	t := Tensor{ID: id, Generation: generation, DType: dtype}
	t.setDims(dims)
	return t
}

func (t Tensor) String() string {
	return fmt.Sprintf("tensor#%d.%d %s%v", t.ID, t.Generation, t.DType, t.Dims[:t.Rank])
}

// Info describes a device for people and for decisions (troupe doctor, KV sizing).
type Info struct {
	Name         string  `json:"name"`         // "cpu:0", "cuda:0"
	Description  string  `json:"description"`  // "AMD EPYC, 2 threads, avx512"
	MemoryTotal  int64   `json:"memory_total"` // bytes
	MemoryFree   int64   `json:"memory_free"`  // bytes that an allocation could get now
	OwnMemory    bool    `json:"own_memory"`   // the memory is the device's and not the host's
	Synchronous  bool    `json:"-"`            // an operation is done when its launch returns
	Compute      DType   `json:"-"`            // element type of activations and logits
	KV           []DType `json:"-"`            // element types that KV pools may have
	Experts      []DType `json:"-"`            // quantized types that moe_experts takes
	ExpertsAlike bool    `json:"-"`            // moe_experts takes experts of one type alone, and beside quantized matrices plain ones of Compute
}

// MemoryStats accounts for a device's allocations.
type MemoryStats struct {
	Tensors int   `json:"tensors"` // live allocations
	Bytes   int64 `json:"bytes"`   // bytes in live allocations, packed layouts included
}

// Implementation is one registered way to execute an op.
type Implementation struct {
	Name   string `json:"name"` // "go", "avx2", "avx512"
	Doc    string `json:"doc"`  // one line: what is different about it
	Active bool   `json:"active"`
	// BatchVariant: the bits of a row may depend on the rows that it is computed with.
	BatchVariant bool `json:"batch_variant,omitempty"`
}

// Fetched is a copy on its way to the host.
type Fetched interface {
	// Wait returns when the copy has arrived and is in dst, whose length is the tensor's bytes. Call
	// it once, from any goroutine; a second call panics.
	Wait(dst []byte) error
}

// Device executes operations on memory it owns. Launches and uploads take effect in call
// order, as on one stream; they may return before the work is done, and only Download and
// Sync wait. A Device is used by one goroutine at a time (its executor), except Info,
// Memory, Implementations and Select, which may be called from anywhere.
//
// Programmer errors (a freed tensor, a shape or type mismatch between arguments) panic.
// Operating errors (out of memory, a lost device) are returned.
type Device interface {
	Info() Info
	Memory() MemoryStats

	// Alloc returns zeroed memory of the given shape. ErrOutOfMemory states need and free.
	Alloc(dtype DType, dims ...int) (Tensor, error)
	// PackMatrix copies a weight matrix W[n, k] (row-major, little-endian, dtype F32, F16, BF16
	// or a quantized type) into the layout this device multiplies fastest. The matrix is given as
	// row blocks that are stacked in order, so fused projections (QKV, gate and up) need no host
	// copy; len(parts) bytes must add up to n rows of k elements. name is for error messages. A
	// device that does not execute a quantized type returns ErrNotSupported.
	PackMatrix(name string, dtype DType, n, k int, parts ...[]byte) (Tensor, error)
	// Free releases an allocation; a second Free of it panics.
	Free(t Tensor)

	// Upload copies src, little-endian elements of dst's type, to dst. len(src) == dst.Bytes().
	Upload(dst Tensor, src []byte) error
	// Download waits for all launched work and copies src to dst. len(dst) == src.Bytes().
	Download(dst []byte, src Tensor) error
	// Fetch starts to copy src to the host, behind all launched work, and returns at once: the
	// copy is of src as that work leaves it, whatever is launched later.
	Fetch(src Tensor) (Fetched, error)

	// Launch executes op with args, a pointer to the op's argument struct in this package.
	// The device does not keep args after it returns.
	Launch(op Op, args any) error
	// Sync waits for all launched work.
	Sync() error

	// Implementations lists the ways this device can execute op; Select chooses one by name.
	Implementations(op Op) []Implementation
	Select(op Op, name string) error

	// Close releases everything. Tensors that were not freed are reported as an error that
	// lists their creation sites.
	Close() error
}

// RandomMaker is a Device that makes random weights in place, which takes no file and no transfer.
type RandomMaker interface {
	// Random allocates a tensor of F32 or BF16 whose element i is ref.RandomWeight(seed, i) times
	// ref.RandomScale(spread). A packed one is a weight [n, k] for MatMul.
	Random(name string, dtype DType, packed bool, seed uint64, spread float32, dims ...int) (Tensor, error)
}

// Recorder is a Device that can record launches and repeat them at less cost for the host.
type Recorder interface {
	// Record calls launches and keeps what it launches instead of executing it; it may do nothing else
	// with the device. Launch the same once before: what is prepared at the first time is not part of a
	// recording. The tensors in use must outlive it.
	Record(launches func() error) (Recording, error)
}

// Recording is a sequence of launches whose arguments are fixed and whose inputs are what the tensors
// hold when it runs.
type Recording interface {
	// Replay launches it. ErrStale after a Select.
	Replay() error
	Free()
}
