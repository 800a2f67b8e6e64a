package memory

import (
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// TestCollision puts everything under one hash: names still match only the same tokens after the same
// prefix with the same salt, and none that lost its prefix.
func TestCollision(t *testing.T) {
	const hash = 42
	x := newPrefixIndex(8, 2, 0, &changes{})
	a := x.add(0, noName, 0, hash, []int32{1, 2}, 0)
	b := x.add(1, noName, 0, hash, []int32{1, 3}, 0)
	salted := x.add(2, noName, 5, hash, []int32{1, 2}, 0)
	ab := x.add(3, a, 0, hash, []int32{1, 2}, 0)
	bb := x.add(4, b, 0, hash, []int32{1, 2}, 0)
	check := func(want, parent nameID, salt uint64, tokens ...int32) {
		t.Helper()
		if got := x.find(parent, salt, hash, tokens); got != want {
			t.Errorf("%v after %d with salt %d: name %d, want %d", tokens, parent, salt, got, want)
		}
	}
	check(a, noName, 0, 1, 2)
	check(b, noName, 0, 1, 3)
	check(salted, noName, 5, 1, 2)
	check(ab, a, 0, 1, 2)
	check(bb, b, 0, 1, 2)
	check(noName, noName, 0, 2, 1)
	check(noName, salted, 5, 1, 2)

	// A policy that evicts a prefix before its end leaves a name that nothing may find, not even when
	// its parent's index is another prefix's.
	x.remove(a)
	if again := x.add(5, noName, 0, hash, []int32{7, 8}, 0); again != a {
		t.Fatalf("index %d is not reused", a)
	}
	check(noName, a, 0, 1, 2)
	check(bb, b, 0, 1, 2)
}

// TestCheckFindsDamage breaks each invariant once.
func TestCheckFindsDamage(t *testing.T) {
	for name, damage := range map[string]func(*Core){
		"holder":   func(c *Core) { c.pool.blocks[c.seqs[1].table[0]].refs++ },
		"free":     func(c *Core) { c.pool.free = append(c.pool.free, c.seqs[1].table[0]) },
		"leak":     func(c *Core) { c.pool.fresh++ },
		"twice":    func(c *Core) { c.seqs[1].table[1] = c.seqs[1].table[0] },
		"foreign":  func(c *Core) { c.seqs[1].table[0] = 99 },
		"placed":   func(c *Core) { c.seqs[1].placed += 2 },
		"computed": func(c *Core) { c.seqs[1].computed = 9 },
		"tokens":   func(c *Core) { c.seqs[1].prompt = []int32{1, 2, 3, 5, 5} },
		"salt":     func(c *Core) { c.seqs[1].salt++ },
		"unnamed":  func(c *Core) { c.pool.unname(c.seqs[1].table[0]) },
		"tail":     func(c *Core) { c.pool.blocks[c.seqs[1].table[2]].name = 1 },
		"policy":   func(c *Core) { c.pool.cached.next() },
		"orphan":   func(c *Core) { c.pool.prefix.names[c.pool.blocks[c.seqs[1].table[0]].name].serial++ },
		"twins":    func(c *Core) { c.pool.blocks[c.seqs[1].table[0]].twinPrev = 5 },
		"hash":     func(c *Core) { c.pool.prefix.seed++ },
		"scratch":  func(c *Core) { c.lost[3] = 1 },
	} {
		core, err := NewCore(Config{Blocks: 10, BlockSize: 2})
		if err != nil {
			t.Fatal(err)
		}
		for step := range 3 {
			req := &schemas.ReserveRequest{Step: schemas.StepID(step + 1), TokensMax: 100}
			switch step {
			case 0:
				req.Admit = []schemas.Admission{{Seq: 1, Tokens: schemas.I32{1, 2, 3, 4, 5}}, {Seq: 2, Tokens: schemas.I32{6, 7}}}
				req.Seq, req.WantMax, req.MayPreempt = schemas.U64{1, 2}, schemas.I32{5, 2}, schemas.U8{0, 0}
			case 1:
				req.Release = schemas.U64{2}
			}
			if _, err := core.Reserve(req); err != nil {
				t.Fatal(err)
			}
		}
		if err := core.Check(); err != nil {
			t.Fatal(err)
		}
		damage(core)
		if err := core.Check(); err == nil {
			t.Errorf("%s: damage not found", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

// TestStateIsBounded lists the first tables by id and counts the rest.
func TestStateIsBounded(t *testing.T) {
	core, err := NewCore(Config{Blocks: 4, BlockSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	req := &schemas.ReserveRequest{Step: 1}
	for i := range 100 {
		req.Admit = append(req.Admit, schemas.Admission{Seq: schemas.SeqID(1000 - i), Tokens: schemas.I32{1}})
	}
	if _, err := core.Reserve(req); err != nil {
		t.Fatal(err)
	}
	s := core.State()
	if len(s.Tables) != schemas.SeqStatesMax || s.MoreTables != 100-schemas.SeqStatesMax || s.Seqs != 100 {
		t.Errorf("%d tables, %d more of %d", len(s.Tables), s.MoreTables, s.Seqs)
	}
	if !slices.IsSortedFunc(s.Tables, func(a, b schemas.SeqTable) int { return int(a.Seq) - int(b.Seq) }) || s.Tables[0].Seq != 901 {
		t.Errorf("tables start with %s", s.Tables[0].Seq)
	}
}

// TestLearnIsBounded: memory keeps no more output than the pool has places for.
func TestLearnIsBounded(t *testing.T) {
	core, err := NewCore(Config{Blocks: 4, BlockSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	req := &schemas.ReserveRequest{Step: 1, Admit: []schemas.Admission{{Seq: 1, Tokens: schemas.I32{1, 2, 3}}}}
	for ; req.Step < 10; req.Step++ {
		if _, err := core.Reserve(req); err != nil {
			t.Fatal(err)
		}
		if n := core.seqs[1].known(); n > core.capacity() {
			t.Fatalf("%d tokens kept for %d places", n, core.capacity())
		}
		req = &schemas.ReserveRequest{Step: req.Step, LearnSeq: schemas.U64{1}, LearnCount: schemas.I32{3},
			LearnTokens: schemas.I32{4, 5, 6}}
	}
	if n := core.seqs[1].known(); n != core.capacity() {
		t.Errorf("%d tokens kept of more, want %d", n, core.capacity())
	}
}

// TestEverySequenceFinishes plays a first-come-first-served scheduler whose sequences need several
// times the pool together, each at most all of it. Preemption must not go in circles.
func TestEverySequenceFinishes(t *testing.T) {
	type running struct{ length, placed, known int }
	core, err := NewCore(Config{Blocks: 9, BlockSize: 4})
	if err != nil {
		t.Fatal(err)
	}
	req := &schemas.ReserveRequest{}
	seqs := map[uint64]*running{}
	var queue []uint64
	for id := uint64(1); id <= 12; id++ {
		prompt := make(schemas.I32, 1+id*5%17)
		for i := range prompt {
			prompt[i] = int32(i) + int32(id%2)
		}
		req.Admit = append(req.Admit, schemas.Admission{Seq: schemas.SeqID(id), Tokens: prompt})
		seqs[id] = &running{length: 36 - int(id), known: len(prompt)}
		queue = append(queue, id)
	}
	for len(queue) > 0 {
		if req.Step > 1000 {
			t.Fatalf("not finished: %v, state %+v", queue, core.State())
		}
		req.Step, req.TokensMax = req.Step+1, 16
		for _, id := range queue {
			req.Seq = append(req.Seq, id)
			req.WantMax = append(req.WantMax, int32(seqs[id].known-seqs[id].placed))
			req.MayPreempt = append(req.MayPreempt, 1)
			req.Victims = append(schemas.U64{id}, req.Victims...)
		}
		reply, rerr := core.Reserve(req)
		if rerr != nil {
			t.Fatal(rerr)
		}
		if err := core.Check(); err != nil {
			t.Fatal(err)
		}
		next := &schemas.ReserveRequest{Step: req.Step}
		for i, id := range req.Seq {
			s := seqs[id]
			s.placed = int(reply.Start[i] + reply.Granted[i])
			if reply.Granted[i] == 0 || s.placed < s.known {
				continue
			}
			if s.placed == s.length {
				next.Release = append(next.Release, id)
				queue = slices.DeleteFunc(queue, func(other uint64) bool { return other == id })
				continue
			}
			s.known++
			next.LearnSeq, next.LearnCount = append(next.LearnSeq, id), append(next.LearnCount, 1)
			next.LearnTokens = append(next.LearnTokens, int32(s.known))
		}
		req = next
	}
	s := core.State()
	t.Logf("%d steps: %+v", req.Step, s)
	if s.Preemptions == 0 || s.HitTokens == 0 {
		t.Error("the pool was not short")
	}
}
