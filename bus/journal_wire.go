package bus

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"

	"github.com/troupe-engine/troupe/schemas"
)

// Limits of what a journal's messages unpack to.
const (
	journalBytesMax  = 256 << 20 // of a batch's entries, unpacked
	journalPackedMax = 64 << 20  // packed, in all parts
	// journalPartRoom is for what a message has besides its packed entries.
	journalPartRoom = 4 << 10
)

// journalPacker makes messages of entries. It keeps its buffers: a busy node journals tens of megabytes a second.
type journalPacker struct {
	raw, packed, wire []byte
}

// entriesHead begins a schemas.JournalEntries: an array of one field, an array with a length of four bytes.
var entriesHead = []byte{0x91, 0xdd, 0, 0, 0, 0}

// add appends an entry to the batch.
func (p *journalPacker) add(e *schemas.JournalEntry) (err error) {
	if len(p.raw) == 0 {
		p.raw = append(p.raw, entriesHead...)
	}
	p.raw, err = schemas.Append(p.raw, e)
	return err
}

// bytes is how large the batch is so far.
func (p *journalPacker) bytes() int { return len(p.raw) }

// send hands the messages of the batch, n entries that follow b.Number, to publish, and begins the next batch. Messages have
// at most payloadMax bytes and are valid until publish returns.
func (p *journalPacker) send(b schemas.JournalBatch, n int, payloadMax int64, publish func([]byte) error) error {
	binary.BigEndian.PutUint32(p.raw[len(entriesHead)-4:], uint32(n))
	if need := s2.MaxEncodedLen(len(p.raw)); need > cap(p.packed) {
		p.packed = make([]byte, need)
	}
	rest := s2.Encode(p.packed[:cap(p.packed)], p.raw)
	size := max(int(payloadMax)-journalPartRoom, journalPartRoom)
	if parts := (len(rest) + size - 1) / size; parts > 1 {
		b.Parts = int32(parts)
	}
	var err error
	for ; len(rest) > 0 && err == nil; b.Part++ {
		if b.Packed = rest[:min(size, len(rest))]; len(b.Packed) == len(rest) {
			b.Count = int32(n)
		}
		rest = rest[len(b.Packed):]
		if p.wire, err = schemas.Append(p.wire[:0], &b); err == nil {
			err = publish(p.wire)
		}
	}
	p.raw = p.raw[:0]
	if cap(p.raw) > 2*journalBatchBytes { // after something unusual, as a large checkpoint
		*p = journalPacker{}
	}
	return err
}

// PackJournal is the wire form of a batch with its entries packed.
func PackJournal(b *schemas.JournalBatch) (wire []byte, err error) {
	if len(b.Entries) == 0 {
		return Marshal(b)
	}
	var p journalPacker
	for i := range b.Entries {
		if err := p.add(&b.Entries[i]); err != nil {
			return nil, err
		}
	}
	head := *b
	head.Version, head.Entries = schemas.JournalVersion, nil
	err = p.send(head, len(b.Entries), 1<<31, func(message []byte) error {
		wire = message // of a packer that is not used again
		return nil
	})
	return wire, err
}

// A JournalDecoder reads the messages of journals, of any number of nodes: what comes in parts is put together.
type JournalDecoder struct {
	partial map[schemas.NodeID]*partialBatch
}

// partialBatch is what is there of a batch in parts.
type partialBatch struct {
	number uint64
	next   int32 // part
	packed []byte
}

// Decode returns the batch that the message completes, or nil if more is to come. A batch that lacks a part is left out,
// which the numbers of the next one show.
func (d *JournalDecoder) Decode(wire []byte) (*schemas.JournalBatch, error) {
	b := &schemas.JournalBatch{}
	if err := Unmarshal(wire, b); err != nil {
		return nil, err
	}
	if b.Version > schemas.JournalVersion {
		return nil, schemas.Errorf(schemas.KindUnsupported, "journal", "journal version %d; this troupe reads up to %d", b.Version, schemas.JournalVersion).
			WithHint("use the troupe that made it, or a later one")
	}
	if b.Node == "" || b.Number == 0 {
		return nil, errors.New("a batch without node or number")
	}
	if b.Parts > 1 {
		if !d.join(b) {
			return nil, nil
		}
	} else {
		delete(d.partial, b.Node)
	}
	if len(b.Packed) == 0 {
		return b, nil
	}
	if len(b.Entries) > 0 {
		return nil, errors.New("a batch with entries both packed and not")
	}
	if err := unpack(b); err != nil {
		return nil, fmt.Errorf("packed entries: %w", err)
	}
	return b, nil
}

// join adds a part; true makes b the whole.
func (d *JournalDecoder) join(b *schemas.JournalBatch) bool {
	p := d.partial[b.Node]
	if b.Part == 0 {
		p = &partialBatch{number: b.Number}
		if d.partial == nil {
			d.partial = map[schemas.NodeID]*partialBatch{}
		}
		d.partial[b.Node] = p
	}
	if p == nil || p.number != b.Number || p.next != b.Part || len(p.packed)+len(b.Packed) > journalPackedMax {
		delete(d.partial, b.Node)
		return false
	}
	p.packed, p.next = append(p.packed, b.Packed...), p.next+1
	if p.next < b.Parts {
		return false
	}
	b.Packed = p.packed
	delete(d.partial, b.Node)
	return true
}

func unpack(b *schemas.JournalBatch) error {
	n, err := s2.DecodedLen(b.Packed)
	if err != nil {
		return err
	}
	if n > journalBytesMax {
		return fmt.Errorf("%d bytes; at most %d", n, journalBytesMax)
	}
	raw, err := s2.Decode(nil, b.Packed)
	if err != nil {
		return err
	}
	var list schemas.JournalEntries
	if err := Unmarshal(raw, &list); err != nil {
		return err
	}
	if len(list.Entries) != int(b.Count) {
		return fmt.Errorf("%d of them, where the batch says %d", len(list.Entries), b.Count)
	}
	b.Entries, b.Packed, b.Count, b.Part, b.Parts = list.Entries, nil, 0, 0, 0
	return nil
}
