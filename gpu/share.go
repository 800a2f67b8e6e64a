package gpu

import "fmt"

// Sharer is a Device whose memory other processes of the machine can use where it is: what one of
// them writes, all see.
//
// The exporter owns the memory. Whoever hands an export on should keep the tensor, and the device, until all importers have
// freed theirs or ended: what an import holds after that is not defined, and nothing says so. Nothing orders the processes' work: the
// exporter calls Sync before it says that the memory is ready, and so does an importer that writes.
type Sharer interface {
	// Places names the memories that Import can map, as Shared.Device does. The first is the device's own. It may be called from
	// anywhere.
	Places() ([]string, error)
	// Export names the allocation that t lies in for other processes, and t in it. It panics if t was freed, and
	// returns ErrNotSupported for memory that cannot be shared, such as a packed weight or an import.
	Export(t Tensor) (Shared, error)
	// Import maps what another process exported, as a tensor of its type and shape. Free ends the mapping and
	// leaves the memory alone. It returns ErrNotSupported for what lies in none of Places or this process
	// itself exported. The memory counts as the exporter's in Memory.
	Import(s Shared) (Tensor, error)
	// Copy copies each of from to the tensor of to at the same index, which has as many bytes and does not overlap, in the order
	// of launches and not by way of the host. The tensors may be imports, or parts of them.
	Copy(to, from []Tensor) error
}

// Shared is a tensor of one process as others are told of it. It may travel in a message: whoever gets it
// must check that it is of the exporter and generation that he expects.
type Shared struct {
	Device     string // where it lies: the exporter's kind of memory, and which one of the kind
	Process    int    // the exporter
	ID         uint32 // the exporter's tensor
	Generation uint32
	Handle     []byte // the device's own, at most SharedHandleBytesMax
	ByteOffset int64  // of the tensor in what Handle names
	DType      DType
	Dims       []int
}

// SharedHandleBytesMax bounds Shared.Handle.
const SharedHandleBytesMax = 256

// Bytes returns the size of the tensor, or why s, which another process says, can be none.
func (s *Shared) Bytes() (int64, error) {
	const bytesMax = 1 << 50 // more than any device has, and far from overflow
	if len(s.Handle) == 0 || len(s.Handle) > SharedHandleBytesMax {
		return 0, fmt.Errorf("gpu: the shared tensor's Handle has %d bytes; expected 1 to %d", len(s.Handle), SharedHandleBytesMax)
	}
	if dtypeNames[s.DType] == "" || s.DType.Quantized() {
		return 0, fmt.Errorf("gpu: the shared tensor's DType is %v; expected a type with elements of whole bytes", s.DType)
	}
	if len(s.Dims) == 0 || len(s.Dims) > RankMax {
		return 0, fmt.Errorf("gpu: the shared tensor's Dims are %d; expected 1 to %d", len(s.Dims), RankMax)
	}
	bytes := int64(s.DType.Size())
	for _, n := range s.Dims {
		if n < 1 || int64(n) > bytesMax/bytes {
			return 0, fmt.Errorf("gpu: the shared tensor's Dims are %v; expected at least one element and less than %d bytes", s.Dims, int64(bytesMax))
		}
		bytes *= int64(n)
	}
	if s.ByteOffset < 0 || s.ByteOffset > bytesMax || s.ByteOffset%int64(s.DType.Size()) != 0 {
		return 0, fmt.Errorf("gpu: the shared tensor's ByteOffset is %d; expected a multiple of %d, 0 or more", s.ByteOffset, s.DType.Size())
	}
	return bytes, nil
}
