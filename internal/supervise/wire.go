package supervise

import (
	"bufio"
	"encoding/json"
	"io"

	"github.com/troupe-engine/troupe/schemas"
)

// Parent and child exchange lines of JSON over the child's input and output. The input stays open as long as the parent
// lives. Libraries may print on the output, too, in lines or parts of such.

// Limits of a line, in bytes. The first one to a child has all that it is to run; an error may hold a compiler's messages.
const (
	helloBytesMax = 4 << 20
	lineBytesMax  = 1 << 20
)

// order is what a parent tells a child after the first line.
type order struct {
	Stop bool `json:"stop"` // end
}

// word is what a child says. Any is a sign of life.
type word struct {
	Ready  bool           `json:"ready,omitempty"`
	Device string         `json:"device,omitempty"` // with Ready: what it runs on, as "cuda:0"
	Done   int64          `json:"done,omitempty"`   // of Total bytes, while it loads
	Total  int64          `json:"total,omitempty"`
	Error  *schemas.Error `json:"error,omitempty"` // it cannot go on, and ends
}

// lines reads lines of JSON and hands each to take, until the input ends. What is no JSON, or too long, was printed by a
// library.
func lines[T any](in *bufio.Reader, take func(T)) {
	for {
		line, err := readLine(in, lineBytesMax)
		if err != nil {
			return
		}
		var v T
		if json.Unmarshal(line, &v) == nil {
			take(v)
		}
	}
}

// readLine returns the next line, or nil for one of more than max bytes.
func readLine(in *bufio.Reader, max int) (line []byte, err error) {
	for short := true; ; {
		part, err := in.ReadSlice('\n')
		if short = short && len(line)+len(part) <= max; short {
			line = append(line, part...)
		} else {
			line = nil
		}
		if err != bufio.ErrBufferFull {
			return line, err
		}
	}
}

// writeLine writes v as a line. What before has ends a line that somebody else has begun.
func writeLine(out io.Writer, before string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = out.Write(append(append([]byte(before), raw...), '\n'))
	return err
}
