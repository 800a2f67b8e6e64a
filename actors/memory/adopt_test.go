package memory

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// TestAdoptions runs random schedulers while prefixes come from elsewhere, are looked for and are taken back: the invariants
// hold, every sequence finds its own KV in all of its places, and so does whoever was told where a prefix lies.
func TestAdoptions(t *testing.T) {
	for _, cfg := range []Config{
		{Blocks: 1, BlockSize: 4},
		{Blocks: 7, BlockSize: 2},
		{Blocks: 30, BlockSize: 2},
		{Blocks: 12, BlockSize: 2, Eviction: "fifo"},
		{Blocks: 12, BlockSize: 2, Eviction: "lfu"},
		{Blocks: 12, BlockSize: 2, Eviction: "priority"},
	} {
		t.Run(fmt.Sprintf("%dx%d,%s", cfg.Blocks, cfg.BlockSize, cfg.Eviction), func(t *testing.T) {
			var sum adoptionCounts
			for i := range *seedsFlag {
				adoptingRun(t, cfg, *seedFlag+uint64(i), &sum)
			}
			t.Logf("%+v", sum)
			if *seedsFlag >= 50 && (sum.adopted == 0 || sum.undone == 0 || sum.found == 0 || cfg.Blocks > 6 && (sum.short == 0 || sum.foundThere == 0)) {
				t.Error("the runs left a mechanism out")
			}
		})
	}
}

type adoptionCounts struct{ adopted, foundThere, short, undone, found int }

func adoptingRun(t *testing.T, cfg Config, seed uint64, sum *adoptionCounts) {
	core, err := NewCore(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{rng: rand.New(rand.NewPCG(seed, 1)), cfg: cfg, epoch: 1, seqs: map[uint64]*truth{}}
	device := newDevice(cfg)
	fail := func(format string, args ...any) {
		t.Helper()
		t.Fatalf("seed %d, epoch %d step %d: %s (rerun with -memory.seed=%d -memory.seeds=1)", seed, w.epoch, w.step, fmt.Sprintf(format, args...), seed)
	}
	for range *stepsFlag {
		req := w.request()
		reply, refused := core.Reserve(req)
		if refused != nil {
			fail("%v", refused)
		}
		w.apply(req, reply)
		if err := device.run(w, req, reply); err != nil {
			fail("%v", err)
		}
		for w.chance(60) && len(w.past) > 0 {
			if err := w.adopt(core, device, sum); err != nil {
				fail("%v", err)
			}
			if err := core.Check(); err != nil {
				fail("%v", err)
			}
		}
		if err := w.find(core, device, sum); err != nil {
			fail("%v", err)
		}
	}
}

// adopt offers a random part of a random prefix.
func (w *world) adopt(core *Core, device *device, sum *adoptionCounts) error {
	size := int(w.cfg.BlockSize)
	s := &truth{tokens: slices.Clone(w.past[w.rng.IntN(len(w.past))]), salt: uint64(w.rng.IntN(5) / 4)}
	for len(s.tokens) < size || w.chance(60) {
		s.tokens = append(s.tokens, int32(w.rng.IntN(vocabulary)))
	}
	blocks := len(s.tokens) / size
	before := len(core.Find(&schemas.KVFindRequest{Tokens: s.tokens, Salt: s.salt}).Blocks)
	first := []int{0, before, w.rng.IntN(blocks)}[w.rng.IntN(3)]
	if first >= blocks {
		return nil
	}
	count := 1 + w.rng.IntN(blocks-first)
	s.tokens = s.tokens[:(first+count)*size]
	available := int(core.pool.available())
	a, refused := core.adopt(&schemas.KVAdoptRequest{Tokens: s.tokens, Salt: s.salt, First: int32(first), Count: int32(count)})
	if refused != nil {
		return refused
	}
	want := max(0, first+count-max(first, before))
	if before < first {
		want = 0
	}
	switch got := int(a.reply.Adopted); {
	case got > want || got < min(want, available-before):
		return fmt.Errorf("%d blocks of [%d, %d) were adopted, with %d there and %d available", got, first, first+count, before, available)
	case got < want:
		sum.short++
	case want < count:
		sum.foundThere++
	}
	sum.adopted += int(a.reply.Adopted)
	if a.reply.Adopted > 0 && w.chance(20) {
		core.disown(a)
		sum.undone++
		return nil
	}
	content := digests(w, s, len(s.tokens))
	for i, b := range a.blocks {
		if b >= 0 {
			copy(device.kv[int(b)*size:][:size], content[(first+i)*size:])
		}
	}
	return nil
}

// find looks for a random prefix: what settled steps wrote is where the answer says.
func (w *world) find(core *Core, device *device, sum *adoptionCounts) error {
	if len(w.past) == 0 {
		return nil
	}
	s := &truth{tokens: slices.Clone(w.past[w.rng.IntN(len(w.past))]), salt: uint64(w.rng.IntN(5) / 4)}
	found := core.Find(&schemas.KVFindRequest{Tokens: s.tokens, Salt: s.salt})
	size := int(w.cfg.BlockSize)
	if found.Epoch != w.epoch || len(found.Blocks) > len(s.tokens)/size || found.Step > w.step {
		return fmt.Errorf("%+v for %d tokens", found, len(s.tokens))
	}
	content := digests(w, s, len(found.Blocks)*size)
	for i, b := range found.Blocks {
		if !slices.Equal(device.kv[int(b)*size:][:size], content[i*size:][:size]) {
			return fmt.Errorf("block %d does not hold block %d of the prefix", b, i)
		}
		sum.found++
	}
	return nil
}

// What an adoption cannot be is refused, and before the first step nothing is adopted, since that step forgets it.
func TestAdoptRefuses(t *testing.T) {
	core, err := NewCore(Config{Blocks: 8, BlockSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	for name, req := range map[string]schemas.KVAdoptRequest{
		"first":    {Tokens: schemas.I32{1, 2}, First: -1, Count: 1},
		"count":    {Tokens: schemas.I32{1, 2}, First: 1},
		"tokens":   {Tokens: schemas.I32{1, 2, 3}, Count: 1},
		"overflow": {Tokens: schemas.I32{1, 2}, First: 1<<31 - 1, Count: 1<<31 - 1},
	} {
		if _, err := core.adopt(&req); err == nil {
			t.Errorf("%s: %+v was adopted", name, req)
		}
	}
	if _, err := core.adopt(&schemas.KVAdoptRequest{Tokens: schemas.I32{1, 2}, Count: 1}); err == nil || err.Kind != schemas.KindUnsupported {
		t.Errorf("before the first step: %v", err)
	}
	if core, err = NewCore(Config{Blocks: 8, BlockSize: 2, PrefixCacheOff: true}); err != nil {
		t.Fatal(err)
	}
	if _, err := core.adopt(&schemas.KVAdoptRequest{Tokens: schemas.I32{1, 2}, Count: 1}); err == nil {
		t.Error("adopted without a prefix cache")
	}
}
