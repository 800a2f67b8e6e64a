package memory

import (
	"context"
	"errors"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// New prepares the memory manager of a replica, run by mailbox mb.
func New(node *bus.Node, mb bus.Mailbox, replica schemas.Instance, cfg Config) (*bus.Actor, error) {
	core, err := NewCore(cfg)
	if err != nil {
		return nil, err
	}
	a := bus.NewActor(node, "memory", replica, "Owns the KV blocks: allocation, prefix reuse, eviction.")
	subject := schemas.Reserve.Subject(replica)
	bus.Handle(a, schemas.Reserve, mb, func(_ context.Context, req *schemas.ReserveRequest) (*schemas.ReserveReply, error) {
		reserve := core.Reserve
		if !core.Answered(req) {
			if _, hit := node.Suffers(schemas.FaultOutOfBlocks, subject); hit {
				reserve = core.Refuse
			}
		}
		reply, err := reserve(req)
		if err != nil {
			return nil, err // a nil *schemas.Error must not become a non-nil error
		}
		return reply, nil
	})
	bus.Handle(a, schemas.MemoryInfo, mb, func(context.Context, *schemas.InfoRequest) (*schemas.MemoryState, error) {
		return core.State(), nil
	})
	bus.Handle(a, schemas.Eviction, mb, func(_ context.Context, req *schemas.PolicyRequest) (*schemas.PolicyReply, error) {
		if err := core.choose(req.Name); err != nil {
			return nil, err
		}
		if req.Name != "" {
			if err := journal(a, schemas.Eviction.Subject(replica), req); err != nil {
				return nil, err
			}
		}
		return core.evictions(), nil
	})
	bus.Handle(a, schemas.FindKV, mb, func(_ context.Context, req *schemas.KVFindRequest) (*schemas.KVFindReply, error) {
		return core.Find(req), nil
	})
	fill, adoptions := bus.NewRef(node, schemas.ImportKV, replica), uint64(0)
	bus.Handle(a, schemas.AdoptKV, mb, func(ctx context.Context, req *schemas.KVAdoptRequest) (*schemas.KVAdoptReply, error) {
		adopted, refused := core.adopt(req)
		if refused != nil {
			return nil, refused
		}
		if adopted.reply.Adopted == 0 {
			return adopted.reply, nil
		}
		// In this turn: whatever the scheduler plans next may read the blocks.
		adoptions++
		_, err := fill.Call(ctx, &schemas.KVImportRequest{Epoch: core.epoch, Step: core.latest(), Ticket: req.Ticket, Blocks: adopted.blocks, Serial: adoptions})
		done := *req
		if done.Undone = err != nil; done.Undone {
			core.disown(adopted)
		}
		return adopted.reply, errors.Join(err, journal(a, schemas.AdoptKV.Subject(replica), &done))
	})
	bus.Handle(a, schemas.Prefixes, mb, func(_ context.Context, req *schemas.PrefixRequest) (*schemas.PrefixReply, error) {
		return core.Prefixes(req.Since), nil
	})
	bus.HandleTry(a, mb, trials(core), func() []string {
		if err := core.Check(); err != nil {
			return []string{"its state contradicts itself: " + err.Error()}
		}
		return nil
	})
	a.JournalsItself() // in its scheduler's journal
	return a, nil
}

// journal notes what a memory manager is told and its scheduler does not know of.
func journal[T any](a *bus.Actor, subject string, message *T) error {
	if !a.Node().Journaling() {
		return nil
	}
	body, err := bus.Marshal(message)
	if err == nil {
		a.Node().Journal(schemas.JournalEntry{Actor: a.Name(), Delivery: &schemas.Delivery{Subject: subject, Message: body}})
	}
	return err
}
