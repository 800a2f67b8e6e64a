package gateway

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// retryAfterMs is what a client that is refused for load or for draining is told to wait, if nobody
// knows better.
const retryAfterMs = 1000

// cancelTimeMax bounds telling the scheduler that a request is over.
const cancelTimeMax = 10 * time.Second

// flight is one client request on its way through the engine: the shell around an answer. Its context
// ends with the reason why the request cannot go on; the first reason wins.
type flight struct {
	g      *Gateway
	job    *job
	id     schemas.RequestID // of the first part; the client's id is made from it
	answer *answer
	parts  []*part
	began  time.Time

	deadline time.Time // the whole answer is to be there by then
	ctx      context.Context
	abort    context.CancelCauseFunc // with a *schemas.Error
	free     context.CancelFunc      // of the deadline's timer

	ledger    *ledger                  // nil unless the client asks where its time goes
	encoded   int                      // parts that may have a session at the tokenizer
	submitted atomic.Int32             // parts that the scheduler may know
	requests  []*schemas.SubmitRequest // what they were submitted as
	disarm    func() bool              // stops the cleaning up that follows an abort
	over      bool                     // when the answer stalled, the scheduler had done with it
	sink      sink                     // nil before run
	silent    <-chan time.Time         // when it wants a sign of life; nil before run

	mu     sync.Mutex
	rows   []row // at most one per choice: text that waits for a slow client is joined
	spare  []row // what was taken before, for reuse
	queued int   // bytes of text in rows
	latest time.Time
	wake   chan struct{}
	lost   chan struct{} // a replica or tokenizer of its parts was given up, or has failed
}

// sink is where an answer goes. Only one goroutine uses it.
type sink interface {
	// send delivers events of a stream, all or none, and flushes.
	send(ctx context.Context, events []event) error
	// idle is called every idleEvery while there is nothing to send. An error says that the client is gone.
	idle() error
	idleEvery() time.Duration
}

// begin admits a job, encodes its prompts and submits them. The caller must call end.
func (g *Gateway) begin(parent context.Context, id schemas.RequestID, j *job) (*flight, *schemas.Error) {
	var err *schemas.Error
	if j.serving, j.model, err = g.chosen(j.model); err != nil {
		return nil, err
	}
	if err := g.admissible(j.serving); err != nil {
		return nil, err
	}
	if err := j.useTools(g.toolFormat(j.serving)); err != nil {
		return nil, err
	}
	f := g.newFlight(parent, id, j)
	if err := g.requests.admit(f); err != nil {
		f.abort(nil)
		f.free()
		return nil, err
	}
	f.journalRequest()
	if err := f.start(); err != nil {
		f.end(err)
		return nil, err
	}
	return f, nil
}

func (g *Gateway) newFlight(parent context.Context, id schemas.RequestID, j *job) *flight {
	now := j.arrived
	f := &flight{g: g, job: j, id: id, began: now, latest: now, wake: make(chan struct{}, 1), lost: make(chan struct{}, 1),
		answer: newAnswer(j.api.id+id.String(), now.Unix(), j)}
	limit, setting := g.cfg.RequestTimeMax, "request_time_max"
	if j.timeMax > 0 && j.timeMax < limit {
		limit, setting = j.timeMax, "deadline_ms"
	}
	f.deadline = now.Add(limit)
	if j.ledger {
		f.ledger = &ledger{began: now}
	}
	late := schemas.Errorf(schemas.KindTimeout, "answer", "the request took longer than %s", limit).
		WithHint("ask for fewer tokens, or raise %s", setting)
	ctx, free := context.WithDeadlineCause(parent, f.deadline, late)
	f.ctx, f.abort = context.WithCancelCause(ctx)
	f.free = free
	for i := range j.prompts {
		if i > 0 {
			id = g.newRequestID()
		}
		arrived := make([]time.Time, j.n)
		for c := range arrived {
			arrived[c] = now
		}
		p := &part{flight: f, index: i, id: id, tokens: make([]int32, j.n), ended: make([]bool, j.n), arrived: arrived}
		if g.replicas != nil {
			p.output = make([][]int32, j.n)
		}
		f.parts = append(f.parts, p)
	}
	return f
}

// start encodes every prompt before it submits the first: most of what is wrong shows by then.
func (f *flight) start() *schemas.Error {
	defer f.arm() // not earlier: a cancellation must not overtake the submission
	for i, p := range f.parts {
		spec := f.job.detok
		spec.Gateway = f.g.cfg.Instance
		if f.g.replicas == nil {
			spec.Scheduler = f.g.cfg.Scheduler
		}
		req := f.job.prompts[i]
		req.Request, req.Detok = p.id, &spec
		f.encoded++ // even if the call fails: the tokenizer may have opened the session
		reply, err := f.encodePart(p, &req)
		if err != nil {
			e := f.reason(err, "encode")
			if e.Param == "messages" || e.Param == "prompt" { // what a tokenizer calls them
				e = e.WithParam(f.job.promptField)
			}
			return e
		}
		engine, refused := f.placeFirst(p, reply.Tokens, f.job.salt(p.id))
		if refused != nil {
			return refused
		}
		submit, refused := f.job.submission(p, reply.Tokens, engine, &f.g.cfg)
		if refused != nil {
			return refused
		}
		submit.DeadlineMs = f.deadline.UnixMilli()
		f.requests = append(f.requests, submit)
		if err := f.setPrompt(i, reply.Tokens); err != nil {
			return err
		}
		if err := f.compile(p, submit); err != nil {
			return err
		}
	}
	f.g.requests.setPrompts(f)
	if f.ledger != nil {
		defer func() { f.ledger.started = time.Now() }()
	}
	return f.submitMore()
}

// submitMore submits as many parts as may run at once. A full queue refuses the request, unless parts of it are
// ahead: then the rest waits for them.
func (f *flight) submitMore() *schemas.Error {
	for next := int(f.submitted.Load()); next < len(f.requests); next++ {
		running := next*f.job.n - (len(f.answer.choices) - f.answer.open)
		if running >= flightChoicesMax {
			return nil
		}
		f.g.requests.queue(f.parts[next])
		f.submitted.Store(int32(next + 1)) // even if the call fails: the scheduler may have heard it
		err := f.submit(next)
		if err != nil && running > 0 && f.job.embed != nil && err.Kind == schemas.KindOverloaded {
			f.submitted.Store(int32(next))
			return nil
		}
		if err != nil {
			return err
		}
		f.job.serving.metrics().admitted(f.requests[next])
	}
	return nil
}

// flightChoicesMax bounds the sequences of one request that the scheduler has at once, so that a large batch does
// not fill the queue.
const flightChoicesMax = schemas.RequestChoicesMax

// setPrompt notes a prompt's length and, if it is to be echoed, its text.
func (f *flight) setPrompt(i int, tokens schemas.I32) *schemas.Error {
	p := &f.answer.prompts[i]
	p.tokens = int32(len(tokens))
	if !f.job.echo {
		return nil
	}
	decode := func(tokens schemas.I32) (string, *schemas.Error) {
		reply, err := f.parts[i].tokenizer.decode.Call(f.ctx, &schemas.DecodeRequest{Tokens: tokens, KeepSpecial: true})
		if err != nil {
			return "", f.reason(err, "decode")
		}
		return reply.Text, nil
	}
	var err *schemas.Error
	if p.text = f.job.prompts[i].Prompt; f.job.prompts[i].Tokens != nil {
		if p.text, err = decode(tokens); err != nil {
			return err
		}
	}
	if f.job.logprobs {
		p.first, err = decode(tokens[:1])
	}
	return err
}

// compile makes a guide ready, so that no step waits for it, and finds what is wrong with it.
func (f *flight) compile(p *part, r *schemas.SubmitRequest) *schemas.Error {
	guide := f.job.guide()
	if guide == nil {
		return nil
	}
	ctx, cancel := p.replica.while(f.ctx)
	defer cancel()
	_, err := p.replica.compile.Call(ctx, &schemas.CompileRequest{Guide: *guide, MaxTokens: r.MaxTokens})
	if err == nil {
		return nil
	}
	e := f.reason(err, "compile")
	if status := e.Kind.HTTPStatus(); status >= 400 && status < 429 {
		e = e.WithParam(f.job.guideParam)
	}
	return e
}

// arm makes any end of the flight's context, from now on or before, free what it holds in the engine, even
// while the flight's goroutine is stuck in a write.
func (f *flight) arm() {
	f.g.background.Add(1)
	f.disarm = context.AfterFunc(f.ctx, func() {
		defer f.g.background.Done()
		f.release()
	})
}

// reason prefers why the flight ended over the error that it caused.
func (f *flight) reason(err error, op string) *schemas.Error {
	if cause := context.Cause(f.ctx); cause != nil {
		err = cause
	}
	if errors.Is(err, bus.ErrReceiverGone) || err == context.Canceled {
		return schemas.Errorf(schemas.KindCanceled, op, "the client went away")
	}
	return schemas.AsError(err, op)
}

// push adds a row for the client. It never waits: a client that does not keep up is cancelled.
func (f *flight) push(r row, now time.Time) {
	f.mu.Lock()
	f.latest = now
	f.queued += len(r.text) + sizeOfLogprobs(r.logprobs) + sizeOfLogprobs(r.prompt)
	overflow := f.queued > f.g.cfg.QueueBytesMax
	if !overflow {
		f.join(r)
	}
	f.mu.Unlock()
	if overflow {
		f.abort(schemas.Errorf(schemas.KindCanceled, "answer", "the client does not read: more than %d bytes of its answer wait for it", f.g.cfg.QueueBytesMax).
			WithHint("read the stream faster, or ask for less"))
		return
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// join merges a row with the one that waits for the same choice.
func (f *flight) join(r row) {
	for i := range f.rows {
		if w := &f.rows[i]; w.choice == r.choice {
			r.text, r.logprobs = w.text+r.text, append(w.logprobs, r.logprobs...)
			if w.prompt != nil {
				r.prompt = w.prompt
			}
			if r.ledger == nil {
				r.ledger, r.came = w.ledger, w.came
			}
			*w = r
			return
		}
	}
	f.rows = append(f.rows, r)
}

// take returns the rows that wait. They are valid until the next call.
func (f *flight) take() []row {
	f.mu.Lock()
	defer f.mu.Unlock()
	rows := f.rows
	f.rows, f.spare, f.queued = f.spare[:0], rows, 0
	return rows
}

func (f *flight) queuedBytes() int32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return int32(f.queued)
}

func (f *flight) stalled() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return time.Since(f.latest) > f.g.cfg.StallTimeMax
}

// run carries the answer to s until it is complete. The error is why it is not.
func (f *flight) run(s sink) *schemas.Error {
	ticker := time.NewTicker(s.idleEvery())
	defer ticker.Stop()
	f.sink, f.silent = s, ticker.C
	stall := time.NewTicker(f.g.cfg.StallTimeMax)
	defer stall.Stop()
	if err := f.send(s, f.answer.opening()); err != nil {
		return err
	}
	for !f.answer.done() {
		rows, err := f.next(s, ticker.C, stall.C)
		if err != nil {
			return f.reason(err, "answer")
		}
		if f.ledger != nil {
			f.ledger.take(f.parts, f.job.n, rows, time.Now())
		}
		events, failed := f.answer.step(rows)
		if err := f.send(s, events); err != nil {
			return err
		}
		if failed != nil {
			return failed
		}
		if err := f.advance(); err != nil {
			return err
		}
	}
	if f.ledger != nil {
		f.answer.extra = f.ledger.report(time.Now())
	}
	return f.send(s, f.answer.closing())
}

// advance submits what the parts that have ended made room for.
func (f *flight) advance() *schemas.Error {
	if int(f.submitted.Load()) == len(f.requests) {
		return nil
	}
	err := f.submitMore()
	if f.ctx.Err() != nil { // the cancellation may have overtaken the submission
		f.release()
	}
	return err
}

func (f *flight) send(s sink, events []event) *schemas.Error {
	if len(events) == 0 {
		return nil
	}
	if f.ledger != nil {
		began := time.Now()
		defer func() { f.ledger.sent(began, time.Now()) }()
	}
	if err := s.send(f.ctx, events); err != nil {
		return f.reason(err, "send")
	}
	return nil
}

// next waits for rows.
func (f *flight) next(s sink, idle, stall <-chan time.Time) ([]row, error) {
	for {
		select {
		case <-f.ctx.Done():
			return nil, context.Cause(f.ctx)
		case <-f.wake:
			if rows := f.take(); len(rows) > 0 {
				return rows, nil
			}
		case <-f.lost:
			if err := f.rescue(); err != nil {
				return nil, err
			}
		case <-idle:
			if err := s.idle(); err != nil {
				return nil, err
			}
		case <-stall:
			if err := f.resubmit(); err != nil {
				return nil, err
			}
		}
	}
}

// resubmit asks for the same work again when no token has come for long. A scheduler that knows the
// request changes nothing; one that was restarted computes it anew, and since the same seed draws the
// same tokens, rows that came before do not advance their sequences and the answer goes on where it was.
// If the scheduler has done its part, and still nothing has come by the next time, it is lost on the way.
func (f *flight) resubmit() error {
	if !f.stalled() {
		f.over = false
		return nil
	}
	over := true
	for i, r := range f.requests[:f.submitted.Load()] {
		at := f.parts[i].replica
		ctx, cancel := at.while(f.ctx)
		reply, err := at.submit.Call(ctx, r)
		cancel()
		if at.lost() != nil {
			return nil //nolint:nilerr // rescue is told
		}
		if err != nil {
			return err
		}
		over = over && reply.Ended
	}
	if over && f.over {
		return schemas.Errorf(schemas.KindUnavailable, "answer", "the answer was computed, but its text was lost on the way from %s over %s", f.parts[0].replica.name, f.parts[0].tokenizer.name).
			WithHint("was the tokenizer restarted? try again")
	}
	f.over = over
	return nil
}

// end takes the flight out of the gateway. err is nil for a complete answer.
func (f *flight) end(err *schemas.Error) {
	if err != nil {
		f.abort(err)
	} else if f.disarm() { // nothing is left to release
		f.g.background.Done()
	}
	f.abort(nil)
	f.free()
	f.g.requests.remove(f)
	for _, p := range f.parts {
		f.g.tokenizers.done(p)
		if f.g.replicas != nil {
			f.g.replicas.leave(p)
		}
	}
	f.journalAnswer(err)
	f.g.report(f, err)
}

// release frees what the flight still holds in the engine.
func (f *flight) release() {
	ctx, cancel := context.WithTimeout(context.Background(), cancelTimeMax)
	defer cancel()
	for at, seqs := range f.g.requests.held(f, int(f.submitted.Load())) {
		if len(seqs) == 0 || at.lost() != nil {
			continue
		}
		bound, free := at.while(ctx)
		err := insist(bound, func() error {
			_, err := at.cancel.Call(bound, &schemas.CancelRequest{Seq: seqs, Finish: schemas.FinishCancel})
			return err
		})
		if err != nil {
			f.g.log.Warn().Err(err).Stringer("request", f.id).Msg("sequences could not be cancelled")
		}
		free()
	}
	for at, seqs := range f.g.tokenizers.open(f, f.encoded) {
		if len(seqs) == 0 {
			continue
		}
		err := insist(ctx, func() error {
			if at.lost() != nil {
				return nil //nolint:nilerr // it went, and its sessions with it
			}
			_, err := at.closeSessions.Call(ctx, &schemas.CancelRequest{Seq: seqs, Finish: schemas.FinishCancel})
			return err
		})
		if err != nil {
			f.g.log.Warn().Err(err).Stringer("request", f.id).Msg("detokenization sessions could not be closed")
		}
	}
}

// parsePublicID reads the id that clients see.
func parsePublicID(id string) (schemas.RequestID, *schemas.Error) {
	hex := id
	if i := strings.LastIndexAny(id, "-_"); i >= 0 {
		hex = id[i+1:]
	}
	var r schemas.RequestID
	if len(hex) != 16 || r.UnmarshalJSON([]byte(`"`+hex+`"`)) != nil {
		return 0, invalid("id", "id is %q; expected chatcmpl-…, cmpl-… or resp_… and 16 hexadecimal digits", clip(id))
	}
	return r, nil
}
