package cpu

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// A task is work that divides into independent items. run does items [from, to) on the given
// worker, whose scratch it may use; which worker does which item must not affect the result.
type task interface {
	run(worker, from, to int)
}

// Spinning is bounded: long enough to bridge the gap between two launches of a step, short
// enough not to hold a processor when the engine is idle.
const (
	spinsBeforePark  = 2000 // of about 20 ns: 40 µs
	spinsBeforeYield = 500
)

// pool runs tasks on persistent goroutines; the caller takes part. A worker spins for a while
// after each task and then parks. Workers join a task if they get to it in time: the caller
// never waits for one that has not started.
type pool struct {
	threads int

	// The task that is running. Written by the caller while no worker is joined.
	task         task
	items, grain int
	next         atomic.Int64

	// state is epoch<<32 | open bit | workers joined.
	state atomic.Uint64
	left  atomic.Int64 // joined workers that are done
	fault atomic.Pointer[taskPanic]

	parked  []parking
	closing atomic.Bool
	exited  sync.WaitGroup
}

type parking struct {
	asleep atomic.Bool
	wake   chan struct{} // capacity 1
	_      [48]byte
}

type taskPanic struct{ value any }

const (
	openBit  = 1 << 31
	joinMask = openBit - 1
)

func newPool(threads int) *pool {
	p := &pool{threads: threads, parked: make([]parking, threads)}
	for w := 1; w < threads; w++ {
		p.parked[w].wake = make(chan struct{}, 1)
		p.exited.Add(1)
		go p.work(w)
	}
	return p
}

// do runs items [0, items) of t in chunks of grain and returns when all are done. A panic in
// any of them is raised again here.
func (p *pool) do(t task, items, grain int) {
	if p.threads == 1 || items <= grain {
		if items > 0 {
			t.run(0, 0, items)
		}
		return
	}
	p.task, p.items, p.grain = t, items, grain
	p.next.Store(0)
	p.left.Store(0)
	epoch := p.state.Load()>>32 + 1
	p.state.Store(epoch<<32 | openBit)
	for w := 1; w < p.threads; w++ {
		p.rouse(w)
	}
	p.share(0)
	joined := int64(p.state.And(^uint64(openBit)) & joinMask)
	for spins := 0; p.left.Load() != joined; spins++ {
		if spins > spinsBeforeYield {
			runtime.Gosched()
		}
		relax()
	}
	p.task = nil
	if f := p.fault.Swap(nil); f != nil {
		panic(f.value)
	}
}

// share runs chunks until none are left.
func (p *pool) share(worker int) {
	defer func() {
		if r := recover(); r != nil {
			p.fault.Store(&taskPanic{r})
			p.next.Store(int64(p.items)) // nobody needs the rest
		}
	}()
	for {
		to := int(p.next.Add(int64(p.grain)))
		from := to - p.grain
		if from >= p.items {
			return
		}
		p.task.run(worker, from, min(to, p.items))
	}
}

// awake reports whether sharing work needs no wake-up.
func (p *pool) awake() bool {
	for w := 1; w < p.threads; w++ {
		if p.parked[w].asleep.Load() {
			return false
		}
	}
	return true
}

func (p *pool) rouse(w int) {
	if s := &p.parked[w]; s.asleep.Load() && s.asleep.CompareAndSwap(true, false) {
		s.wake <- struct{}{}
	}
}

// work is the life of worker w.
func (p *pool) work(w int) {
	defer p.exited.Done()
	seen := uint64(0)
	for spins := 0; ; spins++ {
		if p.closing.Load() {
			return
		}
		if state := p.state.Load(); state&openBit != 0 && state>>32 != seen {
			if p.state.CompareAndSwap(state, state+1) {
				seen = state >> 32
				p.share(w)
				p.left.Add(1)
				spins = 0
			}
			continue
		}
		if spins > spinsBeforePark {
			p.park(w, seen)
			spins = 0
			continue
		}
		relax()
	}
}

// park sleeps until the next task or close. Asleep is announced first and the state looked at
// again after, so a task that opens in between is not missed.
func (p *pool) park(w int, seen uint64) {
	s := &p.parked[w]
	s.asleep.Store(true)
	state := p.state.Load()
	if (state&openBit != 0 && state>>32 != seen) || p.closing.Load() {
		if s.asleep.CompareAndSwap(true, false) {
			return
		}
	}
	<-s.wake
}

// close ends the workers and waits for them.
func (p *pool) close() {
	p.closing.Store(true)
	for w := 1; w < p.threads; w++ {
		p.rouse(w)
	}
	p.exited.Wait()
}
