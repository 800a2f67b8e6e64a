package bench

import (
	"context"
	"fmt"

	"github.com/troupe-engine/troupe/schemas"
)

// sink takes the place of a tokenizer: it checks that every token of every sequence arrives once and in
// order. It is used by one goroutine at a time.
type sink struct {
	prompt int32
	next   map[schemas.SeqID]int32
	open   int
	done   chan error // gets nil after the last token of the last sequence, or the first mistake
	failed bool
}

func newSink(prompt int32, sequences int) *sink {
	return &sink{prompt: prompt, next: make(map[schemas.SeqID]int32, sequences), open: sequences, done: make(chan error, 1)}
}

func (s *sink) row(seq schemas.SeqID, index, token int32, finish schemas.FinishReason) {
	switch want := s.next[seq]; {
	case s.failed:
		return
	case finish > schemas.FinishLength:
		s.fail(fmt.Errorf("bench: sequence %s ended with %s", seq, finish))
		return
	case index != want || token != tokenAt(seq, s.prompt+want):
		s.fail(fmt.Errorf("bench: sequence %s: token %d with index %d came where token %d with index %d was expected",
			seq, token, index, tokenAt(seq, s.prompt+want), want))
		return
	}
	s.next[seq] = index + 1
	if finish != schemas.FinishNone {
		if s.open--; s.open == 0 {
			s.done <- nil
		}
	}
}

func (s *sink) fail(err error) {
	s.failed = true
	s.done <- err
}

// tokens serves schemas.Tokens.
func (s *sink) tokens(_ context.Context, b *schemas.TokenBatch) (*schemas.Ack, error) {
	for i, seq := range b.Seq {
		s.row(schemas.SeqID(seq), b.Index[i], b.Token[i], schemas.FinishReason(b.Finish[i]))
	}
	return &schemas.Ack{}, nil
}
