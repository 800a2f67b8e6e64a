package memory

import (
	"context"

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
		if req.Name != "" && node.Journaling() { // the one thing that its scheduler does not know
			body, err := bus.Marshal(req)
			if err != nil {
				return nil, err
			}
			node.Journal(schemas.JournalEntry{Actor: a.Name(), Delivery: &schemas.Delivery{Subject: schemas.Eviction.Subject(replica), Message: body}})
		}
		return core.evictions(), nil
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
