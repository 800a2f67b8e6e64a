package gateway

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/toolcalls"
	"github.com/troupe-engine/troupe/schemas"
)

// tokenizer is one that opens sessions for this gateway: the gateway's own, or one of a pool.
type tokenizer struct {
	name   schemas.Instance
	encode *bus.Ref[schemas.EncodeRequest, schemas.EncodeReply]
	decode *bus.Ref[schemas.DecodeRequest, schemas.DecodeReply]
	vocab  *bus.Ref[schemas.InfoRequest, schemas.TokenizerState]
	// closeSessions ends sessions whose sequences were never submitted.
	closeSessions *bus.Ref[schemas.CancelRequest, schemas.CancelReply]

	gone context.Context // ends when it is given up, with the reason; nil if it never is

	// Of a pool. Guarded by tokenizers.mu, but for model and incarnation, which do not change.
	model       *model
	incarnation uint64
	giveUp      context.CancelCauseFunc
	heard       time.Time // of the last report
	parts       int       // of requests that have their sessions there
	ready       bool      // it has said what it speaks: it gets no request before
	asking      bool      // for that
}

func newTokenizer(node *bus.Node, name schemas.Instance) *tokenizer {
	return &tokenizer{name: name, encode: bus.NewRef(node, schemas.Encode, name), decode: bus.NewRef(node, schemas.Decode, name),
		vocab: bus.NewRef(node, schemas.TokenizerInfo, name), closeSessions: bus.NewRef(node, schemas.CloseSessions, name)}
}

// lost is why the tokenizer was given up, or nil.
func (t *tokenizer) lost() error {
	if t.gone == nil || t.gone.Err() == nil {
		return nil
	}
	return context.Cause(t.gone)
}

// while is ctx until the tokenizer is given up: nobody waits for the answer of one that is dead.
func (t *tokenizer) while(ctx context.Context) (context.Context, context.CancelFunc) {
	return until(ctx, t.gone)
}

// tokenizerSilenceMax is how long one of a pool may miss its reports, of which nodes send one a second.
const tokenizerSilenceMax = 3500 * time.Millisecond

// encodeTriesMax is how many tokenizers of a pool are asked to encode a prompt.
const encodeTriesMax = 3

// tokenizersMax bounds the pool.
const tokenizersMax = 1024

// tokenizers are those that a gateway can use: one of its own, for its own model, and a pool for all others.
type tokenizers struct {
	g   *Gateway
	own *tokenizer // nil if its own model's are the pool's, too
	sub *bus.Subscription

	mu     sync.Mutex
	known  map[schemas.Instance]*tokenizer // a pool's, by name
	closed bool
}

func newTokenizers(g *Gateway) *tokenizers {
	ts := &tokenizers{g: g, known: map[schemas.Instance]*tokenizer{}}
	if g.cfg.Tokenizer != "" {
		ts.own = newTokenizer(g.node, g.cfg.Tokenizer)
	}
	return ts
}

// start hears who is there, until the gateway stops.
func (ts *tokenizers) start() (err error) {
	if ts.g.replicas == nil {
		return nil
	}
	if ts.sub, err = bus.Subscribe(ts.g.node, schemas.NodeReports, "", func(_ schemas.Instance, m *schemas.NodeReport) { ts.hear(m, time.Now()) }); err != nil {
		return err
	}
	ts.g.lookAfter(ts.look, ts.close)
	return nil
}

func (ts *tokenizers) close() {
	ts.sub.Close()
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.closed = true
	for _, t := range ts.known {
		t.giveUp(context.Canceled)
	}
}

// hear takes a node's report.
func (ts *tokenizers) hear(m *schemas.NodeReport, now time.Time) {
	if !isModelName(m.Model) || !bus.Compatible(m.Version, bus.BuildVersion) || !slices.ContainsFunc(m.Actors, isTokenizer) {
		return
	}
	model := ts.g.models.of(m.Model)
	if model == nil || model.own && ts.own != nil {
		return
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, a := range m.Actors {
		if !isTokenizer(a) || ts.closed {
			continue
		}
		t := ts.known[a.Instance]
		if t != nil && (t.incarnation != m.Incarnation || t.model != model) {
			ts.drop(t, "it was restarted")
			t = nil
		}
		if t == nil && !m.Draining && len(ts.known) < tokenizersMax {
			t = newTokenizer(ts.g.node, a.Instance)
			t.model, t.incarnation = model, m.Incarnation
			t.gone, t.giveUp = context.WithCancelCause(context.Background())
			ts.known[a.Instance] = t
		}
		if t != nil {
			t.heard = now
			ts.inquire(t)
		}
	}
}

func isTokenizer(a schemas.ActorReport) bool { return a.Service == "tokenizer" }

// inquire asks a new tokenizer what it speaks. Until it answers it gets no request.
func (ts *tokenizers) inquire(t *tokenizer) {
	if t.ready || t.asking {
		return
	}
	t.asking = true
	ts.g.background.Go(func() {
		ctx, cancel := context.WithTimeout(t.gone, replicaAskTimeMax)
		defer cancel()
		said, err := t.vocab.Call(ctx, &schemas.InfoRequest{})
		ts.mu.Lock()
		defer ts.mu.Unlock()
		t.asking = false
		if err != nil || ts.known[t.name] != t {
			return // its next report asks again
		}
		if said.Sampling != nil && said.Sampling.Validate() != nil { // a model's odd defaults are not the client's mistake
			said.Sampling = nil
		}
		if f := toolcalls.Format(said.ToolFormat); f != "" && !slices.Contains(toolcalls.Formats(), f) { // of a later version, perhaps
			ts.g.log.Warn().Str("tokenizer", string(t.name)).Str("tool_format", clip(said.ToolFormat)).Msg("calls of tools are written as hermes: this gateway does not know the model's format")
			said.ToolFormat = ""
		}
		t.ready = true
		t.model.speech.Store(said)
		ts.g.log.Info().Str("tokenizer", string(t.name)).Str("model", t.model.name).Msg("a tokenizer has come")
	})
}

// look gives up those that are silent or cut off.
func (ts *tokenizers) look(now time.Time) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, t := range ts.known {
		switch {
		case now.Sub(t.heard) > tokenizerSilenceMax:
			ts.drop(t, "it has been silent for "+now.Sub(t.heard).Round(10*time.Millisecond).String())
		case now.Sub(t.heard) > replicasLookEvery && !ts.g.node.Served(schemas.Tokens.Subject(t.name)):
			ts.drop(t, "its connection is closed")
		}
	}
}

// drop gives a tokenizer up. What it was to turn into text goes on at another.
func (ts *tokenizers) drop(t *tokenizer, reason string) {
	delete(ts.known, t.name)
	ts.g.log.Warn().Str("tokenizer", string(t.name)).Str("reason", reason).Msg("a tokenizer is given up")
	t.giveUp(schemas.Errorf(schemas.KindUnavailable, "detokenize", "the tokenizer %s was given up: %s", t.name, reason))
}

// pick chooses the one of a model with the least to do. avoid, which may be nil, is taken only if there is no other.
func (ts *tokenizers) pick(m *model, avoid *tokenizer) (*tokenizer, *schemas.Error) {
	if m.own && ts.own != nil {
		return ts.own, nil
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	var best *tokenizer
	for _, t := range ts.known {
		if t.model != m || !t.ready {
			continue
		}
		if best == nil || best == avoid || t != avoid && cmp.Or(cmp.Compare(t.parts, best.parts), cmp.Compare(t.name, best.name)) < 0 {
			best = t
		}
	}
	if best == nil {
		e := schemas.Errorf(schemas.KindUnavailable, "encode", "no tokenizer of %s is there", m.name).
			WithHint("start one with `troupe attach --actors tokenizer` and that model")
		e.RetryAfterMs = retryAfterMs
		return nil, e
	}
	return best, nil
}

// session is where a part's text is made. Guarded by tokenizers.mu.
type session struct {
	tokenizer *tokenizer // nil before the first is asked
	counted   bool
	unhear    func() bool // of the flight alone: it hears no more that the tokenizer is given up
}

// use counts a part's session at a tokenizer, and uncounts the one that it had.
func (ts *tokenizers) use(p *part, t *tokenizer) {
	ts.done(p)
	ts.mu.Lock()
	defer ts.mu.Unlock()
	p.tokenizer, p.counted = t, true
	t.parts++
}

// done says that a part needs no text any more.
func (ts *tokenizers) done(p *part) {
	if p.unhear != nil {
		p.unhear()
		p.unhear = nil
	}
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if p.counted {
		p.tokenizer.parts--
		p.counted = false
	}
}

// open lists the sequences of a flight's first parts that may have sessions, by where.
func (ts *tokenizers) open(f *flight, parts int) map[*tokenizer]schemas.U64 {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.g.requests.mu.Lock()
	defer ts.g.requests.mu.Unlock()
	seqs := map[*tokenizer]schemas.U64{}
	for _, p := range f.parts[:parts] {
		if p.tokenizer != nil && p.tokenizer.lost() == nil {
			seqs[p.tokenizer] = append(seqs[p.tokenizer], p.unfinished()...)
		}
	}
	return seqs
}

// encodePart opens a part's session at a tokenizer that answers.
func (f *flight) encodePart(p *part, r *schemas.EncodeRequest) (*schemas.EncodeReply, error) {
	ts := f.g.tokenizers
	var avoid *tokenizer
	for tries := 1; ; tries++ {
		t, none := ts.pick(f.job.serving, avoid)
		if none != nil {
			return nil, none
		}
		ts.use(p, t)
		if t.gone != nil {
			p.unhear = context.AfterFunc(t.gone, f.wakeLost)
		}
		ctx, cancel := t.while(f.ctx)
		reply, err := f.encode(ctx, t, r)
		cancel()
		if err == nil || t == ts.own || f.ctx.Err() != nil || t == avoid || tries == encodeTriesMax {
			return reply, err
		}
		if k := schemas.AsError(err, "encode").Kind; t.lost() == nil && k != schemas.KindUnavailable && k != schemas.KindTimeout {
			return nil, err
		}
		avoid = t
	}
}

// wakeLost tells the flight's goroutine that something that a part needs is gone.
func (f *flight) wakeLost() {
	select {
	case f.lost <- struct{}{}:
	default:
	}
}

// Tokenizers counts those that requests can use, of all models.
func (g *Gateway) Tokenizers() int {
	ts := g.tokenizers
	ts.mu.Lock()
	defer ts.mu.Unlock()
	count := 0
	if ts.own != nil {
		count++
	}
	for _, t := range ts.known {
		if t.ready {
			count++
		}
	}
	return count
}
