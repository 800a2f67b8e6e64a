package memory

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

var (
	seedsFlag = flag.Int("memory.seeds", 60, "random runs per pool")
	stepsFlag = flag.Int("memory.steps", 150, "steps of a random run")
	seedFlag  = flag.Uint64("memory.seed", 1, "first seed")
)

// TestRandom runs random schedulers against the core. After every step the invariants hold, the reply
// is the oracle's, and on a simulated device every sequence has exactly its own KV.
func TestRandom(t *testing.T) {
	for _, cfg := range []Config{
		{Blocks: 1, BlockSize: 4},
		{Blocks: 6, BlockSize: 1},
		{Blocks: 7, BlockSize: 2},
		{Blocks: 12, BlockSize: 3},
		{Blocks: 30, BlockSize: 2},
		{Blocks: 10, BlockSize: 2, PrefixCacheOff: true},
		{Blocks: 12, BlockSize: 2, Eviction: "fifo"},
		{Blocks: 12, BlockSize: 2, Eviction: "lfu"},
		{Blocks: 12, BlockSize: 2, Eviction: "priority"},
	} {
		t.Run(fmt.Sprintf("%dx%d,off=%v,%s", cfg.Blocks, cfg.BlockSize, cfg.PrefixCacheOff, cfg.Eviction), func(t *testing.T) {
			var total schemas.MemoryState
			for i := range *seedsFlag {
				addCounters(&total, randomRun(t, cfg, *seedFlag+uint64(i)))
			}
			t.Logf("hits %d/%d evictions %d copies %d preemptions %d",
				total.HitTokens, total.QueryTokens, total.Evictions, total.Copies, total.Preemptions)
			if cfg.Blocks > 6 && *seedsFlag >= 50 && (total.Preemptions == 0 || total.Copies == 0 ||
				!cfg.PrefixCacheOff && (total.HitTokens == 0 || total.Evictions == 0)) {
				t.Error("the runs left a mechanism out")
			}
		})
	}
}

func addCounters(sum, s *schemas.MemoryState) {
	sum.HitTokens += s.HitTokens
	sum.QueryTokens += s.QueryTokens
	sum.Evictions += s.Evictions
	sum.Copies += s.Copies
	sum.Preemptions += s.Preemptions
}

func randomRun(t *testing.T, cfg Config, seed uint64) *schemas.MemoryState {
	core, err := NewCore(cfg)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{rng: rand.New(rand.NewPCG(seed, 0)), cfg: cfg, epoch: 1, seqs: map[uint64]*truth{}}
	oracle, device := newOracle(cfg, 1), newDevice(cfg)
	known := router{keys: map[uint64]bool{}}
	for range *stepsFlag {
		req := w.request()
		fail := func(format string, args ...any) {
			t.Helper()
			t.Fatalf("seed %d, epoch %d step %d: %s\nrequest %+v\n(rerun with -memory.seed=%d -memory.seeds=1)",
				seed, req.Epoch, req.Step, fmt.Sprintf(format, args...), req, seed)
		}
		if w.rng.IntN(8) == 0 {
			if _, err := core.Reserve(w.spoil(req)); err == nil {
				fail("a malformed request was answered")
			}
		}
		if cfg.Eviction != "" && w.rng.IntN(20) == 0 {
			oracle.policy = Evictions()[w.rng.IntN(len(Evictions()))]
			if err := core.SetEviction(oracle.policy); err != nil {
				fail("%v", err)
			}
		}
		reply, rerr := core.Reserve(req)
		if rerr != nil {
			fail("%v", rerr)
		}
		if err := core.Check(); err != nil {
			fail("%v", err)
		}
		if err := known.follow(w.rng.IntN(4) == 0, core); err != nil {
			fail("%v", err)
		}
		if want := oracle.reserve(cfg, req); !reflect.DeepEqual(reply, want) {
			fail("reply  %+v\noracle %+v", reply, want)
		}
		if again, err := core.Reserve(req); err != nil || again != reply {
			fail("the repeat got %+v, %v", again, err)
		}
		w.apply(req, reply)
		if err := device.run(w, req, reply); err != nil {
			fail("%v", err)
		}
		if err := w.sameTables(core.State()); err != nil {
			fail("%v", err)
		}
	}
	return core.State()
}

// world is a random scheduler and what it knows: which tokens its sequences really have, and their
// block tables as the replies' changes tell them.
type world struct {
	rng   *rand.Rand
	cfg   Config
	epoch schemas.Epoch
	step  schemas.StepID
	ids   []uint64 // living sequences in order of admission
	seqs  map[uint64]*truth
	last  uint64
	past  [][]int32 // prompts to use again
}

type truth struct {
	tokens []int32 // prompt and output; grows when asked for
	prompt int
	known  int // what memory was told
	salt   uint64
	table  []int32
	placed int
}

const vocabulary = 2 // few tokens make many equal prefixes

func (w *world) token(s *truth, at int) int32 {
	for len(s.tokens) <= at {
		s.tokens = append(s.tokens, int32(w.rng.IntN(vocabulary)))
	}
	return s.tokens[at]
}

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

func (w *world) request() *schemas.ReserveRequest {
	if w.chance(1) {
		w.epoch++
		w.step, w.ids = 0, nil
		clear(w.seqs)
	}
	w.step += schemas.StepID(1 + w.rng.IntN(2))
	req := &schemas.ReserveRequest{Epoch: w.epoch, Step: w.step, TokensMax: int32(w.rng.IntN(12))}
	if w.chance(50) {
		req.TokensMax = 1000
	}
	w.release(req)
	w.learn(req)
	for len(w.ids) < 8 && w.chance(40) {
		w.admit(req)
	}
	w.rows(req)
	return req
}

func (w *world) release(req *schemas.ReserveRequest) {
	for _, id := range slices.Clone(w.ids) {
		if w.chance(8) {
			req.Release = append(req.Release, id)
			w.ids = slices.DeleteFunc(w.ids, func(other uint64) bool { return other == id })
			delete(w.seqs, id)
		}
	}
	if w.chance(5) {
		req.Release = append(req.Release, 1<<40) // never admitted
	}
}

func (w *world) learn(req *schemas.ReserveRequest) {
	for _, id := range w.ids {
		s := w.seqs[id]
		n := s.placed + 1 - s.known
		if w.chance(5) {
			n++ // ahead of its place
		}
		if n <= 0 || w.chance(30) || s.known+n > int(w.cfg.Blocks*w.cfg.BlockSize) {
			continue
		}
		n = 1 + w.rng.IntN(n)
		req.LearnSeq = append(req.LearnSeq, id)
		req.LearnCount = append(req.LearnCount, int32(n))
		for range n {
			req.LearnTokens = append(req.LearnTokens, w.token(s, s.known))
			s.known++
		}
	}
}

func (w *world) admit(req *schemas.ReserveRequest) {
	w.last++
	a := schemas.Admission{Seq: schemas.SeqID(w.last), Salt: uint64(w.rng.IntN(5) / 4), Priority: int32(w.rng.IntN(3) - 1)}
	if len(w.past) > 0 && w.chance(50) {
		a.Tokens = slices.Clone(w.past[w.rng.IntN(len(w.past))])
	}
	for len(a.Tokens) == 0 || w.chance(70) {
		a.Tokens = append(a.Tokens, int32(w.rng.IntN(vocabulary)))
	}
	if len(w.ids) > 0 && w.chance(40) {
		parent := w.seqs[w.ids[w.rng.IntN(len(w.ids))]]
		a.Fork = schemas.SeqID(w.ids[w.rng.IntN(len(w.ids))])
		if w.chance(80) {
			parent = w.seqs[uint64(a.Fork)]
		}
		a.Tokens, a.Salt = slices.Clone(parent.tokens[:parent.prompt]), parent.salt
	}
	req.Admit = append(req.Admit, a)
	w.past = append(w.past, a.Tokens)
	w.seqs[w.last] = &truth{tokens: slices.Clone(a.Tokens), prompt: len(a.Tokens), known: len(a.Tokens), salt: a.Salt}
	w.ids = append(w.ids, w.last)
}

func (w *world) rows(req *schemas.ReserveRequest) {
	for _, i := range w.rng.Perm(len(w.ids)) {
		s := w.seqs[w.ids[i]]
		if w.chance(20) {
			continue
		}
		want := []int{1, s.known - s.placed, w.rng.IntN(5), s.known}[w.rng.IntN(4)]
		if w.chance(1) {
			want = 1<<31 - 1
		}
		req.Seq = append(req.Seq, w.ids[i])
		req.WantMax = append(req.WantMax, int32(max(0, want)))
		req.MayPreempt = append(req.MayPreempt, byte(w.rng.IntN(2)))
	}
	for _, i := range w.rng.Perm(len(w.ids)) {
		if w.chance(60) {
			req.Victims = append(req.Victims, w.ids[i])
		}
	}
	if w.chance(10) {
		req.Victims = append(req.Victims, req.Victims...)
		req.Victims = append(req.Victims, 1<<40)
	}
}

// spoil returns req with one thing wrong.
func (w *world) spoil(req *schemas.ReserveRequest) *schemas.ReserveRequest {
	bad := *req
	bad.Seq, bad.WantMax, bad.MayPreempt = slices.Clone(req.Seq), slices.Clone(req.WantMax), slices.Clone(req.MayPreempt)
	switch w.rng.IntN(6) {
	case 0:
		bad.TokensMax = -1
	case 1:
		bad.WantMax = append(bad.WantMax, 1)
	case 2:
		bad.Step = 0
	case 3:
		bad.LearnTokens = append(slices.Clone(req.LearnTokens), 1)
	case 4:
		bad.Admit = append(slices.Clone(req.Admit), schemas.Admission{Seq: 1 << 40})
	default:
		bad.Seq = append(bad.Seq, 1<<40)
		bad.WantMax, bad.MayPreempt = append(bad.WantMax, 1), append(bad.MayPreempt, 1)
	}
	return &bad
}

// apply follows the reply as the scheduler and the device do.
func (w *world) apply(req *schemas.ReserveRequest, reply *schemas.ReserveReply) {
	for _, id := range reply.Preempted {
		w.seqs[id].table, w.seqs[id].placed = nil, 0
	}
	blocks := reply.Blocks
	for i, id := range req.Seq {
		s, n := w.seqs[id], reply.BlockCount[i]
		s.table = append(slices.Clone(s.table[:reply.BlockFrom[i]]), blocks[:n]...)
		blocks = blocks[n:]
		s.placed = int(reply.Start[i] + reply.Granted[i])
	}
}

// sameTables compares the tables followed by apply with the core's own.
func (w *world) sameTables(state *schemas.MemoryState) error {
	if int(state.Seqs) != len(w.ids) {
		return fmt.Errorf("core knows %d sequences, the scheduler %d", state.Seqs, len(w.ids))
	}
	for _, table := range state.Tables {
		s := w.seqs[uint64(table.Seq)]
		if int(table.Placed) != s.placed || !slices.Equal(table.Blocks, s.table) {
			return fmt.Errorf("sequence %s: core has %d tokens in %v, by the replies %d in %v",
				table.Seq, table.Placed, table.Blocks, s.placed, s.table)
		}
	}
	return nil
}
