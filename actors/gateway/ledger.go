package gateway

import (
	"context"
	"math"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// ledger follows where the time of a flight goes, if its client asks for it; nil otherwise. It is made of clock readings of one
// actor each, never of two: what lies between two actors is what the one waited less what the other says that it took. The last
// token to come is what the client waits for, so its sequence's way is the request's.
type ledger struct {
	began     time.Time
	tokenize  time.Duration
	serialize time.Duration
	bus       time.Duration
	submits   time.Duration // submitting parts
	started   time.Time     // all parts that may run are submitted

	// Of the last token.
	part    *part
	own     schemas.SeqLedger
	came    time.Time     // to the gateway
	taken   time.Time     // by the flight
	blocked time.Duration // in between, by a write that went on
	sends   time.Duration // writes since it was taken

	sendBegan, sendEnded time.Time // of the latest write
}

// handover is when a part was submitted. Its time is the scheduler's to tell from there on.
type handover struct {
	at     time.Time
	before time.Duration // submitting the parts before it
}

// measure makes a call of a flight, and adds its service to one part of the ledger.
func measure[Req, Resp any](ctx context.Context, l *ledger, ref *bus.Ref[Req, Resp], req *Req, service *time.Duration) (*Resp, error) {
	resp, t, err := ref.Measure(ctx, req)
	*service += t.Service
	l.serialize += t.Serialize
	l.bus += t.Bus
	return resp, err
}

// encode asks a tokenizer.
func (f *flight) encode(ctx context.Context, t *tokenizer, r *schemas.EncodeRequest) (*schemas.EncodeReply, error) {
	if f.ledger == nil {
		return t.encode.Call(ctx, r)
	}
	return measure(ctx, f.ledger, t.encode, r, &f.ledger.tokenize)
}

// submitTo hands a part to its replica's scheduler.
func (f *flight) submitTo(ctx context.Context, p *part, r *schemas.SubmitRequest) error {
	if f.ledger == nil {
		_, err := p.replica.submit.Call(ctx, r)
		return err
	}
	p.handover = handover{time.Now(), f.ledger.submits}
	_, err := p.replica.submit.Call(ctx, r)
	f.ledger.submits += time.Since(p.handover.at)
	return err
}

// take notes rows that the flight has got.
func (l *ledger) take(parts []*part, n int, rows []row, now time.Time) {
	for i := range rows {
		r := &rows[i]
		if r.ledger == nil || r.came.Before(l.came) {
			continue
		}
		l.part, l.own, l.came, l.taken = parts[r.choice/n], *r.ledger, r.came, now
		l.blocked, l.sends = max(0, l.sendEnded.Sub(later(l.sendBegan, r.came))), 0
	}
}

// sent notes a write.
func (l *ledger) sent(began, ended time.Time) {
	l.sends += ended.Sub(began)
	l.sendBegan, l.sendEnded = began, ended
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// report adds the ledger up at the end of an answer.
func (l *ledger) report(now time.Time) *schemas.Extra {
	if l.part == nil {
		return nil // no token has come
	}
	own, out := &l.own, l.part.handover
	waited := max(0, out.at.Sub(l.started)) // until earlier parts had made room
	gateway := out.at.Sub(l.began) - waited - out.before - l.tokenize - l.serialize - l.bus + now.Sub(l.taken) - l.sends
	away := l.came.Sub(out.at) - time.Duration(own.Span+own.Detokenize) // between the actors
	us := func(d time.Duration) float64 { return float64(max(0, d.Nanoseconds())) / 1e3 }
	ns := func(n int64) float64 { return us(time.Duration(n)) }
	r := &schemas.RequestLedger{Gateway: us(gateway), Tokenize: us(l.tokenize), Queue: ns(own.Queue) + us(waited), Schedule: ns(own.Schedule), Memory: ns(own.Memory),
		Serialize: ns(own.Serialize) + us(l.serialize), Bus: ns(own.Bus) + us(l.bus) + us(out.before) + us(away), Launch: ns(own.Launch), Device: ns(own.Device),
		Detokenize: ns(own.Detokenize), Send: us(l.blocked + l.sends), Wall: us(now.Sub(l.began))}
	idle := r.Wall
	for _, p := range r.Parts() {
		idle -= p.Us
	}
	r.Idle = max(0, math.Round(idle*1e3)/1e3)
	r.Bus, r.Serialize, r.Queue = math.Round(r.Bus*1e3)/1e3, math.Round(r.Serialize*1e3)/1e3, math.Round(r.Queue*1e3)/1e3
	return &schemas.Extra{Ledger: r}
}
