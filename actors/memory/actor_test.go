package memory

import (
	"context"
	"errors"
	"slices"
	"testing"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// TestEvictionIsSwitchedWhileBlocksAreCached: what is cached stays, and an unknown policy changes nothing.
func TestEvictionIsSwitchedWhileBlocksAreCached(t *testing.T) {
	node, err := bus.Start(bus.Options{Listen: "none", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	a, err := New(node, bus.NewGroup(), "replica0", Config{Blocks: 8, BlockSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	defer a.Stop()
	ctx := context.Background()
	reserve, eviction := bus.NewRef(node, schemas.Reserve, "replica0"), bus.NewRef(node, schemas.Eviction, "replica0")
	prompt := schemas.I32{1, 2, 3, 4, 5}
	for step, r := range []*schemas.ReserveRequest{
		{Admit: []schemas.Admission{{Seq: 0x100, Tokens: prompt}}, TokensMax: 8, Seq: schemas.U64{0x100}, WantMax: schemas.I32{5}, MayPreempt: schemas.U8{0}},
		{Release: schemas.U64{0x100}},
	} {
		r.Epoch, r.Step = 1, schemas.StepID(step+1)
		if _, err := reserve.Call(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"lfu", "fifo", "priority", "lru", ""} {
		reply, err := eviction.Call(ctx, &schemas.PolicyRequest{Name: name})
		if err != nil || name != "" && reply.Active != name || !slices.Equal(reply.Policies, Evictions()) {
			t.Errorf("%q: %+v, %v", name, reply, err)
		}
	}
	var e *schemas.Error
	if _, err := eviction.Call(ctx, &schemas.PolicyRequest{Name: "belady"}); !errors.As(err, &e) || e.Kind != schemas.KindNotFound || e.Hint == "" {
		t.Errorf("got %v", err)
	}
	reply, err := reserve.Call(ctx, &schemas.ReserveRequest{Epoch: 1, Step: 3, Admit: []schemas.Admission{{Seq: 0x200, Tokens: prompt}}, TokensMax: 8,
		Seq: schemas.U64{0x200}, WantMax: schemas.I32{5}, MayPreempt: schemas.U8{0}})
	if err != nil || reply.Cached[0] != 4 {
		t.Errorf("%+v, %v; want 4 tokens from the cache", reply, err)
	}
}
