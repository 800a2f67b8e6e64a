package cuda

import (
	"fmt"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// staging is page-locked host memory that the GPU copies from or to by itself. It is a ring of
// slots, each with an event that fires when the copies recorded in it are done, so that filling
// one slot overlaps copying from the others.
type staging struct {
	d     *Device
	slots [stagingSlots]stagingSlot
	at    int // the slot being filled
}

type stagingSlot struct {
	host  unsafe.Pointer
	used  int
	event uintptr
}

const (
	stagingSlots     = 4
	stagingSlotBytes = 4 << 20
	stagingAlign     = 64
)

// open allocates the ring; closing the context frees it.
func (s *staging) open() error {
	const noTiming = 2
	for i := range s.slots {
		slot := &s.slots[i]
		if err := s.d.check("cuMemHostAlloc", call(s.d.driver.cuMemHostAlloc, uintptr(unsafe.Pointer(&slot.host)), stagingSlotBytes, 0)); err != nil {
			return fmt.Errorf("%d bytes of page-locked host memory: %w", stagingSlotBytes, err)
		}
		if err := s.d.check("cuEventCreate", call(s.d.driver.cuEventCreate, uintptr(unsafe.Pointer(&slot.event)), noTiming)); err != nil {
			return err
		}
	}
	return nil
}

// take returns n <= stagingSlotBytes bytes that no copy uses any more.
func (s *staging) take(n int) ([]byte, error) {
	slot := &s.slots[s.at]
	if slot.used+n > stagingSlotBytes {
		if err := s.d.check("cuEventRecord", call(s.d.driver.cuEventRecord, slot.event, s.d.stream)); err != nil {
			return nil, err
		}
		s.at = (s.at + 1) % stagingSlots
		slot = &s.slots[s.at]
		// An event that was never recorded counts as done.
		if err := s.d.check("cuEventSynchronize", call(s.d.driver.cuEventSynchronize, slot.event)); err != nil {
			return nil, err
		}
		slot.used = 0
	}
	b := unsafe.Slice((*byte)(unsafe.Add(slot.host, slot.used)), n)
	slot.used += (n + stagingAlign - 1) / stagingAlign * stagingAlign
	return b, nil
}

// writeBytesMax is what write_bytes takes with its arguments.
const writeBytesMax = 3968

type writeArgs struct {
	to    uintptr
	n, _  int32
	bytes [writeBytesMax]byte
}

type fetchArgs struct {
	host, from uintptr
	n, _       int32
}

// send copies src to the device address, in stream order; src may change when it returns.
func (d *Device) send(address uintptr, src []byte) error {
	if d.recording {
		return errRecorded
	}
	if write, ok := d.functions["write_bytes"]; ok && len(src) > 0 && len(src) <= writeBytesMax {
		args := writeArgs{to: address, n: int32(len(src))}
		copy(args.bytes[:], src)
		return run(d, write, grid{1, 1, 1}, threadsPerBlock, 0, args)
	}
	for len(src) > 0 {
		n := min(len(src), stagingSlotBytes)
		b, err := d.upload.take(n)
		if err != nil {
			return err
		}
		copy(b, src[:n])
		if err := d.check("cuMemcpyHtoDAsync", call(d.driver.cuMemcpyHtoDAsync, address, uintptr(unsafe.Pointer(&b[0])), uintptr(n), d.stream)); err != nil {
			return err
		}
		address, src = address+uintptr(n), src[n:]
	}
	return nil
}

// Upload implements gpu.Device.
func (d *Device) Upload(dst gpu.Tensor, src []byte) error {
	address := d.address(dst)
	if len(src) != dst.Bytes() {
		panic(fmt.Sprintf("cuda: Upload of %d bytes to %v, which has %d", len(src), dst, dst.Bytes()))
	}
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	return d.send(address, src)
}

// Download implements gpu.Device.
func (d *Device) Download(dst []byte, src gpu.Tensor) error {
	address := d.address(src)
	if len(dst) != src.Bytes() {
		panic(fmt.Sprintf("cuda: Download of %d bytes from %v, which has %d", len(dst), src, src.Bytes()))
	}
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	for len(dst) > 0 {
		n := min(len(dst), stagingSlotBytes)
		b, err := d.download.take(n)
		if err != nil {
			return err
		}
		if err := d.check("cuMemcpyDtoHAsync", call(d.driver.cuMemcpyDtoHAsync, uintptr(unsafe.Pointer(&b[0])), address, uintptr(n), d.stream)); err != nil {
			return err
		}
		if err := d.wait(); err != nil {
			return err
		}
		copy(dst, b)
		address, dst = address+uintptr(n), dst[n:]
	}
	return d.wait()
}
