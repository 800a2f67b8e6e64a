package cuda

import (
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// fetches keeps the landing places of finished copies to the host for the next ones.
type fetches struct {
	sync.Mutex
	idle []*landing
}

// landing is page-locked host memory, and an event that fires when the copy to it is done. Closing
// the context frees both.
type landing struct {
	host  unsafe.Pointer
	bytes int
	event uintptr
}

const (
	landingBytesMin = 4096 // the least size of a landing place, so that small copies share them
	fetchBytesMax   = 4096 // that a kernel writes to the host
)

// fetched implements gpu.Fetched.
type fetched struct {
	d     *Device
	at    atomic.Pointer[landing] // nil when it was waited for
	bytes int
}

// Fetch implements gpu.Device.
func (d *Device) Fetch(src gpu.Tensor) (gpu.Fetched, error) {
	address, bytes := d.address(src), src.Bytes()
	if err := d.enter(); err != nil {
		return nil, err
	}
	defer d.leave()
	l, err := d.fetches.take(d, bytes)
	if err != nil {
		return nil, err
	}
	if fetch, ok := d.functions["fetch_bytes"]; ok && bytes > 0 && bytes <= fetchBytesMax {
		err = run(d, fetch, grid{1, 1, 1}, threadsPerBlock, 0, fetchArgs{host: uintptr(l.host), from: address, n: int32(bytes)})
	} else if bytes > 0 {
		err = d.check("cuMemcpyDtoHAsync", call(d.driver.cuMemcpyDtoHAsync, uintptr(l.host), address, uintptr(bytes), d.stream))
	}
	if err == nil {
		err = d.check("cuEventRecord", call(d.driver.cuEventRecord, l.event, d.stream))
	}
	if err != nil {
		return nil, err // the device is lost, and its memory with it
	}
	f := &fetched{d: d, bytes: bytes}
	f.at.Store(l)
	return f, nil
}

// take returns an idle landing place of at least n bytes, or a new one.
func (x *fetches) take(d *Device, n int) (*landing, error) {
	x.Lock()
	defer x.Unlock()
	for i, l := range x.idle {
		if l.bytes >= n {
			last := len(x.idle) - 1
			x.idle[i] = x.idle[last]
			x.idle = x.idle[:last]
			return l, nil
		}
	}
	const noTiming = 2
	l := &landing{bytes: max(n, landingBytesMin)}
	if err := d.check("cuMemHostAlloc", call(d.driver.cuMemHostAlloc, uintptr(unsafe.Pointer(&l.host)), uintptr(l.bytes), 0)); err != nil {
		return nil, fmt.Errorf("%d bytes of page-locked host memory: %w", l.bytes, err)
	}
	return l, d.check("cuEventCreate", call(d.driver.cuEventCreate, uintptr(unsafe.Pointer(&l.event)), noTiming))
}

// Wait implements gpu.Fetched.
func (f *fetched) Wait(dst []byte) error {
	d := f.d
	d.closing.RLock() // closing the context frees the memory
	defer d.closing.RUnlock()
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	l := f.at.Swap(nil)
	if l == nil || len(dst) != f.bytes {
		panic(fmt.Sprintf("cuda: Wait for %d bytes of a copy of %d, or a second time", len(dst), f.bytes))
	}
	if err := d.check("cuEventSynchronize", call(d.driver.cuEventSynchronize, l.event)); err != nil {
		return err
	}
	copy(dst, unsafe.Slice((*byte)(l.host), f.bytes))
	d.fetches.Lock()
	defer d.fetches.Unlock()
	d.fetches.idle = append(d.fetches.idle, l)
	return nil
}
