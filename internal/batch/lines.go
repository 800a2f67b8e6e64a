package batch

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"hash"
	"io"
)

// line is one line of a file, without its end.
type line struct {
	number int64  // from 1
	hash   uint64 // of the text
	text   []byte // valid until the next read; nil if it is too long
	tooBig bool
	whole  bool  // it ended with a line break
	end    int64 // offset of the next line
}

// blank reports whether there is nothing on the line.
func (l *line) blank() bool { return !l.tooBig && len(bytes.TrimSpace(l.text)) == 0 }

// lineReader reads lines and keeps at most bytesMax bytes of each.
type lineReader struct {
	r        *bufio.Reader
	bytesMax int
	current  line
	buffer   []byte
	digest   hash.Hash
}

const readBufferBytes = 256 << 10

var byteOrderMark = []byte("\ufeff")

func newLineReader(r io.Reader, bytesMax int) *lineReader {
	return &lineReader{r: bufio.NewReaderSize(r, readBufferBytes), bytesMax: bytesMax, digest: sha256.New()}
}

// next returns the next line, or io.EOF. A carriage return before the line break and a byte order mark at the
// start of the file are no part of a line.
func (r *lineReader) next() (*line, error) {
	r.buffer = r.buffer[:0]
	r.digest.Reset()
	l := &r.current
	*l = line{number: l.number + 1, end: l.end}
	size := 0
	for {
		piece, err := r.r.ReadSlice('\n')
		l.end += int64(len(piece))
		r.digest.Write(bytes.TrimSuffix(piece, []byte("\n"))) // the last line may gain a line break later
		if size += len(piece); size <= r.bytesMax+len("\r\n") {
			r.buffer = append(r.buffer, piece...)
		} else {
			l.tooBig = true
		}
		if err == nil || errors.Is(err, io.EOF) && size > 0 {
			l.whole = err == nil
			break
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
	}
	l.hash = binary.BigEndian.Uint64(r.digest.Sum(nil))
	if l.text = bytes.TrimSuffix(bytes.TrimSuffix(r.buffer, []byte("\n")), []byte("\r")); l.number == 1 {
		l.text = bytes.TrimPrefix(l.text, byteOrderMark)
	}
	if l.tooBig = l.tooBig || len(l.text) > r.bytesMax; l.tooBig {
		l.text = nil
	}
	return l, nil
}
