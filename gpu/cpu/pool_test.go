package cpu

import (
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

type counting struct {
	done []atomic.Int32
	slow time.Duration
}

func (c *counting) run(_, from, to int) {
	for i := from; i < to; i++ {
		c.done[i].Add(1)
		if c.slow > 0 {
			time.Sleep(c.slow)
		}
	}
}

// TestPoolRunsEachItemOnce, back to back and after the workers have parked.
func TestPoolRunsEachItemOnce(t *testing.T) {
	defer goleak.VerifyNone(t)
	for _, threads := range []int{1, 2, 5} {
		p := newPool(threads)
		for round := range 400 {
			c := &counting{done: make([]atomic.Int32, round%37)}
			if round%100 == 99 {
				time.Sleep(2 * time.Millisecond) // long enough to park
				c.slow = time.Millisecond        // long enough to be joined by a worker that wakes
			}
			p.do(c, len(c.done), 1+round%5)
			for i := range c.done {
				if n := c.done[i].Load(); n != 1 {
					t.Fatalf("%d threads, round %d: item %d ran %d times", threads, round, i, n)
				}
			}
		}
		p.close()
	}
}

type meeting struct{ arrived atomic.Int32 }

// run waits until two workers are in it at once.
func (m *meeting) run(_, _, _ int) {
	m.arrived.Add(1)
	for deadline := time.Now().Add(10 * time.Second); m.arrived.Load() < 2 && time.Now().Before(deadline); {
		time.Sleep(10 * time.Microsecond)
	}
}

func TestPoolRunsInParallel(t *testing.T) {
	p := newPool(2)
	defer p.close()
	for _, wait := range []time.Duration{0, 5 * time.Millisecond} { // spinning, parked
		time.Sleep(wait)
		m := &meeting{}
		p.do(m, 2, 1)
		if m.arrived.Load() != 2 {
			t.Fatal("two items did not run at the same time")
		}
	}
}

type panicking struct{ at int }

func (c *panicking) run(_, from, to int) {
	if from <= c.at && c.at < to {
		panic("item fails")
	}
}

// TestPoolPanicReachesTheCaller, from whichever worker, and the pool works on.
func TestPoolPanicReachesTheCaller(t *testing.T) {
	p := newPool(3)
	defer p.close()
	for round := range 50 {
		func() {
			defer func() {
				if r := recover(); r != "item fails" {
					t.Fatalf("round %d: recovered %v", round, r)
				}
			}()
			p.do(&panicking{at: round}, 50, 1)
		}()
		c := &counting{done: make([]atomic.Int32, 10)}
		p.do(c, 10, 1)
		for i := range c.done {
			if c.done[i].Load() != 1 {
				t.Fatalf("after a panic, item %d ran %d times", i, c.done[i].Load())
			}
		}
	}
}
