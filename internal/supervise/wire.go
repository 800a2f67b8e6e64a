package supervise

import (
	"bufio"
	"encoding/json"
	"io"

	"github.com/troupe-engine/troupe/schemas"
)

// Parent and child exchange lines of JSON over the child's input and output. The input stays open as long as the parent
// lives.

// Limits of a line, in bytes. The first one to a child has all that it is to run.
const (
	helloBytesMax = 4 << 20
	lineBytesMax  = 64 << 10
)

// order is what a parent tells a child after the first line.
type order struct {
	StopMs int64 `json:"stop_ms"` // end; what runs may take so long
}

// word is what a child says. Any is a sign of life.
type word struct {
	Ready  bool           `json:"ready,omitempty"`
	Device string         `json:"device,omitempty"` // with Ready: what it runs on, as "cuda:0"
	Done   int64          `json:"done,omitempty"`   // of Total bytes, while it loads
	Total  int64          `json:"total,omitempty"`
	Error  *schemas.Error `json:"error,omitempty"` // it cannot go on, and ends
}

// lines reads lines of JSON and hands each to take, until the input ends or breaks a limit.
func lines[T any](in *bufio.Scanner, take func(T)) {
	for in.Scan() {
		var v T
		if json.Unmarshal(in.Bytes(), &v) == nil { // what is no JSON was printed by a library
			take(v)
		}
	}
}

func scanner(in io.Reader, max int) *bufio.Scanner {
	s := bufio.NewScanner(in)
	s.Buffer(nil, max)
	return s
}

func writeLine(out io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = out.Write(append(raw, '\n'))
	return err
}
