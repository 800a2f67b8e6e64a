package compute

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// Observer sees the logits of every token of every step, before the step's result is sent: for
// verification. logits[i] belongs to position start+i of the sequence, and is only valid during the call.
type Observer func(seq schemas.SeqID, start int32, logits [][]float32)

// executor launches steps: only its goroutine uses the device. It does not wait for a step before it launches the next
// one, unless a sequence's rules depend on the token before; the steps' tokens are read in order by whoever takes launched
// steps and calls finish.
type executor struct {
	dev     gpu.Device
	model   *model.Model
	guides  *guides
	mu      sync.Mutex // guards epoch and tables against try; only this goroutine changes them
	tables  *tables
	batch   batch
	observe Observer

	synchronous bool // the device is done when launch returns

	suffers  func() time.Duration // asked for every step: by how much the device is to be slower; nil: never
	stopping <-chan struct{}      // ends such waits
	loses    func() bool          // asked for every step: whether the device is to be lost; nil: never
	lost     bool                 // it said so

	spoiled   schemas.Epoch  // steps of this epoch and of earlier ones fail …
	spoiledBy *schemas.Error // … because of this; nil: they do not

	epoch  schemas.Epoch
	newest atomic.Uint64 // epoch of the plan queued last
	failed atomic.Uint64 // one more than the last epoch of which a step failed
	queue  chan *schemas.StepPlan
	jobs   chan job
	done   struct { // of the steps that were launched
		plans uint64 // how many
		epoch schemas.Epoch
		step  schemas.StepID // the last
	}
	launched chan *launch
	running  sync.WaitGroup // launched steps that are not finished

	idleAt time.Time // when the device last had nothing to do; zero before the first step. Owned by finish
}

// launch is a step on the device: what it will yield, and how to read it.
type launch struct {
	result  *schemas.StepResult
	began   time.Time
	ready   time.Time   // its inputs were on their way to the device
	done    time.Time   // zero: when its results have been read
	tokens  gpu.Fetched // [len(rows)] I32; nil if none
	rows    []int32     // plan rows that sampled a token
	ruled   []*ruled    // of them; empty if none has rules
	plan    *schemas.StepPlan
	reports []report
	wait    func() error // for a step that yields nothing to read
}

// run launches plans, and does jobs between them, until the queue closes.
func (x *executor) run() {
	defer close(x.launched)
	var waiting []job
	for {
		waiting = x.doJobs(waiting)
		select {
		case j := <-x.jobs:
			waiting = append(waiting, j)
		case plan, more := <-x.queue:
			for range len(x.jobs) { // those that were queued before the plan
				waiting = append(waiting, <-x.jobs)
			}
			waiting = x.doJobs(waiting)
			if !more {
				for _, j := range waiting {
					j.do()
				}
				return
			}
			x.launched <- x.start(plan)
			x.done.plans, x.done.epoch, x.done.step = x.done.plans+1, plan.Epoch, plan.Step
		}
	}
}

// start launches a plan; finish must follow.
func (x *executor) start(p *schemas.StepPlan) *launch {
	l := x.launch(p)
	if x.synchronous { // who reads the results may be late: the device's threads can have all processors
		l.done = time.Now()
	}
	x.running.Add(1)
	x.noteFailure(l.result)
	return l
}

// launch starts one plan. A panic of the model or a kernel on this plan's data becomes the step's error:
// the scheduler recomputes what can be recomputed.
func (x *executor) launch(p *schemas.StepPlan) (l *launch) {
	l = &launch{began: time.Now(), plan: p,
		result: &schemas.StepResult{Epoch: p.Epoch, Step: p.Step, Ledger: schemas.Ledger{Steps: 1}}}
	l.ready = l.began
	fail := func(err *schemas.Error) { l.result.Error = err }
	defer recoverInto(l.result)
	if newest := schemas.Epoch(x.newest.Load()); p.Epoch < newest {
		fail(epochOver(p, newest)) // nobody waits for it, but for those behind it
		return l
	}
	if p.Epoch != x.epoch {
		x.mu.Lock()
		x.tables.reset()
		x.epoch = p.Epoch
		x.mu.Unlock()
	}
	if x.spoiledBy != nil && p.Epoch <= x.spoiled {
		failed := *x.spoiledBy
		fail(&failed)
		return l
	}
	if err := x.tables.validate(p, x.model.Spec().VocabSize); err != nil {
		fail(err)
		return l
	}
	if err := x.upload(p); err != nil {
		fail(x.trouble(p, "upload", err))
		return l
	}
	l.ready = time.Now()
	x.slow()
	err := x.fault()
	if err == nil {
		err = x.forward(p, l)
	}
	if err != nil {
		fail(x.trouble(p, "forward", err))
	}
	return l
}

// slow makes a step take longer where that was asked for: once the device has nothing else to do, as if it were at work.
func (x *executor) slow() {
	if x.suffers == nil {
		return
	}
	delay := x.suffers()
	if delay == 0 {
		return
	}
	x.running.Wait()
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-x.stopping:
	}
}

func recoverInto(r *schemas.StepResult) {
	if cause := recover(); cause != nil {
		r.Error = schemas.Errorf(schemas.KindInternal, "execute", "panic: %v", cause).WithHint("this is a bug in the model or a kernel")
	}
}

func epochOver(p *schemas.StepPlan, now schemas.Epoch) *schemas.Error {
	err := schemas.Errorf(schemas.KindInvalid, "execute", "epoch %d is over; the current one is %d", p.Epoch, now).WithParam("epoch")
	err.Step = p.Step
	return err
}

// upload brings block tables and copies to the device and prepares the batch.
func (x *executor) upload(p *schemas.StepPlan) error {
	if err := x.model.CopyBlocks(p.Copies); err != nil {
		return err
	}
	x.mu.Lock()
	x.tables.apply(p, x.guides, x.model.Spec().VocabSize)
	x.mu.Unlock()
	next := int32(0)
	for i, slot := range p.Slot {
		n := p.BlockCount[i]
		if err := x.model.SetBlocks(int(slot), int(p.BlockFrom[i]), p.Blocks[next:next+n]); err != nil {
			return err
		}
		next += n
	}
	x.batch.fill(x.tables, p, x.observe != nil)
	return nil
}

// forward launches the model, the sampler and the copies of what they yield.
func (x *executor) forward(p *schemas.StepPlan, l *launch) error {
	b := &x.batch
	logits, err := x.model.Forward(&b.input)
	if err != nil {
		return err
	}
	if x.observe != nil {
		return x.observed(p, l, logits)
	}
	if err := x.reportPrompts(l, logits); err != nil {
		return err
	}
	if err := x.embed(l); err != nil {
		return err
	}
	if len(b.rows) == 0 {
		l.wait = x.dev.Sync
		return nil
	}
	l.rows, l.ruled = append(l.rows, b.rows...), append(l.ruled, b.ruled...)
	logits = logits.Slice(0, len(b.rows))
	var kept gpu.Tensor
	if b.reporting > 0 {
		if kept, err = x.model.KeepLogits(logits.Slice(0, int(b.reporting))); err != nil {
			return err
		}
	}
	if err := x.applyRules(logits); err != nil {
		return err
	}
	ids, err := x.model.Sample(b.params, logits)
	if err != nil {
		return err
	}
	if l.tokens, err = x.dev.Fetch(ids); err != nil {
		return err
	}
	return x.reportTokens(l, kept, ids)
}

// applyRules changes the logits of rows with rules. These depend on the tokens before, so all earlier steps must be finished;
// meanwhile the device runs the model.
func (x *executor) applyRules(logits gpu.Tensor) error {
	if len(x.batch.ruled) == 0 {
		return nil
	}
	x.running.Wait()
	edit := gpu.EditLogits{Logits: logits}
	for row, r := range x.batch.ruled {
		if r != nil {
			r.apply(int32(row), &edit)
		}
	}
	return x.model.EditLogits(&edit)
}

// finish waits for a launched step and completes its result. It is called for every launched step, in order.
func (x *executor) finish(l *launch) *schemas.StepResult {
	defer x.running.Done()
	r := l.result
	if r.Error == nil {
		x.read(l)
	}
	if r.Error != nil {
		x.noteFailure(r)
		r.Error.Step = r.Step
		r.Row, r.Token, r.Logprobs, r.Embeddings, r.Failed = nil, nil, nil, nil, nil
	}
	done := l.done
	if done.IsZero() {
		done = time.Now()
	}
	if x.idleAt.IsZero() {
		x.idleAt = l.began
	}
	// What the host did while the device was busy with the step before costs nothing.
	start := later(l.began, x.idleAt)
	ready := later(l.ready, start)
	r.Ledger.Idle, r.Ledger.Upload, r.Ledger.Device = start.Sub(x.idleAt).Nanoseconds(), ready.Sub(start).Nanoseconds(), done.Sub(ready).Nanoseconds()
	x.idleAt = done
	r.BeganNs, r.DoneNs = l.began.UnixNano(), done.UnixNano()
	return r
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// read takes what the device yields into the result.
func (x *executor) read(l *launch) {
	defer recoverInto(l.result)
	if err := x.await(l); err != nil {
		l.result.Error = x.trouble(l.plan, "read", err)
	}
}

// await waits for what a step yields and puts it into the plan's order.
func (x *executor) await(l *launch) error {
	if l.wait != nil {
		if err := l.wait(); err != nil {
			return err
		}
	}
	tokens := make([]int32, len(l.rows))
	if l.tokens != nil {
		if err := l.tokens.Wait(bytesOf(tokens)); err != nil {
			return err
		}
	}
	for i := range l.reports {
		if err := l.reports[i].read(l.result); err != nil {
			return err
		}
	}
	r := l.result
	for i, row := range l.rows {
		token := tokens[i]
		if len(l.ruled) > 0 && l.ruled[i] != nil {
			token = l.ruled[i].take(token, schemas.SeqID(l.plan.Seq[row]), r)
		}
		r.Row, r.Token = append(r.Row, row), append(r.Token, token)
	}
	for _, e := range r.Embeddings {
		r.Row, r.Token = append(r.Row, e.Row), append(r.Token, 0)
	}
	sortRows(r.Row, r.Token)
	return nil
}

// observed shows all logits to the observer and samples from the rows that the plan marks.
func (x *executor) observed(p *schemas.StepPlan, l *launch, logits gpu.Tensor) error {
	rows, vocab := logits.Dims[0], logits.Dims[1]
	flat := make([]float32, rows*vocab)
	if err := x.dev.Download(bytesOf(flat), logits); err != nil {
		return err
	}
	row, last := 0, []int32(nil)
	for i := range p.Seq {
		seen := make([][]float32, p.Count[i])
		for j := range seen {
			seen[j] = flat[(row+j)*vocab : (row+j+1)*vocab]
		}
		row += len(seen)
		x.observe(schemas.SeqID(p.Seq[i]), p.Start[i], seen)
		if p.Sample[i] == schemas.SampleToken {
			last = append(last, int32(row-1))
		}
	}
	if row != rows {
		return fmt.Errorf("compute: %d rows of logits for %d tokens", rows, row)
	}
	if len(last) == 0 {
		return nil
	}
	sampled, err := x.model.Rows(logits, last)
	if err != nil {
		return err
	}
	ids, err := x.model.Sample(x.batch.params, sampled)
	if err != nil {
		return err
	}
	l.rows = append(l.rows, x.batch.rows...)
	l.tokens, err = x.dev.Fetch(ids)
	return err
}
