package scheduler

import (
	"fmt"
	"hash/fnv"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/actors/memory"
	"github.com/troupe-engine/troupe/schemas"
)

// world is everything around a scheduler core: the real memory core and a device that keeps, instead of
// keys and values, the token ids that were written. The token it "samples" is a function of the tokens it
// finds by following the block tables, so a wrong block, position or copy changes the answer.
type world struct {
	t      testing.TB
	cfg    Config
	core   *Core
	memory *memory.Core
	device fakeDevice
	queue  []*schemas.StepPlan // planned, not finished
	now    int64

	answers map[schemas.SeqID]*answer
	journal func(*schemas.SchedulerStep) // nil: nobody listens
	breaks  func(*schemas.StepPlan) bool // says which steps the device fails; nil: none

	policy    func(*Question) *schemas.RankOutcome // answers for policies in other processes; nil: nobody does
	questions []*Question                          // that wait for nobody

	asked, waited int // answers to questions that waited for nobody, and to others
}

// answer has a policy in another process answer.
func (w *world) answer(q *Question) *schemas.RankOutcome {
	if w.policy == nil {
		return &schemas.RankOutcome{Number: q.Request.Number, Error: schemas.Errorf(schemas.KindUnavailable, "test", "nobody answers"), Shadow: q.Shadow}
	}
	o := w.policy(q)
	o.Shadow = q.Shadow
	return o
}

// answerOne delivers the outcome of the oldest question.
func (w *world) answerOne() {
	w.t.Helper()
	q := w.questions[0]
	w.questions = w.questions[1:]
	o := w.answer(q)
	if o.Shadow {
		w.core.ShadowRanked(w.now, o)
		return
	}
	w.event(Ranked{o})
}

// step steps the core and, as the shell does, journals that.
func (w *world) step(e Event) Effects {
	fx := w.core.Step(w.now, e)
	if w.journal != nil {
		w.journal(JournalOf(w.now, e, &fx))
	}
	return fx
}

// answer is what a sequence has emitted.
type answer struct {
	request *schemas.SubmitRequest
	tokens  []int32
	finish  schemas.FinishReason
	ends    int
	err     *schemas.Error
}

const (
	worldVocab = 997
	worldEnd   = 7 // a stop token the fake model samples now and then
)

func newWorld(t testing.TB, cfg Config) *world {
	t.Helper()
	if cfg.Policy == "" {
		cfg.Policy = "fcfs"
	}
	cfg.VocabSize, cfg.RecoveriesMax, cfg.RecentlyDoneMax = worldVocab, 2, 64
	core, err := NewCore(cfg, 1)
	if err != nil {
		t.Fatal(err)
	}
	mem, err := memory.NewCore(memory.Config{Blocks: cfg.Blocks, BlockSize: cfg.BlockSize, PrefixCacheOff: cfg.PrefixCacheOff})
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, cfg: cfg, core: core, memory: mem, answers: map[schemas.SeqID]*answer{},
		device: fakeDevice{size: cfg.BlockSize, pool: make([]int32, cfg.Blocks*cfg.BlockSize), tables: make([][]int32, cfg.SequencesMax),
			last: make([]int32, cfg.SequencesMax), seeds: make([]uint64, cfg.SequencesMax)}}
}

// event steps the core and performs the effects as the shell does. It returns the plans it queued.
func (w *world) event(e Event) (first Effects, plans []*schemas.StepPlan) {
	w.t.Helper()
	fx := w.step(e)
	first = fx
	w.take(fx.Emit)
	w.questions = append(w.questions, fx.later()...)
	for rounds := 0; fx.Reserve != nil || fx.Execute != nil || fx.waits(); rounds++ {
		if rounds > 100 {
			w.t.Fatal("the core asks again and again without getting on")
		}
		switch {
		case fx.Reserve != nil:
			reply, err := w.memory.Reserve(fx.Reserve)
			if err != nil {
				w.t.Fatalf("memory refused: %v", err)
			}
			if err := w.memory.Check(); err != nil {
				w.t.Fatalf("memory: %v", err)
			}
			fx = w.step(Granted{reply})
		case fx.Execute != nil:
			plans = append(plans, fx.Execute)
			w.queue = append(w.queue, fx.Execute)
			fx = w.step(More{})
		default:
			fx = w.step(Ranked{w.answer(fx.Rank)})
		}
		w.take(fx.Emit)
		w.questions = append(w.questions, fx.later()...)
	}
	if err := w.core.Check(); err != nil {
		w.t.Fatalf("after %T: %v", e, err)
	}
	return first, plans
}

func (w *world) take(rows []Emission) {
	w.t.Helper()
	for _, e := range rows {
		a := w.answers[e.Seq]
		if a == nil || a.ends > 0 {
			w.t.Fatalf("row for sequence %s, which is unknown or has ended: %+v", e.Seq, e)
		}
		if int(e.Index) != len(a.tokens) {
			w.t.Fatalf("sequence %s: row has index %d after %d tokens", e.Seq, e.Index, len(a.tokens))
		}
		if e.Token >= 0 {
			a.tokens = append(a.tokens, e.Token)
		}
		if a.finish = e.Finish; e.Finish != schemas.FinishNone {
			a.ends++
			a.err = e.Err
		}
	}
}

func (w *world) submit(r *schemas.SubmitRequest) *schemas.Error {
	w.t.Helper()
	// Tokens may come with the very same event.
	for i := range int(max(r.Choices, 0)) {
		if w.answers[r.Request.Seq(i)] == nil {
			w.answers[r.Request.Seq(i)] = &answer{request: r}
		}
	}
	fx, _ := w.event(Submitted{r})
	if (fx.Accepted == nil) == (fx.Refused == nil) {
		w.t.Fatalf("submit was neither accepted nor refused: %+v", fx)
	}
	if fx.Refused != nil {
		for i := range int(max(r.Choices, 0)) {
			delete(w.answers, r.Request.Seq(i))
		}
	}
	return fx.Refused
}

// finish runs the oldest queued step on the device and reports it.
func (w *world) finish() (*schemas.StepResult, []*schemas.StepPlan) {
	w.t.Helper()
	p := w.queue[0]
	w.queue = w.queue[1:]
	if w.breaks != nil && w.breaks(p) {
		w.queue = nil // what comes after a failed step of its epoch fails, too
		r := &schemas.StepResult{Epoch: p.Epoch, Step: p.Step, Error: schemas.Errorf(schemas.KindInternal, "forward", "it breaks")}
		_, plans := w.event(Done{r})
		return r, plans
	}
	r := w.device.run(w.t, p)
	_, plans := w.event(Done{r})
	return r, plans
}

// lose makes the engine forget all that is in flight.
func (w *world) lose() {
	w.t.Helper()
	w.queue = nil
	w.event(Lost{schemas.Errorf(schemas.KindUnavailable, "test", "lost")})
}

// drain finishes steps until nothing runs.
func (w *world) drain() {
	w.t.Helper()
	for steps := 0; len(w.queue) > 0; steps++ {
		if steps > 1_000_000 {
			w.t.Fatal("the engine does not come to an end")
		}
		w.finish()
	}
	w.event(Tick{})
	if len(w.queue) > 0 {
		w.drain()
	}
}

// check holds every answer to what the fake model says without any engine.
func (w *world) check() {
	w.t.Helper()
	for id, a := range w.answers {
		want, finish := expected(a.request, id.Choice(), w.core.contextMax)
		switch {
		case a.ends != 1:
			w.t.Fatalf("sequence %s ended %d times", id, a.ends)
		case a.finish == schemas.FinishCancel || a.finish == schemas.FinishError:
			if len(a.tokens) > len(want) || !slices.Equal(a.tokens, want[:len(a.tokens)]) {
				w.t.Fatalf("sequence %s: cut-off answer %v, want the beginning of %v", id, a.tokens, want)
			}
		case a.finish != finish || !slices.Equal(a.tokens, want):
			w.t.Fatalf("sequence %s: %v (%s), want %v (%s)", id, a.tokens, a.finish, want, finish)
		}
	}
	st := w.memory.State()
	if st.Used != 0 || st.Seqs != 0 || st.Free+st.Cached != st.Total {
		w.t.Fatalf("idle, but %d blocks are used by %d sequences; %d free, %d cached of %d", st.Used, st.Seqs, st.Free, st.Cached, st.Total)
	}
	if s := w.core.State(w.now); s.Running+s.Waiting+s.InFlight != 0 {
		w.t.Fatalf("idle, but %d run, %d wait, %d steps are in flight", s.Running, s.Waiting, s.InFlight)
	}
}

// expected is the answer of the fake model.
func expected(r *schemas.SubmitRequest, choice int, contextMax int32) ([]int32, schemas.FinishReason) {
	all := slices.Clone(r.Tokens)
	limit := min(r.MaxTokens, contextMax-int32(len(r.Tokens)))
	for n := int32(1); ; n++ {
		t := sample(all, r.Sampling.Seed+uint64(choice))
		all = append(all, t)
		switch {
		case n > r.MinTokens && slices.Contains(r.StopTokens, t):
			return all[len(r.Tokens):], schemas.FinishStop
		case n == limit:
			return all[len(r.Tokens):], schemas.FinishLength
		}
	}
}

// sample is the fake model: the token after a text.
func sample(text []int32, seed uint64) int32 {
	h := fnv.New64a()
	fmt.Fprint(h, text, seed)
	v := h.Sum64()
	if v%16 == 0 {
		return worldEnd
	}
	return int32(v>>8) & 0x7fffffff % worldVocab
}

// fakeDevice executes plans on token ids.
type fakeDevice struct {
	size   int32
	pool   []int32 // by place: block * size + offset
	tables [][]int32
	last   []int32
	seeds  []uint64
	epoch  schemas.Epoch
	step   schemas.StepID
}

func (d *fakeDevice) run(t testing.TB, p *schemas.StepPlan) *schemas.StepResult {
	t.Helper()
	if p.Epoch == d.epoch && p.Step <= d.step {
		t.Fatalf("step %d comes after step %d", p.Step, d.step)
	}
	d.epoch, d.step = p.Epoch, p.Step
	before := slices.Clone(d.pool) // copies may be made in any order
	for i := 0; i < len(p.Copies); i += 2 {
		from, to := p.Copies[i]*d.size, p.Copies[i+1]*d.size
		copy(d.pool[to:to+d.size], before[from:from+d.size])
	}
	for i, slot := range p.InitSlot {
		d.seeds[slot] = p.InitSeed[i]
	}
	tokens, blocks := p.Tokens, p.Blocks
	for i, slot := range p.Slot {
		d.tables[slot] = append(d.tables[slot][:p.BlockFrom[i]], blocks[:p.BlockCount[i]]...)
		blocks = blocks[p.BlockCount[i]:]
		row := []int32{d.last[slot]}
		if p.Known[i] > 0 {
			row, tokens = tokens[:p.Known[i]], tokens[p.Known[i]:]
		}
		if int(p.Count[i]) != len(row) {
			t.Fatalf("row %d has %d tokens and count %d", i, len(row), p.Count[i])
		}
		for j, token := range row {
			d.pool[d.place(slot, p.Start[i]+int32(j))] = token
		}
	}
	r := &schemas.StepResult{Epoch: p.Epoch, Step: p.Step}
	for i, slot := range p.Slot {
		if p.Sample[i] == 0 {
			continue
		}
		var text []int32
		for pos := range p.Start[i] + p.Count[i] {
			text = append(text, d.pool[d.place(slot, pos)])
		}
		d.last[slot] = sample(text, d.seeds[slot])
		r.Row = append(r.Row, int32(i))
		r.Token = append(r.Token, d.last[slot])
	}
	return r
}

func (d *fakeDevice) place(slot, pos int32) int32 {
	return d.tables[slot][pos/d.size]*d.size + pos%d.size
}
