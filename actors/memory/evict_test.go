package memory

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// serve runs prompts one after the other through a pool and returns how many blocks were found.
func serve(t *testing.T, cfg Config, prompts [][]int32, began func(i int)) uint64 {
	t.Helper()
	core, err := NewCore(cfg)
	if err != nil {
		t.Fatal(err)
	}
	for i, tokens := range prompts {
		began(i)
		id := schemas.SeqID(i + 1)
		req := &schemas.ReserveRequest{Epoch: 1, Step: schemas.StepID(2*i + 1), TokensMax: 1 << 20, Admit: []schemas.Admission{{Seq: id, Tokens: tokens}},
			Seq: schemas.U64{uint64(id)}, WantMax: schemas.I32{int32(len(tokens))}, MayPreempt: schemas.U8{0}}
		if i > 0 {
			req.Release = schemas.U64{uint64(id - 1)}
		}
		reply, rerr := core.Reserve(req)
		if rerr != nil || reply.Granted[0] == 0 {
			t.Fatalf("request %d: %v, %+v", i, rerr, reply)
		}
		if err := core.Check(); err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		// The step has run: what it computed can be found.
		if _, rerr := core.Reserve(&schemas.ReserveRequest{Epoch: 1, Step: schemas.StepID(2*i + 2)}); rerr != nil {
			t.Fatal(rerr)
		}
	}
	return core.State().HitTokens / uint64(cfg.BlockSize)
}

// script knows when prefixes are wanted: the requests that have each key, in order.
type script struct {
	uses map[uint64][]int
	now  int
}

func (s *script) NextUse(key uint64) int64 {
	for _, at := range s.uses[key] {
		if at > s.now {
			return int64(at)
		}
	}
	return math.MaxInt64
}

// treePrompts are paths through a tree of blocks, as conversations are: popular ones come often.
func treePrompts(seed uint64, n int, size int32) ([][]int32, *script) {
	rng := rand.New(rand.NewPCG(seed, 0))
	future := &script{uses: map[uint64][]int{}}
	var prompts [][]int32
	for i := range n {
		var tokens []int32
		key := schemas.FirstPrefixKey(0)
		for depth := 0; depth == 0 || depth < 6 && rng.IntN(4) > 0; depth++ {
			child := int32(rng.IntN(1 + rng.IntN(4)))
			block := make([]int32, size)
			for j := range block {
				block[j] = child
			}
			tokens = append(tokens, block...)
			key = schemas.PrefixKey(key, block)
			future.uses[key] = append(future.uses[key], i)
		}
		prompts = append(prompts, append(tokens, 9)) // the last token is never taken over
	}
	return prompts, future
}

// TestNoPolicyBeatsBelady, and in a pool that holds everything all are the same.
func TestNoPolicyBeatsBelady(t *testing.T) {
	const size = 2
	sums := map[string]uint64{}
	for seed := range uint64(40) {
		prompts, future := treePrompts(seed, 120, size)
		run := func(policy string, blocks int32) uint64 {
			return serve(t, Config{Blocks: blocks, BlockSize: size, Eviction: policy, Future: future}, prompts, func(i int) { future.now = i })
		}
		best, all := run(belady, 14), run(belady, 4000)
		for _, policy := range Evictions() {
			got := run(policy, 14)
			sums[policy] += got
			if got > best {
				t.Errorf("seed %d: %s finds %d blocks, Belady %d", seed, policy, got, best)
			}
			if full := run(policy, 4000); full != all {
				t.Errorf("seed %d: %s finds %d blocks without need to evict, Belady %d", seed, policy, full, all)
			}
		}
		sums[belady] += best
	}
	t.Logf("blocks found: %v", sums)
	if sums[belady] <= sums["lru"] || sums["lru"] == sums["fifo"] || sums["lru"] == sums["lfu"] {
		t.Errorf("the policies do not differ as they should: %v", sums)
	}
}

func TestEvictionsThatCannotBe(t *testing.T) {
	core, err := NewCore(Config{Blocks: 4, BlockSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "clock", belady, strings.Repeat("x", 1000)} {
		if err := core.SetEviction(name); err == nil || len(err.Error()) > 200 {
			t.Errorf("%.20q: %v", name, err)
		}
	}
	if core.Eviction() != "lru" || slices.Contains(Evictions(), belady) {
		t.Errorf("%s of %v", core.Eviction(), Evictions())
	}
	if _, err := NewCore(Config{Blocks: 4, BlockSize: 2, Eviction: belady}); err == nil || !strings.Contains(err.Error(), "future") {
		t.Errorf("got %v", err)
	}
}

// BenchmarkEvict replaces blocks one by one in a full pool of 2^17.
func BenchmarkEvict(b *testing.B) {
	for _, policy := range Evictions() {
		b.Run(policy, func(b *testing.B) {
			p := newPool(Config{Blocks: 1 << 17, BlockSize: 1, Eviction: policy}, 1, &changes{})
			fill := func(token int32) {
				block := p.alloc()
				p.name(block, noName, 0, []int32{token}, token%7)
				p.drop(block)
			}
			for i := range int32(1 << 17) {
				fill(i)
			}
			b.ReportAllocs()
			i := int32(1 << 17)
			for b.Loop() {
				fill(i)
				i++
			}
		})
	}
}
