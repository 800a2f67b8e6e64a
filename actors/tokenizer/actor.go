package tokenizer

import (
	"context"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	encodersMax   = 64               // prompts encoded at once; more wait
	sessionIdle   = 30 * time.Minute // a session without a new token is forgotten after this long
	sweepEvery    = time.Minute
	deltaRowsMax  = 1 << 20 // rows waiting for one gateway
	cancelRowsMax = 1 << 16 // cancellations waiting for one scheduler
)

// Config names a tokenizer and the model whose files it loads.
type Config struct {
	Instance  schemas.Instance
	ModelName string
	Files     fs.FS
	Sampling  schemas.SamplingParams // the model's own; gateways without its files ask for them
}

// Actor is the tokenizer's shell. Encoding and decoding run concurrently on the callers' goroutines;
// batches of tokens are taken in order.
type Actor struct {
	cfg   Config
	text  *Text
	actor *bus.Actor
	node  *bus.Node
	log   zerolog.Logger

	mu       sync.Mutex // guards core: encoding opens sessions while batches step them
	core     *Core
	encoded  atomic.Uint64
	gateways *bus.Outboxes[Delta]
	stops    *bus.Outboxes[schemas.SeqID]
	quit     chan struct{}
	stopped  sync.WaitGroup
}

// New loads the model's tokenizer and prepares the actor.
func New(node *bus.Node, cfg Config, log zerolog.Logger) (*Actor, error) {
	text, err := LoadText(cfg.Files)
	if err != nil {
		return nil, err
	}
	a := &Actor{cfg: cfg, text: text, node: node, log: log.With().Str("actor", "tokenizer."+string(cfg.Instance)).Logger(),
		quit: make(chan struct{})}
	a.gateways, a.stops = bus.NewOutboxes(deltaRowsMax, a.deltaSender), bus.NewOutboxes(cancelRowsMax, a.stopSender)
	a.core = newCore(func(keepSpecial bool, tail []int32) decoder { return text.vocabulary.NewStream(!keepSpecial, tail...) }, text.bytes)
	a.actor = bus.NewActor(node, "tokenizer", cfg.Instance, "Turns text into tokens and tokens into text.")
	pool, serial := bus.NewPool(encodersMax), bus.NewGroup()
	bus.Handle(a.actor, schemas.Encode, pool, a.encode)
	bus.Handle(a.actor, schemas.Decode, pool, func(_ context.Context, req *schemas.DecodeRequest) (*schemas.DecodeReply, error) {
		return text.Decode(req)
	})
	bus.Handle(a.actor, schemas.Tokens, serial, a.tokens)
	bus.Handle(a.actor, schemas.CloseSessions, serial, func(_ context.Context, req *schemas.CancelRequest) (*schemas.CancelReply, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return &schemas.CancelReply{Cancelled: a.core.Close(req.Seq)}, nil
	})
	bus.Handle(a.actor, schemas.TokenizerInfo, serial, func(context.Context, *schemas.InfoRequest) (*schemas.TokenizerState, error) {
		a.mu.Lock()
		defer a.mu.Unlock()
		return &schemas.TokenizerState{Model: cfg.ModelName, VocabSize: int32(text.VocabSize()), ChatReady: text.ChatReady(),
			Sessions: int32(len(a.core.sessions)), Encoded: a.encoded.Load(), Decoded: a.core.decoded,
			ToolFormat: string(text.ToolFormat()), Sampling: &cfg.Sampling}, nil
	})
	bus.HandleTry(a.actor, pool, map[string]bus.Trial{
		"encode": bus.TrialOf(func(r *schemas.EncodeRequest) (bus.Tried, error) {
			if r.Detok != nil {
				return bus.Tried{}, schemas.Errorf(schemas.KindInvalid, "try", "detok would open a session; leave it out to try").WithParam("detok")
			}
			reply, err := text.Encode(r)
			return bus.Tried{Reply: reply}, err
		}),
		"decode": bus.TrialOf(func(r *schemas.DecodeRequest) (bus.Tried, error) {
			reply, err := text.Decode(r)
			return bus.Tried{Reply: reply}, err
		}),
	}, a.ailments)
	return a, nil
}

// ailments says why the tokenizer cannot do its work.
func (a *Actor) ailments() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.core.sessions); n >= sessionsMax {
		return []string{fmt.Sprintf("%d answers are being turned into text, as many as there may be", n)}
	}
	return nil
}

// Text is the loaded vocabulary and template.
func (a *Actor) Text() *Text { return a.text }

// Start makes the actor reachable.
func (a *Actor) Start() error {
	if err := a.actor.Start(); err != nil {
		return err
	}
	a.stopped.Add(1)
	go a.sweep()
	return nil
}

// Stop delivers what is queued and stops the actor.
func (a *Actor) Stop() {
	close(a.quit)
	a.stopped.Wait()
	a.actor.Stop()
	a.gateways.Close()
	a.stops.Close()
}

func (a *Actor) encode(_ context.Context, req *schemas.EncodeRequest) (*schemas.EncodeReply, error) {
	if d := req.Detok; d != nil {
		if d.Choices < 1 || d.Choices > schemas.ChoicesMax {
			return nil, schemas.Errorf(schemas.KindInvalid, "encode", "detok.choices is %d; expected 1 to %d", d.Choices, schemas.ChoicesMax).WithParam("n")
		}
		if err := d.Resume.Validate(d.Choices); err != nil {
			return nil, err
		}
		for _, stop := range d.Stop {
			if stop == "" {
				return nil, schemas.Errorf(schemas.KindInvalid, "encode", "a stop string is empty").WithParam("stop")
			}
		}
	}
	reply, err := a.text.Encode(req)
	if err != nil {
		return nil, err
	}
	a.encoded.Add(uint64(len(reply.Tokens)))
	if req.Detok != nil {
		a.mu.Lock()
		refused := a.core.Open(time.Now().UnixNano(), req.Request, reply.Tokens, req.Detok)
		a.mu.Unlock()
		if refused != nil {
			return nil, refused
		}
	}
	return reply, nil
}

func (a *Actor) tokens(_ context.Context, b *schemas.TokenBatch) (*schemas.Ack, error) {
	var began time.Time
	if len(b.Ledgers) > 0 {
		began = time.Now()
	}
	a.mu.Lock()
	fx, err := a.core.Tokens(b)
	a.mu.Unlock()
	if err != nil {
		return nil, err
	}
	for _, d := range fx.Deltas {
		if d.Ledger != nil {
			d.Ledger.Detokenize = time.Since(began).Nanoseconds()
		}
		if !a.gateways.Put(d.Gateway, d) {
			a.log.Error().Str("gateway", string(d.Gateway)).Stringer("seq", d.Seq).Msg("text was dropped: the gateway does not keep up")
			fx.Forgotten = append(fx.Forgotten, uint64(d.Seq))
		}
	}
	for _, s := range fx.Stops {
		if !a.stops.Put(s.Scheduler, s.Seq) {
			a.log.Warn().Str("scheduler", string(s.Scheduler)).Stringer("seq", s.Seq).Msg("a stopped sequence could not be cancelled; it runs to its limit")
		}
	}
	return &schemas.Ack{Forgotten: fx.Forgotten}, nil
}

// deltaSender delivers text to one gateway. Sequences that it has forgotten are closed here; the next
// token then tells the scheduler.
func (a *Actor) deltaSender(gateway schemas.Instance) func([]Delta) {
	ref := bus.NewRef(a.node, schemas.Deltas, gateway)
	number := uint64(0)
	return func(rows []Delta) {
		number++
		batch := deltaBatch(a.cfg.Instance, number, rows)
		ack, err := ref.Call(context.Background(), batch)
		gone := batch.Seq
		if err != nil {
			a.log.Error().Err(err).Str("gateway", string(gateway)).Int("rows", len(rows)).Msg("text could not be delivered; its sequences are dropped")
		} else {
			gone = ack.Forgotten
		}
		if len(gone) > 0 {
			a.mu.Lock()
			a.core.Close(gone)
			a.mu.Unlock()
		}
	}
}

func deltaBatch(from schemas.Instance, number uint64, rows []Delta) *schemas.DeltaBatch {
	n := len(rows)
	b := &schemas.DeltaBatch{From: from, Number: number, Seq: make(schemas.U64, n), Text: make([]string, n),
		Tokens: make(schemas.I32, n), IDs: make(schemas.I32, n), Finish: make(schemas.U8, n), Cached: make(schemas.I32, n)}
	for i, d := range rows {
		b.Seq[i], b.Text[i], b.Tokens[i], b.IDs[i] = uint64(d.Seq), d.Text, d.Tokens, d.ID
		b.Finish[i], b.Cached[i] = byte(d.Finish), d.Cached
		if d.Err != nil {
			b.Errors = append(b.Errors, schemas.SeqError{Seq: d.Seq, Error: *d.Err})
		}
		if d.Ledger != nil {
			d.Ledger.Row = int32(i)
			b.Ledgers = append(b.Ledgers, *d.Ledger)
		}
		for _, l := range d.Logprobs {
			l.Logprobs.Row = int32(i)
			b.Logprobs = append(b.Logprobs, l)
		}
		if d.Embedding != nil {
			b.Embeddings = append(b.Embeddings, schemas.Embedding{Row: int32(i), Values: d.Embedding})
		}
	}
	return b
}

// stopSender tells one scheduler which answers are complete.
func (a *Actor) stopSender(scheduler schemas.Instance) func([]schemas.SeqID) {
	ref := bus.NewRef(a.node, schemas.CancelSeqs, scheduler)
	return func(seqs []schemas.SeqID) {
		req := &schemas.CancelRequest{Finish: schemas.FinishStop}
		for _, id := range seqs {
			req.Seq = append(req.Seq, uint64(id))
		}
		if _, err := ref.Call(context.Background(), req); err != nil {
			a.log.Warn().Err(err).Str("scheduler", string(scheduler)).Msg("stopped sequences could not be cancelled; they run to their limit")
		}
	}
}

func (a *Actor) sweep() {
	defer a.stopped.Done()
	clock := time.NewTicker(sweepEvery)
	defer clock.Stop()
	for {
		select {
		case now := <-clock.C:
			a.mu.Lock()
			n := a.core.Expire(now.UnixNano(), sessionIdle.Nanoseconds())
			a.mu.Unlock()
			if n > 0 {
				a.log.Warn().Int("sessions", n).Msg("forgot sessions that saw no token for long")
			}
		case <-a.quit:
			return
		}
	}
}
