package compute

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/handover"
	"github.com/troupe-engine/troupe/schemas"
)

// Handover says how KV blocks go from this replica to others, or come from them.
type Handover struct {
	Phase    string      // schemas.PhasePrefill hands over, schemas.PhaseDecode takes
	Listen   string      // where to hand over by TCP; see handover.ServerConfig
	TLS      *tls.Config // of both
	Insecure bool
	Way      string // the best that may be used, of handover's, for tests; "" is any
	// Identity names the weights, and everything else that decides what keys and values are. It is asked for once, and may take
	// its time: until it is there nothing is handed over.
	Identity func(context.Context) (string, error)
}

const (
	fetchesMax   = 4 // hand-overs that come at once; more wait
	offersAtOnce = 4
	copyTriesMax = 200 // until a copy finds its moment between steps …
	copyTryPause = time.Millisecond
)

// exchange is the part of a computation manager that hands KV blocks over, and takes them.
type exchange struct {
	a      *Actor
	cfg    Handover
	log    zerolog.Logger
	find   *bus.Ref[schemas.KVFindRequest, schemas.KVFindReply]
	adopt  *bus.Ref[schemas.KVAdoptRequest, schemas.KVAdoptReply]
	server *handover.Server // of a replica that hands over
	client handover.Client
	shares *sharing        // nil: the device's memory is its own
	ctx    context.Context // ends before the actor does
	cancel context.CancelFunc
	asked  sync.WaitGroup

	mu       sync.Mutex
	identity string // "" until it is known …
	unknown  error  // … and why it is not
	tickets  uint64
	staged   map[uint64]*staged
	filled   struct { // the last adoption
		epoch  schemas.Epoch
		serial uint64
	}
}

// staged is what came and waits to be filled into blocks.
type staged struct {
	payload handover.Payload
	count   int
	queued  bool
	done    chan struct{} // closed when the device has it
	failed  error         // why it has not
}

// newExchange adds the endpoints of a hand-over to an actor; mb is the mailbox of its steps.
func newExchange(node *bus.Node, mb bus.Mailbox, a *Actor) *exchange {
	h := &exchange{a: a, cfg: *a.cfg.Handover, log: a.log, find: bus.NewRef(node, schemas.FindKV, a.cfg.Replica), adopt: bus.NewRef(node, schemas.AdoptKV, a.cfg.Replica),
		staged: map[uint64]*staged{}, unknown: errors.New("the weights' digest is being computed")}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	h.client = handover.Client{BlockBytes: a.exec.blockBytes(), TLS: h.cfg.TLS}
	h.shares = newSharing(h)
	if h.cfg.Phase == schemas.PhasePrefill {
		bus.Handle(a.actor, schemas.OfferKV, bus.NewPool(offersAtOnce), h.offer)
		return h
	}
	bus.Handle(a.actor, schemas.FetchKV, bus.NewPool(fetchesMax), h.fetch)
	bus.Handle(a.actor, schemas.ImportKV, mb, h.fill)
	return h
}

// start listens, where there is something to hand over. Nothing is offered before it is known what: by then server is there.
func (h *exchange) start() (err error) {
	if h.cfg.Phase == schemas.PhasePrefill {
		cfg := handover.ServerConfig{Listen: h.cfg.Listen, TLS: h.cfg.TLS, Insecure: h.cfg.Insecure, TCPOnly: h.cfg.Way == handover.WayTCP, BlockBytes: h.client.BlockBytes, Read: h.readToHost, Log: h.log}
		if h.shares != nil {
			cfg.Lender = h.shares
		}
		h.server, err = handover.Serve(cfg)
	}
	if err == nil {
		h.asked.Go(h.identify)
	}
	return err
}

func (h *exchange) stop() {
	h.cancel()
	if h.server != nil {
		h.server.Close()
	}
	h.asked.Wait()
}

// identify finds out what this replica's keys and values are.
func (h *exchange) identify() {
	name, err := h.cfg.Identity(h.ctx)
	pools := h.a.exec.model.KVPools()
	p := pools[0]
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.unknown = err; err != nil {
		if h.ctx.Err() == nil {
			h.log.Error().Err(err).Msg("KV is not handed over: it is not known what model it is of")
		}
		return
	}
	h.identity = fmt.Sprintf("%s %s %dx%v", name, p.DType, len(pools), p.Dims[1:p.Rank])
}

func (h *exchange) known() (string, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.unknown != nil {
		return "", schemas.Errorf(schemas.KindUnavailable, "hand over", "%v", h.unknown)
	}
	return h.identity, nil
}

func (h *exchange) blockSize() int { return h.a.exec.model.Options().BlockSize }

// offer lets another replica fetch what is cached of a prefix.
func (h *exchange) offer(ctx context.Context, req *schemas.KVOfferRequest) (*schemas.KVOfferReply, error) {
	own, err := h.known()
	if err != nil {
		return nil, err
	}
	if req.Identity != own {
		return nil, schemas.Errorf(schemas.KindInvalid, "offer", "the receiver has %.200q, this replica %q: keys and values would be others", req.Identity, own).WithParam("identity")
	}
	found, err := h.find.Call(ctx, &schemas.KVFindRequest{Tokens: req.Tokens, Salt: req.Salt})
	if err != nil {
		return nil, err
	}
	if req.First < 0 || int(req.First) >= len(found.Blocks) {
		return &schemas.KVOfferReply{}, nil
	}
	return h.server.Offer(&handover.Offer{Tokens: req.Tokens[:len(found.Blocks)*h.blockSize()], Salt: req.Salt, First: int(req.First), Blocks: len(found.Blocks) - int(req.First)})
}

// readToHost copies blocks of an offer to dst.
func (h *exchange) readToHost(ctx context.Context, o *handover.Offer, first, count int, dst []byte) error {
	return h.read(ctx, o, first, count, func(blocks []int32) (func() error, error) { return h.a.exec.export(blocks, dst) })
}

// read has blocks of an offer copied. Nothing keeps them in the pool meanwhile: if they have the same names before and after
// the copy, none was given to another in between.
func (h *exchange) read(ctx context.Context, o *handover.Offer, first, count int, start func(blocks []int32) (wait func() error, err error)) error {
	prefix := &schemas.KVFindRequest{Tokens: o.Tokens[:(first+count)*h.blockSize()], Salt: o.Salt}
	for range copyTriesMax {
		before, err := h.find.Call(ctx, prefix)
		if err != nil {
			return err
		}
		if len(before.Blocks) < first+count {
			return fmt.Errorf("%d blocks of the prefix are left; %d were offered", len(before.Blocks), first+count)
		}
		if err := h.a.exportAfter(before.Epoch, before.Step, func() (func() error, error) { return start(before.Blocks[first : first+count]) }); retried(ctx, err) {
			continue
		} else if err != nil {
			return err
		}
		after, err := h.find.Call(ctx, prefix)
		if err != nil {
			return err
		}
		if after.Epoch == before.Epoch && slices.Equal(after.Blocks, before.Blocks) && slices.Equal(after.Serials, before.Serials) {
			return nil
		}
	}
	return notYet()
}

// retried waits a moment if an error says that this is all it takes.
func retried(ctx context.Context, err error) bool {
	var e *schemas.Error
	if !errors.As(err, &e) || e.Kind != schemas.KindUnavailable && e.Kind != schemas.KindOverloaded || ctx.Err() != nil {
		return false
	}
	select {
	case <-time.After(copyTryPause):
		return true
	case <-ctx.Done():
		return false
	}
}

// fetch takes over what another replica has of a prefix, as far as it is not here.
func (h *exchange) fetch(ctx context.Context, req *schemas.KVFetchRequest) (*schemas.KVFetchReply, error) {
	began := time.Now()
	if req.From == "" || req.From == h.a.cfg.Replica {
		return nil, schemas.Errorf(schemas.KindInvalid, "fetch", "from is %q; expected another replica", req.From).WithParam("from")
	}
	ctx, cancel := context.WithTimeout(ctx, schemas.FetchKV.Timeout)
	defer cancel()
	defer context.AfterFunc(h.ctx, cancel)()
	reply := &schemas.KVFetchReply{Held: -1}
	borrower := h.shares.borrower(ctx, req.From)
	err := h.fetchInto(ctx, req, reply, borrower)
	if errors.Is(err, handover.ErrBorrowed) && ctx.Err() == nil {
		borrower.Refused(err)
		err = h.fetchInto(ctx, req, reply, nil)
	}
	reply.TookNs = time.Since(began).Nanoseconds()
	if _, told := err.(*schemas.Error); err != nil && !told {
		err = schemas.Errorf(schemas.KindUnavailable, "fetch", "%d blocks came from %s, the rest has to be computed: %v", reply.Blocks, req.From, err)
	}
	if err != nil {
		return nil, err
	}
	return reply, nil
}

// fetchInto adds to a reply what comes.
func (h *exchange) fetchInto(ctx context.Context, req *schemas.KVFetchRequest, reply *schemas.KVFetchReply, borrower handover.Borrower) error {
	identity, err := h.known()
	if err != nil {
		return err
	}
	found, err := h.find.Call(ctx, &schemas.KVFindRequest{Tokens: req.Tokens, Salt: req.Salt})
	if err != nil {
		return err
	}
	held, whole := len(found.Blocks), len(req.Tokens)/h.blockSize()
	if reply.Held < 0 {
		reply.Held = int32(held)
	}
	if held == whole {
		return nil
	}
	offer, err := bus.NewRef(h.a.actor.Node(), schemas.OfferKV, req.From).Call(ctx, &schemas.KVOfferRequest{Tokens: req.Tokens[:whole*h.blockSize()], Salt: req.Salt, First: int32(held), Identity: identity})
	if err != nil || offer.Blocks == 0 {
		return err
	}
	if int(offer.Blocks) > whole-held {
		return schemas.Errorf(schemas.KindInvalid, "fetch", "%s offers %d blocks; %d were asked for", req.From, offer.Blocks, whole-held)
	}
	client := h.client
	client.Borrower = borrower
	reply.Way, err = client.Fetch(ctx, offer, func(first, count int, payload handover.Payload) error {
		took, err := h.adoptBlocks(ctx, req, held+first, count, payload)
		reply.Blocks, reply.Bytes = reply.Blocks+took, reply.Bytes+int64(took)*int64(client.BlockBytes)
		return err
	})
	return err
}

// adoptBlocks makes a frame of blocks a cached prefix. It returns when the device has them.
func (h *exchange) adoptBlocks(ctx context.Context, req *schemas.KVFetchRequest, first, count int, payload handover.Payload) (adopted int32, err error) {
	for range copyTriesMax {
		ticket, s := h.stage(payload, count)
		reply, err := h.adopt.Call(ctx, &schemas.KVAdoptRequest{Tokens: req.Tokens[:(first+count)*h.blockSize()], Salt: req.Salt, First: int32(first), Count: int32(count), Ticket: ticket})
		if failed := h.unstage(ticket, s); failed != nil {
			return 0, failed
		}
		if retried(ctx, err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if int(reply.Held) < first+count {
			return reply.Adopted, fmt.Errorf("there is no room for block %d", reply.Held)
		}
		return reply.Adopted, nil
	}
	return 0, cmp.Or[error](ctx.Err(), notYet())
}

func (h *exchange) stage(payload handover.Payload, count int) (uint64, *staged) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tickets++
	s := &staged{payload: payload, count: count, done: make(chan struct{})}
	h.staged[h.tickets] = s
	return h.tickets, s
}

// unstage lets nobody use the payload from now on, and says why the device does not have what it was to get.
func (h *exchange) unstage(ticket uint64, s *staged) error {
	h.mu.Lock()
	delete(h.staged, ticket)
	queued := s.queued
	h.mu.Unlock()
	if !queued {
		return nil
	}
	<-s.done
	return s.failed
}

// fill queues what was staged to be copied to blocks. It runs in the turn of steps.
func (h *exchange) fill(_ context.Context, req *schemas.KVImportRequest) (*schemas.Ack, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s, a := h.staged[req.Ticket], h.a
	switch {
	case s == nil:
		return nil, schemas.Errorf(schemas.KindNotFound, "import", "ticket %d is not known, or not any more", req.Ticket).WithParam("ticket")
	case s.queued:
		return &schemas.Ack{}, nil // a repeat
	case len(req.Blocks) > s.count:
		return nil, schemas.Errorf(schemas.KindInvalid, "import", "%d blocks for the %d of ticket %d", len(req.Blocks), s.count, req.Ticket).WithParam("blocks")
	case req.Epoch == h.filled.epoch && req.Serial <= h.filled.serial:
		return nil, schemas.Errorf(schemas.KindInvalid, "import", "adoption %d comes after %d: its blocks may be another's by now", req.Serial, h.filled.serial).WithParam("serial")
	case !(req.Epoch == a.epoch && req.Step == a.step || req.Epoch > a.epoch && req.Step == 0):
		return nil, notYet()
	}
	for i, b := range req.Blocks {
		if most := a.exec.model.Options().KVBlocks; b < -1 || int(b) >= most {
			return nil, schemas.Errorf(schemas.KindInvalid, "import", "blocks[%d] is %d; expected -1 to %d", i, b, most-1).WithParam("blocks")
		}
	}
	if err := a.queueJob(job{do: func() {
		defer close(s.done)
		if s.failed = recovered(func() error { return a.exec.fill(req.Blocks, s.count, s.payload) }); s.failed != nil {
			a.exec.spoil(req.Epoch, s.failed)
		}
	}}); err != nil {
		return nil, err
	}
	s.queued = true
	h.filled.epoch, h.filled.serial = req.Epoch, req.Serial
	return &schemas.Ack{}, nil
}
