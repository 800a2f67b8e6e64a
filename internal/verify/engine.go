package verify

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/replica"
	"github.com/troupe-engine/troupe/schemas"
)

// outcome is what one sequence produced.
type outcome struct {
	tokens []int32
	cached int32
	logits map[int32][]float32 // by position; positions from the prefix cache are absent
	// logprobs are those that the request asked for, by the position of the token that they are of.
	logprobs map[int32][]candidate
	ranks    map[int32]int32 // likewise, of tokens of the prompt
	finish   schemas.FinishReason
	err      *schemas.Error
}

// candidate is a token and its log-probability.
type candidate struct {
	token   int32
	logprob float32
}

// engine is a replica whose tokens and logits are collected instead of turned into text.
type engine struct {
	node    *bus.Node
	replica *replica.Replica
	sink    *bus.Actor

	mu       sync.Mutex
	outcomes map[schemas.SeqID]*outcome
	ended    chan struct{}
	requests uint32
}

const sinkInstance = schemas.Instance("verify")

func openEngine(files fs.FS, open func() (gpu.Device, error), cfg replica.Config, observe bool) (*engine, error) {
	node, err := bus.Start(bus.Options{Listen: "none", Log: zerolog.Nop()})
	if err != nil {
		return nil, err
	}
	e := &engine{node: node, outcomes: map[schemas.SeqID]*outcome{}, ended: make(chan struct{}, 1)}
	dev, err := open()
	if err != nil {
		e.close()
		return nil, err
	}
	cfg.Files, cfg.ModelName = files, "verify"
	if observe {
		cfg.Observe = e.observe
	}
	if e.replica, err = replica.Open(node, dev, cfg, zerolog.Nop()); err != nil {
		e.close()
		return nil, err
	}
	e.sink = bus.NewActor(node, "tokenizer", sinkInstance, "Collects tokens.")
	bus.Handle(e.sink, schemas.Tokens, bus.NewGroup(), e.collect)
	if err := e.sink.Start(); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

func (e *engine) close() error {
	var err error
	if e.replica != nil {
		err = e.replica.Close()
	}
	e.node.Close()
	return err
}

func (e *engine) of(seq schemas.SeqID) *outcome {
	o := e.outcomes[seq]
	if o == nil {
		o = &outcome{logits: map[int32][]float32{}, logprobs: map[int32][]candidate{}, ranks: map[int32]int32{}}
		e.outcomes[seq] = o
	}
	return o
}

func (e *engine) observe(seq schemas.SeqID, start int32, logits [][]float32) {
	e.mu.Lock()
	defer e.mu.Unlock()
	o := e.of(seq)
	for i, row := range logits {
		pos := start + int32(i)
		if old, seen := o.logits[pos]; seen && !slices.Equal(old, row) {
			// A recomputed position must come out the same; keep what does not, to be reported.
			o.err = schemas.Errorf(schemas.KindInternal, "verify", "the logits of position %d differ after recomputation", pos)
		}
		o.logits[pos] = slices.Clone(row)
	}
}

func (e *engine) collect(_ context.Context, b *schemas.TokenBatch) (*schemas.Ack, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range b.Seq {
		o := e.of(schemas.SeqID(b.Seq[i]))
		if b.Token[i] >= 0 && int(b.Index[i]) == len(o.tokens) {
			o.tokens = append(o.tokens, b.Token[i])
		}
		o.cached = b.Cached[i]
		o.finish = schemas.FinishReason(b.Finish[i])
	}
	for i := range b.Logprobs {
		l := &b.Logprobs[i]
		o, pos, width := e.of(schemas.SeqID(b.Seq[l.Row])), l.Start, int(l.Width)
		for at := 0; at < len(l.Tokens); at, pos = at+width, pos+1 {
			if l.Ranks != nil {
				o.ranks[pos] = l.Ranks[at/width]
			}
			for c := at; c < at+width; c++ {
				o.logprobs[pos] = append(o.logprobs[pos], candidate{l.Tokens[c], l.Values[c]})
			}
		}
	}
	for i := range b.Errors {
		e.of(b.Errors[i].Seq).err = &b.Errors[i].Error
	}
	select {
	case e.ended <- struct{}{}:
	default:
	}
	return &schemas.Ack{}, nil
}

// request is one prompt to continue greedily.
type request struct {
	prompt []int32
	tokens int32 // to generate
	n      int32 // choices
	rules  *schemas.SamplingRules
}

// run submits requests together and returns one outcome per choice, in order.
func (e *engine) run(ctx context.Context, requests []request) ([]*outcome, error) {
	var ids []schemas.SeqID
	submit := bus.NewRef(e.node, schemas.Submit, "replica0")
	for _, r := range requests {
		e.requests++
		id := schemas.NewRequestID(1, e.requests)
		_, err := submit.Call(ctx, &schemas.SubmitRequest{Request: id, Choices: max(r.n, 1), Tokens: r.prompt, MaxTokens: r.tokens,
			Sampling: schemas.SamplingParams{TopP: 1, Rules: r.rules}, Tokenizer: sinkInstance})
		if err != nil {
			return nil, err
		}
		for i := range int(max(r.n, 1)) {
			ids = append(ids, id.Seq(i))
		}
	}
	for {
		if list, done := e.finished(ids); done {
			return list, nil
		}
		select {
		case <-e.ended:
		case <-ctx.Done():
			return nil, fmt.Errorf("the engine did not finish: %w", ctx.Err())
		}
	}
}

func (e *engine) finished(ids []schemas.SeqID) ([]*outcome, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]*outcome, len(ids))
	for i, id := range ids {
		if list[i] = e.of(id); list[i].finish == schemas.FinishNone {
			return nil, false
		}
	}
	return list, true
}

func (e *engine) schedulerState() (*schemas.SchedulerState, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return bus.NewRef(e.node, schemas.SchedulerInfo, "replica0").Call(ctx, &schemas.InfoRequest{})
}
