package gputest

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"sync"

	"github.com/troupe-engine/troupe/gpu"
)

// Sharing makes a device of host memory a gpu.Sharer, for tests of what shares memory on machines without a GPU. It stands for a
// process of its own: devices of one test import what the others export. Exported memory leaves the device for a place that all
// of them see; when it is freed, what was there changes, as it may on a GPU.
type Sharing struct {
	gpu.Device
	Process int
	Place   string
	Reaches []string // other places, whose memory can be imported
	// Fails, if not nil, is asked before each of "export", "import" and "copy" for an error.
	Fails func(call string) error
	// Meanwhile, if not nil, is called in the middle of each copy that reads imported memory.
	Meanwhile func()

	mu     sync.Mutex
	shared map[uint32]*sharedMemory // by tensor
	counts map[string]int           // of calls that succeeded
}

// sharedMemory is an exported tensor's.
type sharedMemory struct {
	mu    sync.Mutex
	bytes []byte
	from  *Sharing
}

// exports are all exported memories, by handle.
var exports sync.Map

// Count is how often one of "export", "import" and "copy" succeeded.
func (d *Sharing) Count(call string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts[call]
}

func (d *Sharing) begin(call string) error {
	if d.Fails == nil {
		return nil
	}
	return d.Fails(call)
}

func (d *Sharing) count(call string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.counts == nil {
		d.counts = map[string]int{}
	}
	d.counts[call]++
}

// of is the shared memory that a tensor lies in, or nil.
func (d *Sharing) of(t gpu.Tensor) *sharedMemory {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.shared[t.ID]
}

func (d *Sharing) put(t gpu.Tensor, m *sharedMemory) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shared == nil {
		d.shared = map[uint32]*sharedMemory{}
	}
	d.shared[t.ID] = m
}

// Places implements gpu.Sharer.
func (d *Sharing) Places() ([]string, error) { return append([]string{d.Place}, d.Reaches...), nil }

// Export implements gpu.Sharer.
func (d *Sharing) Export(t gpu.Tensor) (gpu.Shared, error) {
	if err := d.begin("export"); err != nil {
		return gpu.Shared{}, err
	}
	if d.of(t) != nil || t.Offset != 0 {
		panic(fmt.Sprintf("gputest: Export of %v, a part, an import or a second time", t))
	}
	m := &sharedMemory{bytes: make([]byte, t.Bytes()), from: d}
	if err := d.Device.Download(m.bytes, t); err != nil {
		return gpu.Shared{}, err
	}
	handle := rand.Text()
	exports.Store(handle, m)
	d.put(t, m)
	d.count("export")
	return gpu.Shared{Device: d.Place, Process: d.Process, ID: t.ID, Generation: t.Generation, Handle: []byte(handle), DType: t.DType, Dims: append([]int(nil), t.Dims[:t.Rank]...)}, nil
}

// Import implements gpu.Sharer.
func (d *Sharing) Import(s gpu.Shared) (gpu.Tensor, error) {
	if err := d.begin("import"); err != nil {
		return gpu.Tensor{}, err
	}
	size, err := s.Bytes()
	if err != nil {
		return gpu.Tensor{}, err
	}
	reached := s.Device == d.Place
	for _, place := range d.Reaches {
		reached = reached || s.Device == place
	}
	if !reached || s.Process == d.Process {
		return gpu.Tensor{}, fmt.Errorf("%w: the shared tensor lies on %.80q, of process %d", gpu.ErrNotSupported, s.Device, s.Process)
	}
	found, ok := exports.Load(string(s.Handle))
	if !ok {
		return gpu.Tensor{}, fmt.Errorf("gputest: nothing has the handle %.80q", s.Handle)
	}
	m := found.(*sharedMemory)
	if size > int64(len(m.bytes)) || s.ByteOffset != 0 {
		return gpu.Tensor{}, fmt.Errorf("gputest: the shared tensor ends at byte %d of an allocation of %d", s.ByteOffset+size, len(m.bytes))
	}
	t, err := d.Device.Alloc(s.DType, s.Dims...)
	if err == nil {
		d.put(t, m)
		d.count("import")
	}
	return t, err
}

// Copy implements gpu.Sharer.
func (d *Sharing) Copy(to, from []gpu.Tensor) error {
	if err := d.begin("copy"); err != nil {
		return err
	}
	if len(to) != len(from) {
		panic(fmt.Sprintf("gputest: Copy to %d tensors from %d", len(to), len(from)))
	}
	for i, t := range to {
		content := make([]byte, from[i].Bytes())
		if err := d.Download(content, from[i]); err != nil {
			return err
		}
		if m := d.of(from[i]); m != nil && m.from != d && d.Meanwhile != nil {
			half := len(content) / 2
			d.Meanwhile()
			m.mu.Lock()
			copy(content[half:], m.bytes[from[i].ByteOffset():][half:])
			m.mu.Unlock()
		}
		if err := d.Upload(t, content); err != nil {
			return err
		}
	}
	d.count("copy")
	return nil
}

// Upload implements gpu.Device.
func (d *Sharing) Upload(dst gpu.Tensor, src []byte) error {
	m := d.of(dst)
	if m == nil {
		return d.Device.Upload(dst, src)
	}
	if len(src) != dst.Bytes() {
		panic(fmt.Sprintf("gputest: Upload of %d bytes to %v", len(src), dst))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(m.bytes[dst.ByteOffset():], src)
	return nil
}

// Download implements gpu.Device.
func (d *Sharing) Download(dst []byte, src gpu.Tensor) error {
	m := d.of(src)
	if m == nil {
		return d.Device.Download(dst, src)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	copy(dst, m.bytes[src.ByteOffset():][:src.Bytes()])
	return nil
}

// landed is a gpu.Fetched of shared memory.
type landed []byte

// Wait implements gpu.Fetched.
func (l landed) Wait(dst []byte) error {
	copy(dst, l)
	return nil
}

// Fetch implements gpu.Device.
func (d *Sharing) Fetch(src gpu.Tensor) (gpu.Fetched, error) {
	if d.of(src) == nil {
		return d.Device.Fetch(src)
	}
	content := make(landed, src.Bytes())
	return content, d.Download(content, src)
}

// Free implements gpu.Device.
func (d *Sharing) Free(t gpu.Tensor) {
	if m := d.of(t); m != nil {
		d.mu.Lock()
		delete(d.shared, t.ID)
		d.mu.Unlock()
		if m.from == d {
			m.mu.Lock()
			copy(m.bytes, bytes.Repeat([]byte{0xee}, len(m.bytes)))
			m.mu.Unlock()
		}
	}
	d.Device.Free(t)
}

var _ gpu.Sharer = (*Sharing)(nil)
