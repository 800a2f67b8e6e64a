package memory

import (
	"context"
	"strings"

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
	bus.Handle(a, schemas.Reserve, mb, func(_ context.Context, req *schemas.ReserveRequest) (*schemas.ReserveReply, error) {
		reply, err := core.Reserve(req)
		if err != nil {
			return nil, err // a nil *schemas.Error must not become a non-nil error
		}
		return reply, nil
	})
	bus.Handle(a, schemas.MemoryInfo, mb, func(context.Context, *schemas.InfoRequest) (*schemas.MemoryState, error) {
		return core.State(), nil
	})
	bus.Handle(a, schemas.Eviction, mb, func(_ context.Context, req *schemas.PolicyRequest) (*schemas.PolicyReply, error) {
		if req.Name != "" {
			if err := core.SetEviction(req.Name); err != nil {
				return nil, schemas.Errorf(schemas.KindNotFound, "eviction", "%v", err).WithParam("name").
					WithHint("choose one of %s", strings.Join(Evictions(), ", "))
			}
			if node.Journaling() { // the one thing that its scheduler does not know
				body, err := bus.Marshal(req)
				if err != nil {
					return nil, err
				}
				node.Journal(schemas.JournalEntry{Actor: a.Name(), Delivery: &schemas.Delivery{Subject: schemas.Eviction.Subject(replica), Message: body}})
			}
		}
		return &schemas.PolicyReply{Active: core.Eviction(), Policies: Evictions()}, nil
	})
	bus.Handle(a, schemas.Prefixes, mb, func(_ context.Context, req *schemas.PrefixRequest) (*schemas.PrefixReply, error) {
		return core.Prefixes(req.Since), nil
	})
	a.JournalsItself() // in its scheduler's journal
	return a, nil
}
