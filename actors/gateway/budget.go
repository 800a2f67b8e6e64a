package gateway

import (
	"errors"
	"io"
	"sync/atomic"
)

// errNoShare ends the reading of a body for which there is no memory.
var errNoShare = errors.New("too many bytes are being read at once")

// budget is the number of bytes that bodies may still take while they are read.
type budget struct{ left atomic.Int64 }

// share reads a body within a budget.
type share struct {
	of    *budget
	from  io.Reader
	taken int64
}

func (s *share) Read(p []byte) (int, error) {
	n, err := s.from.Read(p)
	s.taken += int64(n)
	if s.of.left.Add(-int64(n)) < 0 {
		return 0, errNoShare
	}
	return n, err
}

func (s *share) giveBack() {
	s.of.left.Add(s.taken)
	s.taken = 0
}
