package recording

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/troupe-engine/troupe/schemas"
)

// FlushEvery is how long entries stay in the writer's memory at most.
const FlushEvery = 250 * time.Millisecond

// frameTarget is how many bytes of batches are worth a frame of their own before FlushEvery.
const frameTarget = 1 << 20

// Manifest says what a part of a recording is of.
type Manifest struct {
	Created    time.Time         `json:"created"`
	Build      string            `json:"build"`  // of the recorder
	Source     string            `json:"source"` // the bus
	Filter     string            `json:"filter,omitempty"`
	Partial    bool              `json:"partial,omitempty"`  // entries were left out on purpose: actors cannot be run from it
	Redacted   bool              `json:"redacted,omitempty"` // texts are gone and token ids are permuted
	Schedulers []SchedulerSource `json:"schedulers"`         // that were there at the beginning
}

// SchedulerSource is a replica that is recorded.
type SchedulerSource struct {
	Info    schemas.EngineInfo    `json:"info"`
	Memory  *schemas.MemoryState  `json:"memory,omitempty"` // without its tables
	Compute *schemas.ComputeState `json:"compute,omitempty"`
}

// Writer adds to a recording. It is safe for concurrent use.
type Writer struct {
	file *os.File

	mu      sync.Mutex
	pending []byte // batches that make the next frame
	bytes   int64
	failed  error
	closed  bool

	stop    chan struct{}
	stopped sync.WaitGroup
}

// Create begins a recording at path, or continues the one that is there: what a killed recorder left of its last frame is
// cut off, which the second result counts in bytes.
func Create(path string, m *Manifest) (*Writer, int64, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, 0, fmt.Errorf("recording: %w", err)
	}
	var lost int64
	if err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		err = errors.New("another recorder writes to it")
	}
	if err == nil {
		lost, err = prepare(file)
	}
	if err == nil {
		w := &Writer{file: file, stop: make(chan struct{})}
		if err = w.writeManifest(m); err == nil {
			w.stopped.Add(1)
			go w.flushOften()
			return w, lost, nil
		}
	}
	return nil, 0, errors.Join(fmt.Errorf("recording: %s: %w", path, err), file.Close())
}

// prepare leaves file with a header and whole frames, at its end.
func prepare(file *os.File) (lost int64, err error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, errors.New("not a regular file")
	}
	if info.Size() == 0 {
		_, err := file.Write(header())
		return 0, err
	}
	head := make([]byte, headerBytes)
	if _, err := file.ReadAt(head, 0); err != nil && err != io.EOF {
		return 0, err
	}
	if err := checkHeader(head); err != nil {
		return 0, err
	}
	frames := &frameReader{file: file, size: info.Size(), at: int64(headerBytes)}
	for err == nil {
		_, err = frames.next()
	}
	var damage *DamageError
	switch {
	case errors.As(err, &damage) && !damage.Cut:
		return 0, fmt.Errorf("%w: it is not continued; `troupe record inspect --repair OUT` saves what can be read", damage)
	case err != io.EOF && damage == nil:
		return 0, err
	}
	lost = info.Size() - frames.at
	if err := file.Truncate(frames.at); err != nil {
		return 0, err
	}
	_, err = file.Seek(frames.at, io.SeekStart)
	return lost, err
}

func (w *Writer) writeManifest(m *Manifest) error {
	text, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return w.write(appendFrame(nil, kindManifest, text))
}

func (w *Writer) write(frame []byte) error {
	n, err := w.file.Write(frame)
	w.bytes += int64(n)
	return err
}

// Add appends a batch in its wire form. An error is also Close's.
func (w *Writer) Add(batch []byte) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errors.New("recording: the writer is closed")
	}
	w.pending = append(binary.AppendUvarint(w.pending, uint64(len(batch))), batch...)
	if len(w.pending) >= frameTarget {
		w.flush()
	}
	return w.failed
}

// flush writes what waits.
func (w *Writer) flush() {
	if len(w.pending) > 0 && w.failed == nil {
		if err := w.write(appendFrame(nil, kindBatches, w.pending)); err != nil {
			w.failed = fmt.Errorf("recording: %w", err)
		}
	}
	w.pending = w.pending[:0]
}

func (w *Writer) flushOften() {
	defer w.stopped.Done()
	ticker := time.NewTicker(FlushEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			w.mu.Lock()
			w.flush()
			w.mu.Unlock()
		case <-w.stop:
			return
		}
	}
}

// Bytes is what was written to the file.
func (w *Writer) Bytes() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.bytes
}

// Close ends the part and the file. Closing again changes nothing.
func (w *Writer) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return w.failed
	}
	w.closed = true
	w.flush()
	if w.failed == nil {
		if err := w.write(appendFrame(nil, kindEnd, nil)); err != nil {
			w.failed = fmt.Errorf("recording: %w", err)
		}
	}
	w.mu.Unlock()
	close(w.stop)
	w.stopped.Wait()
	return errors.Join(w.failed, w.file.Sync(), w.file.Close())
}
