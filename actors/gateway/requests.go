package gateway

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// requests routes rows of text to the client requests that wait for them. A client request is one
// flight with one part per prompt; a part has a request id of its own among the actors.
type requests struct {
	mu      sync.Mutex
	parts   map[schemas.RequestID]*part
	flights map[*flight]struct{}
	closed  *schemas.Error // why no flight may start; nil while they may
	limit   int
	keys    map[string]int // flights of each API key
	perKey  int            // limit of each; 0 is none
	models  []*model       // each with its turns
	waitMax time.Duration  // how long a new flight may be expected to wait for its turn; 0 is no limit
	idle    chan struct{}  // closed when the last flight ends after drain

	started, finished, forgotten, repeated uint64
}

// part is one prompt of a flight. Guarded by requests.mu.
type part struct {
	flight  *flight
	index   int         // of the prompt
	tokens  []int32     // per choice: output so far
	ended   []bool      // per choice
	arrived []time.Time // per choice: of the last row that advanced it
	prompt  int32       // tokens
	stop    schemas.I32 // end tokens
	queued  bool        // the scheduler may have it
	id      schemas.RequestID
	placement
	handover // the flight's own, for its ledger
}

// turns are those of the model that the part is for.
func (p *part) turns() *turns { return &p.flight.job.serving.turns }

func newRequests(cfg *Config) *requests {
	return &requests{parts: map[schemas.RequestID]*part{}, flights: map[*flight]struct{}{}, limit: cfg.RequestsMax, keys: map[string]int{},
		perKey: cfg.KeyRequestsMax, waitMax: cfg.WaitMax}
}

// know adds a model, for good.
func (q *requests) know(m *model) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.models = append(q.models, m)
}

// setSlots says how many choices of a model run at once.
func (q *requests) setSlots(m *model, n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	m.turns.advance(time.Now())
	m.turns.slots = n
}

// waitsMax is how long a request that comes now would wait for its turn, for the model where that is longest.
func (q *requests) waitsMax() (longest time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, m := range q.models {
		longest = max(longest, m.turns.wait(time.Now()))
	}
	return longest
}

// wait is how long a request for a model, or, if that is nil, for the one where that is shortest, would wait for its turn.
func (q *requests) wait(m *model) time.Duration {
	now := time.Now()
	if m != nil {
		return m.turns.wait(now)
	}
	shortest := time.Duration(-1)
	for _, m := range q.models {
		if wait := m.turns.wait(now); m.turns.slots > 0 && (shortest < 0 || wait < shortest) {
			shortest = wait
		}
	}
	return max(shortest, 0)
}

// refuse says why no request with an API key ("" for none) may start now, or nil. Asked before a body is read, it
// makes a refusal cheap; admit decides.
func (q *requests) refuse(key string) *schemas.Error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.why(key, nil)
}

// why is why no request may start: for a model, or, if that is nil, for whichever.
func (q *requests) why(key string, m *model) *schemas.Error {
	switch {
	case q.closed != nil:
		return q.closed
	case len(q.flights) >= q.limit:
		return tooBusy("%d requests are running already; the limit is %d", len(q.flights), q.limit)
	case key != "" && q.perKey > 0 && q.keys[key] >= q.perKey:
		return tooBusy("%d requests with this API key are running already; the limit is %d", q.keys[key], q.perKey)
	case q.waitMax > 0:
		if wait := q.wait(m); wait > q.waitMax {
			err := tooBusy("this request would wait %s for its turn; the limit is %s", wait.Round(time.Millisecond), q.waitMax)
			err.RetryAfterMs = max(err.RetryAfterMs, (wait - q.waitMax).Milliseconds())
			return err
		}
	}
	return nil
}

// admit registers a flight, or says why it may not start.
func (q *requests) admit(f *flight) *schemas.Error {
	q.mu.Lock()
	defer q.mu.Unlock()
	key := f.job.key
	if err := q.why(key, f.job.serving); err != nil {
		return err
	}
	if key != "" && q.perKey > 0 {
		q.keys[key]++
	}
	q.flights[f] = struct{}{}
	for _, p := range f.parts {
		q.parts[p.id] = p
	}
	q.started++
	return nil
}

// count is the number of flights.
func (q *requests) count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.flights)
}

// refusal is why no flight may start, or nil.
func (q *requests) refusal() *schemas.Error {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

// remove forgets a flight. Rows for it are answered with Forgotten from now on.
func (q *requests) remove(f *flight) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if _, known := q.flights[f]; !known {
		return
	}
	delete(q.flights, f)
	if q.keys[f.job.key]--; q.keys[f.job.key] <= 0 {
		delete(q.keys, f.job.key)
	}
	going := 0
	for _, p := range f.parts {
		delete(q.parts, p.id)
		if p.queued {
			going += len(p.unfinished())
		}
	}
	f.job.serving.turns.change(-going, time.Now())
	q.finished++
	q.signalIdle()
}

func (q *requests) signalIdle() {
	if q.idle != nil && len(q.flights) == 0 {
		close(q.idle)
		q.idle = nil
	}
}

// drain refuses flights from now on, with err, and returns a channel that closes when none is left.
func (q *requests) drain(err *schemas.Error) <-chan struct{} {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = err
	if q.idle == nil {
		q.idle = make(chan struct{})
	}
	idle := q.idle
	q.signalIdle()
	return idle
}

// find returns the flight that a request id belongs to, or nil.
func (q *requests) find(id schemas.RequestID) *flight {
	q.mu.Lock()
	defer q.mu.Unlock()
	if p := q.parts[id]; p != nil {
		return p.flight
	}
	return nil
}

// all lists the flights.
func (q *requests) all() []*flight {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := make([]*flight, 0, len(q.flights))
	for f := range q.flights {
		list = append(list, f)
	}
	return list
}

// queue notes that a part is about to be submitted: its choices want a turn.
func (q *requests) queue(p *part) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !p.queued {
		p.queued = true
		p.turns().change(len(p.unfinished()), time.Now())
	}
}

// setPrompts notes how long the prompts of a flight are.
func (q *requests) setPrompts(f *flight) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, p := range f.parts {
		p.prompt, p.stop = f.answer.prompts[i].tokens, f.requests[i].StopTokens
	}
}

// deliver routes a batch. It neither waits nor keeps the batch. The bus may repeat a batch, and a
// tokenizer may have been told twice what it says: a row that does not advance its sequence is ignored.
func (q *requests) deliver(b *schemas.DeltaBatch, now time.Time) (*schemas.Ack, *schemas.Error) {
	if err := checkBatch(b); err != nil {
		return nil, err
	}
	ack := &schemas.Ack{}
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, seq := range b.Seq {
		id := schemas.SeqID(seq)
		p := q.parts[id.Request()]
		if p == nil || id.Choice() >= len(p.tokens) {
			ack.Forgotten = append(ack.Forgotten, seq)
			q.forgotten++
			continue
		}
		finish := schemas.FinishReason(b.Finish[i])
		c := id.Choice()
		gained := b.Tokens[i] - p.tokens[c]
		if p.ended[c] || gained <= 0 && finish == schemas.FinishNone {
			q.repeated++
			continue
		}
		if finish == schemas.FinishError && gained <= 0 && p.blames(errorFor(b, id)) {
			continue // it has not ended: it goes on elsewhere
		}
		if gained > 0 {
			if p.tokens[c] == 0 {
				p.turns().begin(now)
			}
			p.flight.job.serving.metrics().advanced(gained, p.tokens[c] == 0, now.Sub(p.arrived[c]))
			p.follow(c, gained, b.IDs[i])
			p.tokens[c], p.arrived[c] = b.Tokens[i], now
		}
		r := row{choice: p.index*len(p.tokens) + c, text: b.Text[i], tokens: p.tokens[c], cached: b.Cached[i], finish: finish, came: now}
		if finish != schemas.FinishNone {
			p.ended[c] = true
			if p.queued {
				p.turns().change(-1, now)
			}
			if r.err = errorFor(b, id); r.err != nil && convicts(r.err) && p.output != nil {
				r.err = r.err.WithHint(convictedHint, p.strikes+1)
			}
		}
		p.extras(&r, b, i)
		p.flight.push(r, now)
	}
	return ack, nil
}

// extras adds what few rows carry. The log-probability of the token that ends an answer is left out, as its
// text is.
func (p *part) extras(r *row, b *schemas.DeltaBatch, i int) {
	ends := r.finish == schemas.FinishStop && slices.Contains(p.stop, b.IDs[i])
	for k := range b.Logprobs {
		switch l := &b.Logprobs[k]; {
		case int(l.Logprobs.Row) != i:
		case l.Logprobs.Prompt:
			r.prompt = append(r.prompt, logprobsOf(l)...)
		case !ends:
			r.logprobs = append(r.logprobs, logprobsOf(l)...)
		}
	}
	for k := range b.Embeddings {
		if int(b.Embeddings[k].Row) == i {
			r.embedding = b.Embeddings[k].Values
		}
	}
	if p.flight.ledger != nil {
		r.ledger = schemas.LedgerOf(b.Ledgers, i)
	}
}

// checkBatch refuses a batch whose columns differ in length, or refer to rows that it does not have.
func checkBatch(b *schemas.DeltaBatch) *schemas.Error {
	n := len(b.Seq)
	for _, c := range []struct {
		name string
		rows int
	}{{"text", len(b.Text)}, {"tokens", len(b.Tokens)}, {"ids", len(b.IDs)}, {"finish", len(b.Finish)}, {"cached", len(b.Cached)}} {
		if c.rows != n {
			return schemas.Errorf(schemas.KindInvalid, "deltas", "column %s has %d rows, seq has %d", c.name, c.rows, n).WithParam(c.name)
		}
	}
	for i := range b.Logprobs {
		if err := checkLogprobs(&b.Logprobs[i], n); err != nil {
			return err
		}
	}
	return nil
}

func errorFor(b *schemas.DeltaBatch, id schemas.SeqID) *schemas.Error {
	for i := range b.Errors {
		if b.Errors[i].Seq == id {
			return &b.Errors[i].Error
		}
	}
	return nil
}

// state fills in the part of a GatewayState that is known here.
func (q *requests) state(now time.Time) *schemas.GatewayState {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := &schemas.GatewayState{Draining: q.closed != nil, Running: int32(len(q.flights)), RunningMax: int32(q.limit),
		Started: q.started, Finished: q.finished, Forgotten: q.forgotten, Repeated: q.repeated, Requests: []schemas.RequestState{}}
	for id, p := range q.parts {
		r := schemas.RequestState{Request: id, PromptTokens: p.prompt, Choices: int32(len(p.tokens)),
			QueuedBytes: p.flight.queuedBytes(), AgeMs: now.Sub(p.flight.began).Milliseconds()}
		for _, t := range p.tokens {
			r.OutputTokens += t
		}
		s.Requests = append(s.Requests, r)
	}
	slices.SortFunc(s.Requests, func(a, b schemas.RequestState) int { return cmp.Compare(a.Request, b.Request) })
	if more := len(s.Requests) - schemas.SeqStatesMax; more > 0 {
		s.Requests, s.More = s.Requests[:schemas.SeqStatesMax], int32(more)
	}
	return s
}

// deltas serves schemas.Deltas.
func (g *Gateway) deltas(_ context.Context, b *schemas.DeltaBatch) (*schemas.Ack, error) {
	ack, err := g.requests.deliver(b, time.Now())
	if err != nil {
		return nil, err
	}
	return ack, nil
}
