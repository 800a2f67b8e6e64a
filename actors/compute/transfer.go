package compute

import (
	"fmt"
	"slices"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/handover"
	"github.com/troupe-engine/troupe/schemas"
)

// jobsMax bounds what waits to be done on a device between its steps: copies of KV blocks, which try again, and what choosersMax
// and one submission ask of kernels, which do not.
const jobsMax = 16

// job is done between two steps: when the steps that were queued before it are launched or, for one that only reads what no step
// changes, already after a step of an epoch.
type job struct {
	plans uint64 // queued before it, ever
	reads bool
	epoch schemas.Epoch
	step  schemas.StepID
	do    func()
}

// doJobs does the jobs whose time has come, and returns the others.
func (x *executor) doJobs(waiting []job) []job {
	return slices.DeleteFunc(waiting, func(j job) bool {
		due := x.done.plans >= j.plans || j.reads && x.done.epoch == j.epoch && x.done.step >= j.step
		if due {
			j.do()
		}
		return due
	})
}

// queueJob has a job done by the executor's goroutine. Called in the mailbox's turn.
func (a *Actor) queueJob(j job) *schemas.Error {
	j.plans = a.plans
	select {
	case a.exec.jobs <- j:
		return nil
	default:
		return schemas.Errorf(schemas.KindOverloaded, "wait for a step's end", "%d copies of KV and choices of kernels wait already", jobsMax)
	}
}

// blockPool is one layer's keys or values, and where its part of n blocks lies in their bytes outside of the device.
type blockPool struct {
	pool gpu.Tensor
	from int // byte
	size int // bytes of a block
}

// blockPools divides the bytes of n blocks among the pools, one after the other.
func (x *executor) blockPools(n int) (list []blockPool) {
	at := 0
	for _, pool := range x.model.KVPools() {
		size := pool.Slice(0, 1).Bytes()
		list = append(list, blockPool{pool, at, size})
		at += n * size
	}
	return list
}

// blockBytes is what a block takes over all pools.
func (x *executor) blockBytes() (bytes int) {
	for _, pool := range x.model.KVPools() {
		bytes += pool.Slice(0, 1).Bytes()
	}
	return bytes
}

// runs yields the stretches of neighbours in blocks: from index i on, n of them from block b on. Blocks below zero are left out.
func runs(blocks []int32, yield func(i, n, b int) error) error {
	for i := 0; i < len(blocks); {
		n := 1
		for i+n < len(blocks) && blocks[i+n] == blocks[i]+int32(n) {
			n++
		}
		if blocks[i] >= 0 {
			if err := yield(i, n, int(blocks[i])); err != nil {
				return err
			}
			i += n
			continue
		}
		i++
	}
	return nil
}

// export starts to copy blocks to dst, pool by pool. What it returns waits until they are there.
func (x *executor) export(blocks []int32, dst []byte) (wait func() error, err error) {
	type landing struct {
		fetched gpu.Fetched
		dst     []byte
	}
	var landings []landing
	own := x.dev.Info().OwnMemory
	for _, p := range x.blockPools(len(blocks)) {
		err := runs(blocks, func(i, n, b int) error {
			part, from := p.pool.Slice(b, b+n), dst[p.from+i*p.size:][:n*p.size]
			if !own { // launches are done when they return: nothing to wait for
				return x.dev.Download(from, part)
			}
			f, err := x.dev.Fetch(part)
			landings = append(landings, landing{f, from})
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return func() error {
		for _, l := range landings {
			if err := l.fetched.Wait(l.dst); err != nil {
				return err
			}
		}
		return nil
	}, nil
}

// fill copies count blocks, as export makes them, to blocks.
func (x *executor) fill(blocks []int32, count int, src handover.Payload) error {
	if src.Host == nil {
		to, from := x.pieces(blocks, src.Device)
		return x.dev.(gpu.Sharer).Copy(to, from)
	}
	for _, p := range x.blockPools(count) {
		err := runs(blocks, func(i, n, b int) error {
			return x.dev.Upload(p.pool.Slice(b, b+n), src.Host[p.from+i*p.size:][:n*p.size])
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// spoil makes all steps of an epoch fail: memory has told of blocks that do not hold what they should.
func (x *executor) spoil(epoch schemas.Epoch, why error) {
	x.spoiled, x.spoiledBy = epoch, schemas.AsError(why, "import")
}

// noteFailure remembers that a step has failed: its blocks have names already, until the scheduler begins a new epoch.
func (x *executor) noteFailure(r *schemas.StepResult) {
	if r.Error != nil {
		x.failed.Store(uint64(r.Epoch) + 1)
	}
}

// notYet says that a copy would come at a moment at which blocks may not hold what memory says.
func notYet() *schemas.Error {
	return schemas.Errorf(schemas.KindUnavailable, "copy KV", "steps that memory has granted are not queued yet, or more are")
}

// exportAfter has a copy of blocks started as the steps up to one of an epoch leave them, and waits for it.
func (a *Actor) exportAfter(epoch schemas.Epoch, step schemas.StepID, start func() (wait func() error, err error)) error {
	var wait func() error
	failed := a.doJob(job{reads: true, epoch: epoch, step: step}, func() *schemas.Error {
		if a.epoch != epoch || a.step < step {
			return notYet()
		}
		return nil
	}, func() (err error) {
		wait, err = start()
		return err
	})
	if failed == nil {
		failed = wait()
	}
	if failed == nil && a.exec.failed.Load() == uint64(epoch)+1 { // asked when the steps before are launched, or done
		failed = schemas.Errorf(schemas.KindInternal, "copy KV", "a step of epoch %d failed: its blocks may not hold what they should", epoch)
	}
	return failed
}

// doJob has a job do f, if admit, in the mailbox's turn, lets it, and waits for that.
func (a *Actor) doJob(j job, admit func() *schemas.Error, f func() error) error {
	refused := schemas.Errorf(schemas.KindUnavailable, "copy KV", "compute is stopping")
	var failed error
	done := make(chan struct{})
	j.do = func() {
		defer close(done)
		failed = recovered(f)
	}
	a.inTurn(func() {
		if refused = admit(); refused == nil {
			refused = a.queueJob(j)
		}
	})
	if refused != nil {
		return refused
	}
	<-done // not less: f may write to what the caller has
	return failed
}

// recovered makes a panic of a device an error.
func recovered(f func() error) (err error) {
	defer func() {
		if cause := recover(); cause != nil {
			err = fmt.Errorf("compute: panic: %v", cause)
		}
	}()
	return f()
}
