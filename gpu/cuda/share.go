package cuda

import (
	"encoding/hex"
	"fmt"
	"os"
	"runtime"
	"slices"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

// Memory is shared by CUDA IPC: a handle names an allocation of the driver, and another process maps it whole. The driver
// puts small allocations on one page, of 2 MiB, and an importer of one of them can reach the others: what is smaller is for
// processes that trust each other.

// ipcHandle is CUipcMemHandle.
type ipcHandle [8]uint64

// place names a GPU for other processes, which may count GPUs in another order.
func (d *Device) place(handle int32) (string, error) {
	var uuid [16]byte
	if err := d.check("cuDeviceGetUuid", call(d.driver.cuDeviceGetUuid, uintptr(unsafe.Pointer(&uuid)), uintptr(handle))); err != nil {
		return "", err
	}
	return "cuda:" + hex.EncodeToString(uuid[:]), nil
}

// handle is what the driver calls a GPU that it counts as the given one.
func (d *Device) handle(ordinal int) (handle int32, err error) {
	err = d.check("cuDeviceGet", call(d.driver.cuDeviceGet, uintptr(unsafe.Pointer(&handle)), uintptr(ordinal)))
	return handle, err
}

// Places implements gpu.Sharer: this GPU, and those that it can read over NVLink or PCIe. Of these a process knows only what
// CUDA_VISIBLE_DEVICES leaves.
func (d *Device) Places() (list []string, err error) {
	own, err := d.handle(d.ordinal)
	if err != nil {
		return nil, err
	}
	count, err := d.driver.deviceCount()
	if err != nil {
		return nil, err
	}
	name, err := d.place(own)
	list = append(list, name)
	for i := range count {
		if i == d.ordinal || err != nil {
			continue
		}
		var other, reached int32
		if other, err = d.handle(i); err != nil {
			break
		}
		if err = d.check("cuDeviceCanAccessPeer", call(d.driver.cuDeviceCanAccessPeer, uintptr(unsafe.Pointer(&reached)), uintptr(own), uintptr(other))); err == nil && reached != 0 {
			name, err = d.place(other)
			list = append(list, name)
		}
	}
	return list, err
}

// allocation returns the bounds of the driver's allocation that an address lies in.
func (d *Device) allocation(address uintptr) (base, bytes uintptr, err error) {
	err = d.check("cuMemGetAddressRange", call(d.driver.cuMemGetAddressRange, uintptr(unsafe.Pointer(&base)), uintptr(unsafe.Pointer(&bytes)), address))
	return base, bytes, err
}

// Export implements gpu.Sharer.
func (d *Device) Export(t gpu.Tensor) (s gpu.Shared, err error) {
	b := d.table.Get(t)
	switch {
	case b.weight != nil || t.Packed:
		return s, fmt.Errorf("%w: %v is a packed weight, whose layout is this process's own", gpu.ErrNotSupported, t)
	case b.mapping != 0:
		return s, fmt.Errorf("%w: %v is another process's: it must be exported there", gpu.ErrNotSupported, t)
	case t.Len() == 0:
		return s, fmt.Errorf("%w: %v has no memory to share", gpu.ErrNotSupported, t)
	}
	address := d.address(t)
	if err := d.enter(); err != nil {
		return s, err
	}
	defer d.leave()
	own, err := d.handle(d.ordinal)
	if err != nil {
		return s, err
	}
	place, err := d.place(own)
	if err != nil {
		return s, err
	}
	base, _, err := d.allocation(b.block.address)
	if err != nil {
		return s, err
	}
	var handle ipcHandle
	if err := d.check("cuIpcGetMemHandle", call(d.driver.cuIpcGetMemHandle, uintptr(unsafe.Pointer(&handle)), base)); err != nil {
		return s, err
	}
	b.exported = true
	raw := (*[unsafe.Sizeof(handle)]byte)(unsafe.Pointer(&handle))
	return gpu.Shared{Device: place, Process: os.Getpid(), ID: t.ID, Generation: t.Generation, Handle: append([]byte(nil), raw[:]...),
		ByteOffset: int64(address - base), DType: t.DType, Dims: append([]int(nil), t.Dims[:t.Rank]...)}, nil
}

// Import implements gpu.Sharer.
func (d *Device) Import(s gpu.Shared) (t gpu.Tensor, err error) {
	bytes, err := s.Bytes()
	if err != nil {
		return t, err
	}
	var handle ipcHandle
	if len(s.Handle) != int(unsafe.Sizeof(handle)) {
		return t, fmt.Errorf("cuda: the shared tensor's Handle has %d bytes; expected CUDA's %d", len(s.Handle), unsafe.Sizeof(handle))
	}
	if s.Process == os.Getpid() {
		return t, fmt.Errorf("%w: the shared tensor is of this process (%d), which CUDA does not map twice", gpu.ErrNotSupported, s.Process)
	}
	if err := d.enter(); err != nil {
		return t, err
	}
	defer d.leave()
	places, err := d.Places()
	if err != nil {
		return t, err
	}
	if !slices.Contains(places, s.Device) {
		return t, fmt.Errorf("%w: the shared tensor lies on %.80q; this device and those whose memory it reaches are %s", gpu.ErrNotSupported, s.Device, places)
	}
	copy((*[unsafe.Sizeof(handle)]byte)(unsafe.Pointer(&handle))[:], s.Handle)
	mapping, err := d.openHandle(&handle)
	if err != nil {
		return t, err
	}
	base, size, err := d.allocation(mapping)
	if err == nil && s.ByteOffset+bytes > int64(base+size-mapping) {
		err = fmt.Errorf("cuda: the shared tensor ends at byte %d of an allocation of %d", s.ByteOffset+bytes, base+size-mapping)
	}
	if err != nil {
		d.closeHandle(mapping)
		return t, err
	}
	b := &buffer{block: block{mapping + uintptr(s.ByteOffset), bytes}, mapping: mapping}
	return d.table.Put(b, 0, fmt.Sprintf("of process %d", s.Process), s.DType, s.Dims...), nil
}

// openHandle maps another process's allocation. The handle is an argument by value of 64 bytes, which the calling convention of
// x86-64 puts on the stack, behind what no register has room for, and that of arm64 in memory whose address is passed. A handle
// that the driver refuses does not ruin the context, whatever the driver calls it: of an allocation of this process it says that the
// context is invalid.
func (d *Device) openHandle(handle *ipcHandle) (mapping uintptr, err error) {
	const lazyPeerAccess = 1 // CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS, the only flag there is
	open, at, h := d.driver.cuIpcOpenMemHandle, &mapping, handle
	var status int32
	if runtime.GOARCH == "arm64" {
		status = call(open, uintptr(unsafe.Pointer(at)), uintptr(unsafe.Pointer(h)), lazyPeerAccess)
	} else {
		status = call(open, uintptr(unsafe.Pointer(at)), lazyPeerAccess, 0, 0, 0, 0,
			uintptr(h[0]), uintptr(h[1]), uintptr(h[2]), uintptr(h[3]), uintptr(h[4]), uintptr(h[5]), uintptr(h[6]), uintptr(h[7]))
	}
	if err := d.driver.check("cuIpcOpenMemHandle", status); err != nil {
		return 0, fmt.Errorf("the shared tensor's Handle is refused: %v", err) // not as a loss of the device
	}
	return mapping, nil
}

// closeHandle ends a mapping. What the driver says to that changes nothing: the mapping ends with the process at the latest.
func (d *Device) closeHandle(mapping uintptr) {
	_ = d.check("cuIpcCloseMemHandle", call(d.driver.cuIpcCloseMemHandle, mapping))
}

// unshare releases memory that is another process's, or that others may still have a handle of: once it is the driver's
// again, a late import fails, and does not get the next tensor.
func (d *Device) unshare(b *buffer) {
	if d.enter() != nil {
		return // the context's end frees all
	}
	defer d.leave()
	if d.wait() != nil { // queued work may still use it
		return
	}
	if b.mapping != 0 {
		d.closeHandle(b.mapping)
		return
	}
	if d.check("cuMemFree", call(d.driver.cuMemFree, b.block.address)) == nil {
		d.heap.granted.Add(-b.block.bytes)
	}
}

// copyPart is one of the pieces that copy_parts copies: with the kernel's other argument as many as a launch can take.
type copyPart struct {
	to, from uintptr
	bytes    int64
}

const (
	copyPartsMax    = 168
	copyBlockBytes  = 64 << 10 // what a block of threads copies of a part
	copyBlocksLimit = 1 << 15  // per part; beyond it a block copies more than once
)

type copyArgs struct {
	n, _  int32
	parts [copyPartsMax]copyPart
}

// Copy implements gpu.Sharer.
func (d *Device) Copy(to, from []gpu.Tensor) error {
	if len(to) != len(from) {
		panic(fmt.Sprintf("cuda: Copy to %d tensors from %d", len(to), len(from)))
	}
	if err := d.enter(); err != nil {
		return err
	}
	defer d.leave()
	if d.recording {
		return errRecorded
	}
	for len(to) > 0 {
		var args copyArgs
		most := int64(0)
		for args.n < copyPartsMax && int(args.n) < len(to) {
			t, f := to[args.n], from[args.n]
			if t.Bytes() != f.Bytes() {
				panic(fmt.Sprintf("cuda: Copy of %d bytes of %v to %v, which has %d", f.Bytes(), f, t, t.Bytes()))
			}
			args.parts[args.n] = copyPart{d.address(t), d.address(f), int64(t.Bytes())}
			most = max(most, int64(t.Bytes()))
			args.n++
		}
		blocks := min((most+copyBlockBytes-1)/copyBlockBytes, copyBlocksLimit)
		if err := run(d, d.functions["copy_parts"], grid{int(blocks), int(args.n), 1}, threadsPerBlock, 0, args); err != nil {
			return err
		}
		to, from = to[args.n:], from[args.n:]
	}
	return nil
}
