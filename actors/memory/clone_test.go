package memory

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/troupe-engine/troupe/internal/dump"
	"github.com/troupe-engine/troupe/schemas"
)

// TestWhatACopyDoesChangesNothing: a copy of the core answers as the core does, and not a byte of the core changes.
func TestWhatACopyDoesChangesNothing(t *testing.T) {
	for _, eviction := range Evictions() {
		cfg := Config{Blocks: 12, BlockSize: 2, Eviction: eviction}
		for seed := range uint64(12) {
			core, err := NewCore(cfg)
			if err != nil {
				t.Fatal(err)
			}
			core.Prefixes(0) // changes are noted from here on
			w := &world{rng: rand.New(rand.NewPCG(seed, 0)), cfg: cfg, epoch: 1, seqs: map[uint64]*truth{}}
			for range 100 {
				req := w.request()
				before := dump.Of(core)
				sandbox, refusing := core.Clone(), core.Clone()
				told, failed := sandbox.Reserve(req)
				if _, err := refusing.Refuse(req); err != nil {
					t.Fatalf("%s, seed %d: %v", eviction, seed, err)
				}
				for _, c := range []*Core{sandbox, refusing} {
					if err := c.Check(); err != nil {
						t.Fatalf("%s, seed %d: the copy: %v", eviction, seed, err)
					}
				}
				if after := dump.Of(core); after != before {
					t.Fatalf("%s, seed %d: the core was\n%s\nand is\n%s", eviction, seed, before, after)
				}
				reply, refused := core.Reserve(req)
				if !reflect.DeepEqual(told, reply) || (failed == nil) != (refused == nil) {
					t.Fatalf("%s, seed %d: the copy answers %+v, %v; the core %+v, %v", eviction, seed, told, failed, reply, refused)
				}
				w.apply(req, reply)
			}
		}
	}
}

// A pool that has nothing to give still learns what changed, and a repeat of the question gets the same answer.
func TestRefuse(t *testing.T) {
	core, err := NewCore(Config{Blocks: 4, BlockSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	req := &schemas.ReserveRequest{Epoch: 1, Step: 1, Admit: []schemas.Admission{{Seq: 0x100, Tokens: schemas.I32{1, 2, 3}}},
		TokensMax: 8, Seq: schemas.U64{0x100}, WantMax: schemas.I32{3}, MayPreempt: schemas.U8{1}}
	reply, refused := core.Refuse(req)
	if refused != nil || len(reply.Granted) != 1 || reply.Granted[0] != 0 || reply.Free != 4 || len(reply.BlockCount) != 1 {
		t.Fatalf("got %+v, %v", reply, refused)
	}
	if again, _ := core.Reserve(req); again != reply {
		t.Errorf("a repeat got %+v", again)
	}
	next := &schemas.ReserveRequest{Epoch: 1, Step: 2, TokensMax: 8, Seq: schemas.U64{0x100}, WantMax: schemas.I32{3}, MayPreempt: schemas.U8{1}}
	if reply, refused = core.Reserve(next); refused != nil || reply.Granted[0] != 3 {
		t.Errorf("the next question got %+v, %v", reply, refused)
	}
	if again, _ := core.Refuse(next); again != reply {
		t.Errorf("a repeat that is to be refused got %+v", again)
	}
	bad := &schemas.ReserveRequest{Epoch: 1, Step: 3, Seq: schemas.U64{0x900}, WantMax: schemas.I32{1}, MayPreempt: schemas.U8{0}}
	if _, refused = core.Refuse(bad); refused == nil || refused.Param != "seq" {
		t.Errorf("a row of an unknown sequence: %v", refused)
	}
}
