package handover

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

const (
	magic      = "TKV1"
	tokenBytes = 32
	helloBytes = len(magic) + tokenBytes

	headerBytes     = 28
	framesBytesMax  = 8 << 20 // of a payload, unless one block is larger: each waits for a step to end, and memory that is shared for the first time is slow
	sorryBytesMax   = 1 << 10
	blockBytesLimit = 1 << 30
)

// Kinds of frames.
const (
	kindBlocks byte = 1 + iota // payload: blocks
	kindSlot                   // blocks in the next slot of the shared segment
	kindShared                 // a segment of count slots of length bytes each; comes with its file descriptor
	kindEnd                    // all blocks have come
	kindSorry                  // payload: why no more come
	kindPlaces                 // payload: after a borrower's hello, the memories that it can map
	kindLoan                   // payload: a segment on a device; the receiver answers with a byte of 1 if it has mapped it, else 0
	kindMark                   // blocks in the next slot of that segment; payload: their mark
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header precedes each payload. Little-endian: magic, kind and three zeros, first, count, length, crc of the payload, crc of
// the header so far.
type header struct {
	kind         byte
	first, count uint32
	length       uint32 // bytes of the payload, or of a slot
	crc          uint32 // of the payload on the connection
}

func (h *header) encode(to *[headerBytes]byte) []byte {
	b := append(to[:0], magic...)
	b = append(b, h.kind, 0, 0, 0)
	for _, v := range []uint32{h.first, h.count, h.length, h.crc} {
		b = binary.LittleEndian.AppendUint32(b, v)
	}
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func decodeHeader(b *[headerBytes]byte) (header, error) {
	u := func(at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }
	if string(b[:len(magic)]) != magic || u(24) != crc32.Checksum(b[:24], castagnoli) {
		return header{}, fmt.Errorf("handover: a frame's header is damaged")
	}
	return header{kind: b[4], first: u(8), count: u(12), length: u(16), crc: u(20)}, nil
}

// writeFrame sends a header and its payload, which may be empty.
func writeFrame(w io.Writer, h header, payload []byte) error {
	var buffer [headerBytes]byte
	if h.length = max(h.length, uint32(len(payload))); len(payload) > 0 {
		h.crc = crc32.Checksum(payload, castagnoli)
	}
	if _, err := w.Write(h.encode(&buffer)); err != nil || len(payload) == 0 {
		return err
	}
	_, err := w.Write(payload)
	return err
}

// readPayload reads a frame's, of at most so many bytes, into a buffer or, if that is too small, a new one.
func readPayload(conn io.Reader, h header, most int, buffer []byte) ([]byte, error) {
	if int64(h.length) > int64(most) {
		return buffer, fmt.Errorf("a payload of %d bytes; at most %d are expected", h.length, most)
	}
	if cap(buffer) < int(h.length) {
		buffer = make([]byte, h.length)
	}
	b := buffer[:h.length]
	if _, err := io.ReadFull(conn, b); err != nil {
		return b, err
	}
	if crc32.Checksum(b, castagnoli) != h.crc {
		return b, fmt.Errorf("the checksum of %d bytes is wrong", len(b))
	}
	return b, nil
}

// frameBlocks is how many blocks travel in one frame.
func frameBlocks(blockBytes int) int { return max(1, framesBytesMax/blockBytes) }
