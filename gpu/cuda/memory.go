package cuda

import (
	"fmt"
	"math/bits"
	"sync/atomic"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// block is a piece of device memory from the driver.
type block struct {
	address uintptr // 256-byte aligned; 0 for an empty block
	bytes   int64   // of its size class
}

// heap keeps freed blocks for reuse, since the driver takes 0.1 to 1 ms to allocate and waits
// for the GPU to free. Blocks have a size class, so that tensors of like size share them, and
// are given back to the driver when it runs out.
//
// All work is on one stream, so a block may be reused while a launch that reads it is still
// queued: what is launched later runs later.
type heap struct {
	d       *Device
	vacant  map[int64][]block // by size class; last in first out
	idle    atomic.Int64      // bytes in vacant
	granted atomic.Int64      // bytes held from the driver
}

// Size classes: multiples of 256 bytes, eight to each power of two, and of 2 MiB, the driver's
// own granularity, from there on.
const (
	classBytesMin  = 256
	classesPerStep = 8
	pageBytes      = 2 << 20
)

// sizeClass returns the bytes of the block that serves n > 0 bytes.
func sizeClass(n int64) int64 {
	if n >= pageBytes {
		return (n + pageBytes - 1) / pageBytes * pageBytes
	}
	step := max(classBytesMin, int64(1)<<bits.Len64(uint64(n-1))/(2*classesPerStep))
	return (n + step - 1) / step * step
}

// get returns a block of at least n bytes with unknown contents. The context must be current.
func (h *heap) get(n int64) (block, error) {
	if n == 0 {
		return block{}, nil
	}
	const bytesMax = 1 << 50 // more than any GPU has, and far from overflow
	if n > bytesMax {
		return block{}, h.outOfMemory(n)
	}
	class := sizeClass(n)
	if list := h.vacant[class]; len(list) > 0 {
		b := list[len(list)-1]
		h.vacant[class] = list[:len(list)-1]
		h.idle.Add(-class)
		return b, nil
	}
	address, status := h.allocate(class)
	if status == statusOutOfMemory && h.idle.Load() > 0 {
		if err := h.trim(); err != nil {
			return block{}, err
		}
		address, status = h.allocate(class)
	}
	if status == statusOutOfMemory {
		return block{}, h.outOfMemory(n)
	}
	if err := h.d.check("cuMemAlloc", status); err != nil {
		return block{}, err
	}
	h.granted.Add(class)
	return block{address, class}, nil
}

func (h *heap) allocate(bytes int64) (address uintptr, status int32) {
	status = call(h.d.driver.cuMemAlloc, uintptr(unsafe.Pointer(&address)), uintptr(bytes))
	return address, status
}

func (h *heap) outOfMemory(n int64) error {
	var free, total uint64
	if err := h.d.check("cuMemGetInfo", call(h.d.driver.cuMemGetInfo, uintptr(unsafe.Pointer(&free)), uintptr(unsafe.Pointer(&total)))); err != nil {
		return err
	}
	return fmt.Errorf("%w: need %d bytes, %d free of %d on the GPU", gpu.ErrOutOfMemory, n, int64(free)+h.idle.Load(), total)
}

// put takes a block back.
func (h *heap) put(b block) {
	if b.address == 0 {
		return
	}
	if h.vacant == nil {
		h.vacant = map[int64][]block{}
	}
	h.vacant[b.bytes] = append(h.vacant[b.bytes], b)
	h.idle.Add(b.bytes)
}

// trim gives the vacant blocks back to the driver.
func (h *heap) trim() error {
	if err := h.d.wait(); err != nil { // queued work may still use them
		return err
	}
	for class, list := range h.vacant {
		for _, b := range list {
			if err := h.d.check("cuMemFree", call(h.d.driver.cuMemFree, b.address)); err != nil {
				return err
			}
			h.idle.Add(-class)
			h.granted.Add(-class)
		}
		delete(h.vacant, class)
	}
	return nil
}
