package recording

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// Entry is one entry of a recording.
type Entry struct {
	schemas.JournalEntry
	Node     schemas.NodeID
	Build    string
	Number   uint64    // the node's, since it started
	Started  int64     // when that was, in unix nanoseconds
	Part     int       // of the recording, from 0
	Manifest *Manifest // of the part
}

// Gap is a run of a node's entries that the recording lacks.
type Gap struct {
	Node     schemas.NodeID
	From, To uint64 // numbers, both included
	Why      string
}

func (g Gap) String() string {
	return fmt.Sprintf("entries %d to %d of %s are missing: %s", g.From, g.To, g.Node, g.Why)
}

// follower is the entry that follows the last one of a node.
type follower struct {
	started int64
	number  uint64 // 0: any
	part    int32  // that follows, of the batch in parts that begins with partOf; 0 is the next batch's first
	partOf  uint64
}

// take goes on after a batch and counts the entries that are missing before it. A batch that lacks a part is missing as a whole.
func (f *follower) take(h batchHead) (lost uint64) {
	if f.started != h.started {
		*f = follower{started: h.started}
	}
	if h.parts > 1 {
		switch {
		case h.part != 0 && (h.part != f.part || h.number != f.partOf):
			f.part = 0
			return 0
		case h.part+1 < h.parts:
			f.part, f.partOf = h.part+1, h.number
			return 0
		}
	}
	if f.number > 0 && h.number > f.number {
		lost = h.number - f.number
	}
	f.number, f.part = h.number+uint64(h.entries), 0
	return lost
}

// Reader reads a recording from the beginning.
type Reader struct {
	file   *os.File
	frames frameReader
	repair bool

	manifests []*Manifest
	rest      []byte // of the frame
	at        int64  // its offset
	decoder   bus.JournalDecoder
	batch     schemas.JournalBatch
	entry     int // in the batch
	next      map[schemas.NodeID]follower
	gaps      []Gap
	damage    []DamageError
	ended     bool // the last part was ended on purpose
}

// Open reads the header and the first manifest. With repair, damaged places are passed over and told by Damage; without,
// they are errors.
func Open(path string, repair bool) (*Reader, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("recording: %w", err)
	}
	r := &Reader{file: file, repair: repair, next: map[schemas.NodeID]follower{}}
	if err := r.open(); err != nil {
		return nil, errors.Join(fmt.Errorf("recording: %s: %w", path, err), file.Close())
	}
	return r, nil
}

func (r *Reader) open() error {
	info, err := r.file.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, headerBytes)
	n, err := r.file.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return err
	}
	if err := checkHeader(head[:n]); err != nil {
		return err
	}
	r.frames = frameReader{file: r.file, size: info.Size(), at: int64(headerBytes)}
	for len(r.manifests) == 0 {
		if err := r.nextFrame(); err == io.EOF {
			return errors.New("nothing was recorded")
		} else if err != nil {
			return err
		}
	}
	return nil
}

// Manifests describe the parts read so far; the first is there from the start.
func (r *Reader) Manifests() []*Manifest { return r.manifests }

// Gaps are those found so far.
func (r *Reader) Gaps() []Gap { return r.gaps }

// Damage lists the places that were passed over so far, among them a cut-off end.
func (r *Reader) Damage() []DamageError { return r.damage }

// Ended says that the last part read so far was ended by its recorder, not cut off.
func (r *Reader) Ended() bool { return r.ended }

// Size is the file's, and Offset where the reader is, both in bytes.
func (r *Reader) Size() int64 { return r.frames.size }

// Offset is where the reader is.
func (r *Reader) Offset() int64 { return r.frames.at }

// Close closes the file.
func (r *Reader) Close() error { return r.file.Close() }

// Next returns the next entry, or io.EOF after the last. A file that ends within a frame, as a killed recorder leaves it, ends
// before that frame.
func (r *Reader) Next() (*Entry, error) {
	for r.entry >= len(r.batch.Entries) {
		if err := r.nextBatch(); err != nil {
			return nil, err
		}
	}
	e := &Entry{JournalEntry: r.batch.Entries[r.entry], Node: r.batch.Node, Build: r.batch.Build, Number: r.batch.Number + uint64(r.entry),
		Started: r.batch.Started, Part: len(r.manifests) - 1, Manifest: r.manifests[len(r.manifests)-1]}
	r.entry++
	return e, nil
}

func (r *Reader) nextBatch() error {
	for len(r.rest) == 0 {
		if err := r.nextFrame(); err != nil {
			return err
		}
	}
	length, n := binary.Uvarint(r.rest)
	if n <= 0 || length > uint64(len(r.rest)-n) {
		return r.notUnderstood(errors.New("a batch is longer than its frame"))
	}
	wire, rest := r.rest[n:n+int(length)], r.rest[n+int(length):]
	batch, err := r.decoder.Decode(wire)
	if e := new(schemas.Error); errors.As(err, &e) && e.Kind == schemas.KindUnsupported {
		return err
	}
	if err == nil && batch == nil { // a part of one
		r.rest = rest
		return nil
	}
	for i := range batchEntries(batch) {
		if err == nil {
			err = check(&batch.Entries[i])
		}
	}
	if err != nil {
		return r.notUnderstood(err)
	}
	// Version 1 does not say what a filter left out.
	unknown := r.manifests[len(r.manifests)-1].Partial && batch.Version < 2
	first := batch.Number - min(batch.Left, batch.Number)
	want, known := r.next[batch.Node]
	if known && batch.Started == want.started && first < want.number {
		return r.notUnderstood(fmt.Errorf("entries of %s from %d on are there twice", batch.Node, batch.Number))
	}
	if known && batch.Started == want.started && first > want.number && !unknown {
		why := "its journal or the recorder fell behind, or was cut off from the other"
		if n := len(r.damage); n > 0 {
			why = r.damage[n-1].Error()
		}
		r.gaps = append(r.gaps, Gap{batch.Node, want.number, first - 1, why})
	}
	r.batch, r.rest, r.entry = *batch, rest, 0
	r.next[batch.Node] = follower{started: batch.Started, number: batch.Number + uint64(len(batch.Entries))}
	return nil
}

func batchEntries(b *schemas.JournalBatch) []schemas.JournalEntry {
	if b == nil {
		return nil
	}
	return b.Entries
}

// notUnderstood passes over the rest of a frame, or returns the error.
func (r *Reader) notUnderstood(err error) error {
	damage := DamageError{Offset: r.at, Why: fmt.Sprintf("the frame's content is not understood: %v", err)}
	if !r.repair {
		return &damage
	}
	r.damage, r.rest = append(r.damage, damage), nil
	return nil
}

// nextFrame reads a frame: a manifest, or batches, which are then the rest.
func (r *Reader) nextFrame() error {
	f, err := r.frames.next()
	var damage *DamageError
	if errors.As(err, &damage) {
		if !r.repair && !damage.Cut {
			return damage
		}
		r.damage = append(r.damage, *damage)
		if !r.repair {
			r.frames.at = r.frames.size
			return io.EOF
		}
		r.frames.skip() // a length that was changed looks like a cut
		return nil
	}
	if err != nil {
		return err
	}
	switch f.kind {
	case kindManifest:
		var m Manifest
		if err := json.Unmarshal(f.payload, &m); err != nil {
			return &DamageError{Offset: f.offset, Why: fmt.Sprintf("the manifest is not understood: %v", err)}
		}
		r.manifests, r.ended = append(r.manifests, &m), false
		clear(r.next) // what happened between two parts is no gap
	case kindBatches:
		r.rest, r.at = f.payload, f.offset
	case kindEnd:
		r.ended = true
	default:
		return fmt.Errorf("at byte %d: a frame of kind %q, which this troupe does not know: use the troupe that made the recording, or a later one", f.offset, f.kind)
	}
	return nil
}
