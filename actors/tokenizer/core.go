package tokenizer

import (
	"cmp"

	"github.com/troupe-engine/troupe/schemas"
)

// Delta is one row of a DeltaBatch and the gateway it goes to.
type Delta struct {
	Gateway schemas.Instance
	Seq     schemas.SeqID
	Text    string
	Tokens  int32
	ID      int32 // -1: none
	Finish  schemas.FinishReason
	Cached  int32
	Err     *schemas.Error

	Logprobs  []schemas.TextLogprobs // their Row is set with the batch
	Embedding schemas.F32
	Ledger    *schemas.SeqLedger // of the token's way so far; nil if nobody asks
}

// Stop tells a scheduler that a sequence met a stop string: the one that the session names or, if it names none,
// the one whose tokens they are.
type Stop struct {
	Scheduler schemas.Instance
	Seq       schemas.SeqID
}

// Effects is what follows from a batch of tokens.
type Effects struct {
	Deltas    []Delta
	Stops     []Stop
	Forgotten schemas.U64 // rows whose sequence has no session
}

// Core holds the open sessions. It is a pure state machine: no clock, I/O or goroutine.
type Core struct {
	newDecoder newDecoder
	bytes      func(id int32) []byte // what a token adds to a text
	sessions   map[schemas.SeqID]*session
	ended      endedRequests
	decoded    uint64
}

// sessionsMax bounds the sessions open at once. A gateway opens as many as its requests have choices.
const sessionsMax = 1 << 17

// endedMax is how many requests are remembered after one of their sessions has ended.
const endedMax = 8192

// endedRequests remembers the last requests that a session of ended: what opens them again came late.
type endedRequests struct {
	ring []schemas.RequestID
	next int
	set  map[schemas.RequestID]struct{}
}

func (e *endedRequests) has(id schemas.RequestID) bool {
	_, ok := e.set[id]
	return ok
}

func (e *endedRequests) add(id schemas.RequestID) {
	if e.has(id) {
		return
	}
	if len(e.ring) < endedMax {
		e.ring = append(e.ring, id)
	} else {
		delete(e.set, e.ring[e.next])
		e.ring[e.next] = id
		e.next = (e.next + 1) % endedMax
	}
	e.set[id] = struct{}{}
}

// newDecoder starts a sequence's way back to text. promptTail are the last tokens of its prompt: what
// follows them keeps the space that would be dropped at the beginning of a text.
type newDecoder func(keepSpecial bool, promptTail []int32) decoder

// promptTailMax is how many tokens of the prompt a decoder gets to see: a character's bytes and a word.
const promptTailMax = 8

func newCore(start newDecoder, bytes func(id int32) []byte) *Core {
	return &Core{newDecoder: start, bytes: bytes, sessions: map[schemas.SeqID]*session{}, ended: endedRequests{set: map[schemas.RequestID]struct{}{}}}
}

// Open starts the sessions of a request's choices. A repeat, which a network may deliver at any time, leaves
// alone what is open, and opens nothing after one has ended or was closed.
func (c *Core) Open(nowNs int64, request schemas.RequestID, prompt schemas.I32, spec *schemas.DetokSpec) *schemas.Error {
	if c.ended.has(request) {
		return nil
	}
	if n := len(c.sessions); n+int(spec.Choices) > sessionsMax {
		return schemas.Errorf(schemas.KindOverloaded, "encode", "%d answers are being turned into text already; the limit is %d", n, sessionsMax).
			WithHint("try again later")
	}
	tail := prompt[max(0, len(prompt)-promptTailMax):]
	for i := range int(spec.Choices) {
		output, ended := spec.Resume.Of(i)
		if c.sessions[request.Seq(i)] != nil || ended {
			continue
		}
		s := &session{spec: spec, decoder: c.newDecoder(spec.KeepSpecial, tail), idleSinceNs: nowNs}
		for _, token := range output {
			s.push(token) // its text was delivered by an earlier session
		}
		s.next = int32(len(output))
		c.sessions[request.Seq(i)] = s
	}
	return nil
}

// Close forgets sessions and counts those that were open. One that is not may have yet to come.
func (c *Core) Close(seqs schemas.U64) (n int32) {
	for _, id := range seqs {
		if _, open := c.sessions[schemas.SeqID(id)]; open {
			n++
		}
		c.forget(schemas.SeqID(id))
	}
	return n
}

func (c *Core) forget(id schemas.SeqID) {
	delete(c.sessions, id)
	c.ended.add(id.Request())
}

// Expire forgets sessions that have seen no token for idleNs: whoever fed them is gone, and so is whoever
// opened them. Progress is noticed from one call to the next.
func (c *Core) Expire(nowNs, idleNs int64) (n int) {
	for id, s := range c.sessions {
		switch {
		case s.next != s.swept:
			s.swept, s.idleSinceNs = s.next, nowNs
		case nowNs-s.idleSinceNs > idleNs:
			c.forget(id)
			n++
		}
	}
	return n
}

// Tokens turns a batch of tokens into text. Rows that were seen before are ignored; a sequence with a
// gap in its tokens ends with an error, because its text would be wrong.
func (c *Core) Tokens(b *schemas.TokenBatch) (fx Effects, err *schemas.Error) {
	n := len(b.Seq)
	if len(b.Index) != n || len(b.Token) != n || len(b.Finish) != n || len(b.Cached) != n {
		return fx, schemas.Errorf(schemas.KindInvalid, "tokens", "columns have %d, %d, %d, %d and %d rows; expected the same",
			n, len(b.Index), len(b.Token), len(b.Finish), len(b.Cached))
	}
	if err := checkReports(b); err != nil {
		return fx, err
	}
	for i := range n {
		id := schemas.SeqID(b.Seq[i])
		s := c.sessions[id]
		if s == nil {
			if schemas.FinishReason(b.Finish[i]) == schemas.FinishNone {
				fx.Forgotten = append(fx.Forgotten, uint64(id))
			}
			continue
		}
		c.row(&fx, b, i, id, s)
	}
	return fx, nil
}

// checkReports holds what a batch carries beside tokens to its rows.
func checkReports(b *schemas.TokenBatch) *schemas.Error {
	for i := range b.Logprobs {
		l := &b.Logprobs[i]
		if !l.Fits(len(b.Seq)) {
			return schemas.Errorf(schemas.KindInvalid, "tokens", "logprobs: element %d has row %d of %d, %d tokens, %d values and %d ranks, %d wide",
				i, l.Row, len(b.Seq), len(l.Tokens), len(l.Values), len(l.Ranks), l.Width).WithParam("logprobs")
		}
	}
	for i := range b.Embeddings {
		if row := b.Embeddings[i].Row; row < 0 || int(row) >= len(b.Seq) {
			return schemas.Errorf(schemas.KindInvalid, "tokens", "embeddings: element %d has row %d of %d", i, row, len(b.Seq)).WithParam("embeddings")
		}
	}
	return nil
}

// report adds what row i of a batch tells beside its token.
func (c *Core) report(d *Delta, b *schemas.TokenBatch, i int) {
	for _, l := range b.Logprobs {
		if int(l.Row) != i {
			continue
		}
		text := schemas.TextLogprobs{Logprobs: l, Bytes: make([][]byte, len(l.Tokens))}
		for j, id := range l.Tokens {
			text.Bytes[j] = c.bytes(id)
		}
		d.Logprobs = append(d.Logprobs, text)
	}
	for _, e := range b.Embeddings {
		if int(e.Row) == i {
			d.Embedding = e.Values
		}
	}
	if l := schemas.LedgerOf(b.Ledgers, i); l != nil {
		own := *l
		d.Ledger = &own
	}
}

func (c *Core) row(fx *Effects, b *schemas.TokenBatch, i int, id schemas.SeqID, s *session) {
	index, token, finish := b.Index[i], b.Token[i], schemas.FinishReason(b.Finish[i])
	if token >= 0 && index < s.next {
		return // a repeat
	}
	d := Delta{Gateway: s.spec.Gateway, Seq: id, ID: token, Finish: finish, Cached: b.Cached[i]}
	stopped := false // a stop string appeared
	switch {
	case index != s.next:
		d.ID, d.Finish, d.Err = -1, schemas.FinishError, gap(id, index, s.next)
		fx.Stops = append(fx.Stops, Stop{cmp.Or(s.spec.Scheduler, b.From), id})
	case finish == schemas.FinishError:
		d.Err = errorFor(b.Errors, id)
	case token >= 0:
		s.next++
		c.decoded++
		if finish != schemas.FinishStop { // the token that ends the answer is not part of its text
			d.Text, stopped = s.push(token)
		}
	}
	if !stopped && finish != schemas.FinishNone && d.Err == nil {
		var rest string
		rest, stopped = s.finish()
		d.Text += rest
	}
	if stopped {
		d.Finish = schemas.FinishStop
		if finish == schemas.FinishNone {
			fx.Stops = append(fx.Stops, Stop{cmp.Or(s.spec.Scheduler, b.From), id})
		}
	}
	if d.Finish != schemas.FinishNone {
		c.forget(id)
	}
	d.Tokens = s.next
	c.report(&d, b, i)
	fx.Deltas = append(fx.Deltas, d)
}

func gap(id schemas.SeqID, got, want int32) *schemas.Error {
	e := schemas.Errorf(schemas.KindInternal, "tokens", "output token %d came where %d was expected", got, want).
		WithHint("messages between scheduler and tokenizer were lost; try again")
	e.Request = id.Request()
	return e
}

func errorFor(errs []schemas.SeqError, id schemas.SeqID) *schemas.Error {
	for i := range errs {
		if errs[i].Seq == id {
			return &errs[i].Error
		}
	}
	return schemas.Errorf(schemas.KindInternal, "tokens", "the sequence failed; the scheduler's log says why")
}
