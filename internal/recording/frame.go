package recording

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// FormatVersion is the version of the file format; what is in the batches has its own, schemas.JournalVersion.
const FormatVersion = 1

const (
	magic          = "\x89TROUPE\n"
	headerBytes    = len(magic) + 4
	mark           = "\xf7trp"
	frameHeadBytes = len(mark) + 1 + 4 + 4

	frameBytesMax   = 64 << 20  // of a payload, compressed
	payloadBytesMax = 256 << 20 // the same, decompressed
)

const (
	kindManifest = 'm'
	kindBatches  = 'b'
	kindEnd      = 'e' // of a part that was ended on purpose; empty
)

// kinds are all of them.
const kinds = "mbe"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sharedEncoder and sharedDecoder are safe for concurrent use.
var (
	sharedEncoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
		if err != nil {
			panic(err) // of constant options
		}
		return e
	})
	sharedDecoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderMaxMemory(payloadBytesMax), zstd.WithDecoderConcurrency(1))
		if err != nil {
			panic(err) // of constant options
		}
		return d
	})
)

// appendFrame appends a frame with the payload, which it compresses.
func appendFrame(out []byte, kind byte, payload []byte) []byte {
	at := len(out)
	out = append(out, mark...)
	out = append(out, kind, 0, 0, 0, 0, 0, 0, 0, 0)
	out = sharedEncoder().EncodeAll(payload, out)
	head := out[at : at+frameHeadBytes]
	binary.LittleEndian.PutUint32(head[5:], uint32(len(out)-at-frameHeadBytes))
	binary.LittleEndian.PutUint32(head[9:], checksum(head, out[at+frameHeadBytes:]))
	return out
}

func checksum(head, compressed []byte) uint32 {
	return crc32.Update(crc32.Checksum(head[4:9], castagnoli), castagnoli, compressed)
}

// header is what a file begins with.
func header() []byte {
	return binary.LittleEndian.AppendUint32([]byte(magic), FormatVersion)
}

// Begins says whether a file begins like a recording.
func Begins(file io.ReaderAt) bool {
	head := make([]byte, len(magic))
	n, _ := file.ReadAt(head, 0) // a short file is none
	return string(head[:n]) == magic
}

func checkHeader(b []byte) error {
	if len(b) < headerBytes || string(b[:len(magic)]) != magic {
		return fmt.Errorf("not a recording: it does not begin like one; `troupe record --to FILE` makes them")
	}
	if v := binary.LittleEndian.Uint32(b[len(magic):]); v != FormatVersion {
		return fmt.Errorf("the recording has format version %d; this troupe reads version %d: use the troupe that made it, or a later one", v, FormatVersion)
	}
	return nil
}

// frame is one that was read.
type frame struct {
	offset  int64
	kind    byte
	payload []byte
}

// A DamageError says where a recording cannot be read.
type DamageError struct {
	Offset int64  // of the first byte that is not understood
	Why    string // in a few words
	Cut    bool   // the file ends there: its recorder was killed, or it was truncated
}

func (e *DamageError) Error() string { return fmt.Sprintf("at byte %d: %s", e.Offset, e.Why) }

// frameReader reads frames from a file of the size.
type frameReader struct {
	file io.ReaderAt
	size int64
	at   int64
}

// next returns the next frame, io.EOF after the last, or a *DamageError.
func (r *frameReader) next() (*frame, error) {
	if r.at >= r.size {
		return nil, io.EOF
	}
	damaged := func(format string, args ...any) error {
		return &DamageError{Offset: r.at, Why: fmt.Sprintf(format, args...)}
	}
	cut := func(format string, args ...any) error {
		return &DamageError{Offset: r.at, Why: fmt.Sprintf(format, args...), Cut: true}
	}
	var head [frameHeadBytes]byte
	n, err := r.file.ReadAt(head[:], r.at)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if string(head[:min(n, len(mark))]) != mark[:min(n, len(mark))] {
		return nil, damaged("no frame begins here")
	}
	if n < frameHeadBytes {
		return nil, cut("the file ends within a frame's head")
	}
	length := int64(binary.LittleEndian.Uint32(head[5:]))
	if length > frameBytesMax {
		return nil, damaged("a frame of %d bytes; the limit is %d", length, frameBytesMax)
	}
	if left := r.size - r.at - int64(frameHeadBytes); length > left {
		if later := *r; later.skip() { // the length is wrong
			return nil, damaged("a frame of %d bytes, of which the file has %d", length, left)
		}
		return nil, cut("a frame of %d bytes, of which the file has %d", length, left)
	}
	compressed := make([]byte, length)
	if _, err := r.file.ReadAt(compressed, r.at+int64(frameHeadBytes)); err != nil {
		return nil, err
	}
	if checksum(head[:], compressed) != binary.LittleEndian.Uint32(head[9:]) {
		return nil, damaged("a frame of %d bytes does not have its checksum", length)
	}
	payload, err := sharedDecoder().DecodeAll(compressed, nil)
	if err != nil {
		return nil, damaged("a frame cannot be decompressed: %v", err)
	}
	f := &frame{r.at, head[4], payload}
	r.at += int64(frameHeadBytes) + length
	return f, nil
}

// skip goes on at the next place after the damage where a whole frame begins, or to the end: then it returns false.
func (r *frameReader) skip() bool {
	buf := make([]byte, 1<<20)
	for from := r.at + 1; from < r.size; {
		n, _ := r.file.ReadAt(buf[:min(int64(len(buf)), r.size-from)], from)
		for base := 0; ; {
			i := bytes.Index(buf[base:n], []byte(mark))
			if i < 0 {
				break
			}
			if r.at = from + int64(base+i); r.begins() {
				return true
			}
			base += i + 1
		}
		if n < len(mark) {
			break
		}
		from += int64(n - len(mark) + 1)
	}
	r.at = r.size
	return false
}

// begins says whether a whole frame begins here.
func (r *frameReader) begins() bool {
	var head [frameHeadBytes]byte
	if n, _ := r.file.ReadAt(head[:], r.at); n < frameHeadBytes || !strings.ContainsRune(kinds, rune(head[4])) {
		return false
	}
	if length := int64(binary.LittleEndian.Uint32(head[5:])); length > min(frameBytesMax, r.size-r.at-int64(frameHeadBytes)) {
		return false
	}
	probe := *r
	_, err := probe.next()
	return err == nil
}
