package cpu

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
)

// Packed weights can lie in files that every process maps, so that processes that run a model share one copy, and a
// later start finds the work done. A file is a page of header and then the panels:
//
//	0   panelsMagic
//	16  digest of what it was made from, 32 bytes: its name too
//	48  CRC-32C of the panels, uint32
//	56  size of the panels, uint64
//
// It gets its name when it is complete. What is damaged, cut short or of another layout is made anew. Its time of
// modification is that of its last use.

const (
	panelsMagic      = "troupe panels 1\n" // the number changes with any layout of panels
	panelsHeader     = 4096
	panelsExtension  = ".panels"
	partExtension    = ".part"  // of a file that is not complete
	panelsBytesMin   = 64 << 10 // smaller matrices are not worth a file
	digestChunkBytes = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errNoFile says that a matrix gets no file, as when the disk is full: it is packed into memory then.
var errNoFile = errors.New("cpu: no file for packed weights")

// sharedPanels returns the memory of m packed from parts, mapped from its file; the file is made if it is not there.
func (d *Device) sharedPanels(m *matrix, parts [][]byte) (*buffer, error) {
	digest := d.panelsDigest(m, parts)
	path := filepath.Join(d.shelf.dir, hex.EncodeToString(digest[:])+panelsExtension)
	size := m.panels() * m.panelBytes()
	if b := d.openShared(path, digest, size); b != nil {
		return b, nil
	}
	d.shelf.makeRoom(int64(panelsHeader + size))
	file, err := os.CreateTemp(d.shelf.dir, ".*"+partExtension)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoFile, err)
	}
	defer os.Remove(file.Name()) // the complete file has another name by then
	defer file.Close()
	raw, err := mapNewFile(file, panelsHeader+size)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoFile, err)
	}
	b := &buffer{raw: raw, mapped: true}
	m.data = raw[panelsHeader:]
	d.pool.do(&packRows{m: m, parts: parts}, m.panels(), 1)
	copy(raw, panelsMagic)
	copy(raw[16:], digest[:])
	binary.LittleEndian.PutUint32(raw[48:], crc32.Checksum(m.data, castagnoli))
	binary.LittleEndian.PutUint64(raw[56:], uint64(size))
	if shared := d.openShared(path, digest, size); shared != nil { // another process was faster
		b.release()
		return shared, nil
	}
	d.shelf.used(file.Name()) // the system's own time of it may lie before the device was opened: that clock ticks coarsely
	if err := errors.Join(file.Chmod(0o400), os.Rename(file.Name(), path)); err != nil {
		b.release()
		return nil, fmt.Errorf("%w: %w", errNoFile, err)
	}
	if err := protect(raw); err != nil {
		b.release()
		return nil, err
	}
	return b, nil
}

// openShared maps the file at path for use, or returns nil if there is none that is sound.
func (d *Device) openShared(path string, digest [sha256.Size]byte, size int) *buffer {
	b := openPanels(path, digest, size)
	if b != nil {
		d.shelf.used(path)
	}
	return b
}

// openPanels maps the file at path, or returns nil if there is none that is sound.
func openPanels(path string, digest [sha256.Size]byte, size int) *buffer {
	file, err := os.Open(path)
	if err != nil {
		return nil
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() != int64(panelsHeader+size) {
		return nil
	}
	raw, err := mapFile(file, panelsHeader+size)
	if err != nil {
		return nil
	}
	b := &buffer{raw: raw, mapped: true}
	if string(raw[:len(panelsMagic)]) != panelsMagic || [sha256.Size]byte(raw[16:48]) != digest ||
		binary.LittleEndian.Uint64(raw[56:]) != uint64(size) ||
		binary.LittleEndian.Uint32(raw[48:]) != crc32.Checksum(raw[panelsHeader:], castagnoli) {
		b.release()
		return nil
	}
	return b
}

// panelsDigest is the SHA-256 of everything that decides what the panels hold.
func (d *Device) panelsDigest(m *matrix, parts [][]byte) [sha256.Size]byte {
	task := digestTask{}
	for _, part := range parts {
		for len(part) > digestChunkBytes {
			task.chunks, part = append(task.chunks, part[:digestChunkBytes]), part[digestChunkBytes:]
		}
		task.chunks = append(task.chunks, part)
	}
	task.digests = make([][sha256.Size]byte, len(task.chunks))
	d.pool.do(&task, len(task.chunks), 1)
	h := sha256.New()
	fmt.Fprintf(h, "%s%v %d %d %v\n", panelsMagic, m.dtype, m.n, m.k, m.pairs)
	for i, digest := range task.digests {
		fmt.Fprintf(h, "%d ", len(task.chunks[i]))
		h.Write(digest[:])
	}
	return [sha256.Size]byte(h.Sum(nil))
}

type digestTask struct {
	chunks  [][]byte
	digests [][sha256.Size]byte
}

func (p *digestTask) run(_, from, to int) {
	for i := from; i < to; i++ {
		p.digests[i] = sha256.Sum256(p.chunks[i])
	}
}

// pack returns memory with m packed from parts: shared with other processes if the device does that, or else its own.
func (d *Device) pack(m *matrix, parts [][]byte) (*buffer, error) {
	size := m.panels() * m.panelBytes()
	if d.shelf.dir != "" && size >= panelsBytesMin {
		if err := d.admit(int64(size)); err != nil {
			return nil, err
		}
		b, err := d.sharedPanels(m, parts)
		if err == nil {
			m.data, b.weight = b.raw[panelsHeader:], m
			return b, nil
		}
		if !errors.Is(err, errNoFile) {
			return nil, err
		}
	}
	b, err := d.reserve(int64(size))
	if err != nil {
		return nil, err
	}
	m.data, b.weight = b.raw, m
	d.pool.do(&packRows{m: m, parts: parts}, m.panels(), 1)
	return b, nil
}
