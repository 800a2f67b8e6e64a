package compute

import (
	"fmt"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// Observer sees the logits of every token of every step, before the step's result is sent: for
// verification. logits[i] belongs to position start+i of the sequence, and is only valid during the call.
type Observer func(seq schemas.SeqID, start int32, logits [][]float32)

// executor owns the device: only its goroutine launches work.
type executor struct {
	dev     gpu.Device
	model   *model.Model
	tables  *tables
	batch   batch
	tokens  []int32 // sampled, downloaded
	observe Observer

	epoch   schemas.Epoch
	newest  atomic.Uint64 // epoch of the plan queued last
	idleAt  time.Time     // when the device last had nothing to do; zero before the first step
	queue   chan *schemas.StepPlan
	results chan *schemas.StepResult
}

// run executes plans until the queue closes.
func (x *executor) run() {
	defer close(x.results)
	for plan := range x.queue {
		x.results <- x.step(plan)
	}
}

// step executes one plan. A panic of the model or a kernel on this plan's data becomes the step's error:
// the scheduler recomputes what can be recomputed.
func (x *executor) step(p *schemas.StepPlan) (r *schemas.StepResult) {
	began := time.Now()
	r = &schemas.StepResult{Epoch: p.Epoch, Step: p.Step, Ledger: schemas.Ledger{Steps: 1}}
	if !x.idleAt.IsZero() {
		r.Ledger.Idle = began.Sub(x.idleAt).Nanoseconds()
	}
	defer func() {
		if cause := recover(); cause != nil {
			r.Error = schemas.Errorf(schemas.KindInternal, "execute", "panic: %v", cause).WithHint("this is a bug in the model or a kernel")
		}
		if r.Error != nil {
			r.Error.Step, r.Row, r.Token = p.Step, nil, nil
		}
		x.idleAt = time.Now()
		r.Ledger.Device = x.idleAt.Sub(began).Nanoseconds() - r.Ledger.Upload
	}()
	if newest := schemas.Epoch(x.newest.Load()); p.Epoch < newest {
		r.Error = epochOver(p, newest) // nobody waits for it, but for those behind it
		return r
	}
	if p.Epoch != x.epoch {
		x.tables.reset()
		x.epoch = p.Epoch
	}
	if err := x.tables.validate(p, x.model.Spec().VocabSize); err != nil {
		r.Error = err
		return r
	}
	if err := x.upload(p); err != nil {
		r.Error = schemas.AsError(err, "upload")
		return r
	}
	r.Ledger.Upload = time.Since(began).Nanoseconds()
	if err := x.forward(p); err != nil {
		r.Error = schemas.AsError(err, "forward")
		return r
	}
	r.Row = append(schemas.I32(nil), x.batch.rows...)
	r.Token = append(schemas.I32(nil), x.tokens...)
	return r
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
	x.tables.apply(p)
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

// forward runs the model, samples and downloads the tokens.
func (x *executor) forward(p *schemas.StepPlan) error {
	logits, err := x.model.Forward(&x.batch.input)
	if err != nil {
		return err
	}
	x.tokens = x.tokens[:0]
	if x.observe != nil {
		return x.observed(p, logits)
	}
	if len(x.batch.rows) == 0 {
		return x.dev.Sync()
	}
	return x.sample(logits, x.batch.params)
}

func (x *executor) sample(logits gpu.Tensor, params []gpu.SampleParams) error {
	ids, err := x.model.Sample(params, logits)
	if err != nil {
		return err
	}
	at := len(x.tokens)
	x.tokens = append(x.tokens, make([]int32, len(params))...)
	return x.dev.Download(bytesOf(x.tokens[at:]), ids)
}

// observed shows all logits to the observer and samples from the rows that the plan marks.
func (x *executor) observed(p *schemas.StepPlan, logits gpu.Tensor) error {
	rows, vocab := logits.Dims[0], logits.Dims[1]
	flat := make([]float32, rows*vocab)
	if err := x.dev.Download(bytesOf(flat), logits); err != nil {
		return err
	}
	row, sampling := 0, 0
	for i := range p.Seq {
		seen := make([][]float32, p.Count[i])
		for j := range seen {
			seen[j] = flat[(row+j)*vocab : (row+j+1)*vocab]
		}
		row += len(seen)
		x.observe(schemas.SeqID(p.Seq[i]), p.Start[i], seen)
		if p.Sample[i] == 1 {
			if err := x.sample(logits.Slice(row-1, row), x.batch.params[sampling:sampling+1]); err != nil {
				return err
			}
			sampling++
		}
	}
	if row != rows {
		return fmt.Errorf("compute: %d rows of logits for %d tokens", rows, row)
	}
	return nil
}

// bytesOf views numbers as the device's little-endian bytes. All platforms with a device are
// little-endian.
func bytesOf[T int32 | float32](v []T) []byte {
	if len(v) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), 4*len(v))
}
