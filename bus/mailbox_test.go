package bus

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

func extra(name schemas.Instance) *Actor { return NewActor(nil, "test", name, "") }

// in runs f as a handler of a under mb.
func in(ctx context.Context, mb Mailbox, a *Actor, f func(ctx context.Context)) error {
	return mb.do(ctx, &action{a, f})
}

// hop is a call to an actor under a mailbox.
type hop struct {
	mailbox Mailbox
	actor   *Actor
}

// follow makes nested calls along a path, wrapping the context at every step, and returns what the last
// one answers.
func follow(ctx context.Context, path []hop) (err error) {
	if len(path) == 0 {
		return nil
	}
	type key struct{}
	ctx, cancel := context.WithTimeout(context.WithValue(ctx, key{}, len(path)), 2*time.Second)
	defer cancel()
	if len(path)%2 == 0 {
		ctx = context.WithoutCancel(ctx)
	}
	failed := in(ctx, path[0].mailbox, path[0].actor, func(ctx context.Context) { err = follow(ctx, path[1:]) })
	return errors.Join(failed, err)
}

func TestCycleOfWaitingIsRefused(t *testing.T) {
	g1, g2 := NewGroup(), NewGroup()
	l1, l2 := NewLoop(4), NewLoop(4)
	defer l1.Close()
	defer l2.Close()
	pool := NewPool(2)
	a, b, c, d, e := extra("a"), extra("b"), extra("c"), extra("d"), extra("e")
	for name, story := range map[string]struct {
		path    []hop
		refused bool
	}{
		"an actor calls itself":                    {[]hop{{g1, a}, {g1, a}}, true},
		"two of a group":                           {[]hop{{g1, a}, {g1, b}}, false},
		"there and back":                           {[]hop{{g1, a}, {g1, b}, {g1, a}}, true},
		"as deep as it goes":                       {[]hop{{g1, a}, {g1, b}, {g1, c}, {g1, d}}, false},
		"too deep":                                 {[]hop{{g1, a}, {g1, b}, {g1, c}, {g1, d}, {g1, e}}, true},
		"into a loop":                              {[]hop{{g1, a}, {l1, b}}, false},
		"through two loops":                        {[]hop{{g1, a}, {l1, b}, {l2, c}}, false},
		"out of a loop into a group that waits":    {[]hop{{g1, a}, {l1, b}, {g1, c}}, true},
		"the same, two groups apart":               {[]hop{{g1, a}, {l1, b}, {g2, c}, {l2, d}, {g1, e}}, true},
		"a loop calls itself":                      {[]hop{{l1, a}, {l1, b}}, true},
		"two loops in a circle":                    {[]hop{{l1, a}, {l2, b}, {l1, c}}, true},
		"a pool calls itself":                      {[]hop{{pool, a}, {pool, b}}, true},
		"through a pool, on the same goroutine":    {[]hop{{g1, a}, {pool, b}, {g1, c}}, false},
		"through a pool, back to a holder":         {[]hop{{g1, a}, {pool, b}, {g1, a}}, true},
		"through another group":                    {[]hop{{g1, a}, {g2, b}, {g1, c}}, false},
		"through another group, back to a holder":  {[]hop{{g1, a}, {g2, b}, {g1, a}}, true},
		"two groups, each twice, back to a holder": {[]hop{{g1, a}, {g2, b}, {g1, c}, {g2, b}}, true},
	} {
		err := follow(context.Background(), story.path)
		if refused := errors.Is(err, &schemas.Error{Kind: schemas.KindReentrant}); refused != story.refused || err != nil && !refused {
			t.Errorf("%s: got %v, want refused=%v", name, err, story.refused)
		}
	}
	for _, m := range []Mailbox{g1, g2, l1, l2, pool} {
		if err := in(context.Background(), m, a, func(context.Context) {}); err != nil {
			t.Errorf("%T is not free afterwards: %v", m, err)
		}
	}
}

func TestCycleOverNATSInOneProcessIsRefused(t *testing.T) {
	n := startNode(t, Options{RemoteOnly: true})
	g := NewGroup()
	outer, inner := NewActor(n, "stage", "outer", ""), NewActor(n, "stage", "inner", "")
	ref := NewRef(n, serial, "inner")
	Handle(outer, serial, g, func(ctx context.Context, p *probe) (*answer, error) { return ref.Call(ctx, p) })
	Handle(inner, serial, g, new(scene).play)
	for _, a := range []*Actor{outer, inner} {
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := NewRef(n, serial, "outer").Call(within(t, time.Second), &probe{})
	wantKind(t, err, schemas.KindReentrant)
}

func TestGroupKeepsADeadlineThatANestedCallAdds(t *testing.T) {
	g, a, b := NewGroup(), extra("a"), extra("b")
	err := in(context.Background(), g, a, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		_ = in(ctx, g, b, func(ctx context.Context) {
			if _, ok := ctx.Deadline(); !ok {
				t.Error("the nested handler does not see its caller's deadline")
			}
		})
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestGroupHandOffSurvivesCancellation(t *testing.T) {
	g, a := NewGroup(), extra("a")
	inside, runs := 0, 0 // without a lock: the race detector checks the group
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := range 300 {
				ctx, cancel := context.WithCancel(context.Background())
				if (i+worker)%2 == 0 {
					go cancel() // at about the time the turn is handed over
				}
				err := in(ctx, g, a, func(context.Context) {
					inside++
					if inside != 1 {
						t.Error("two handlers at one time")
					}
					runs++
					runtime.Gosched()
					inside--
				})
				if err != nil && !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	all.Wait()
	if g.busy.Load() || len(g.waiters) != 0 || runs == 0 {
		t.Fatalf("busy %v, %d waiters, %d runs", g.busy.Load(), len(g.waiters), runs)
	}
}

// A waiter that gives up at the moment it is handed the turn passes it on.
func TestGroupTurnHandedToALeavingWaiter(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // so that the waiter wakes only after the hand-over
	g, a := NewGroup(), extra("a")
	for range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		result := make(chan error, 1)
		err := in(context.Background(), g, a, func(context.Context) {
			go func() { result <- in(ctx, g, a, func(context.Context) {}) }()
			for waiting := 0; waiting == 0; runtime.Gosched() {
				g.mu.Lock()
				waiting = len(g.waiters)
				g.mu.Unlock()
			}
			runtime.Gosched()
			cancel()
		})
		if err != nil {
			t.Fatal(err)
		}
		if err := <-result; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		free, cancel := context.WithTimeout(context.Background(), time.Second)
		if err := in(free, g, a, func(context.Context) {}); err != nil {
			t.Fatalf("the turn is lost: %v", err)
		}
		cancel()
	}
}

func TestGroupQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, a := &Group{WaitingMax: 2}, extra("a")
		var order []int
		call := func(ctx context.Context, i int) error {
			return in(ctx, g, a, func(context.Context) {
				order = append(order, i)
				time.Sleep(time.Second)
			})
		}
		impatient, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		results := map[int]chan error{}
		start := func(ctx context.Context, i int) {
			results[i] = make(chan error, 1)
			go func(result chan error) { result <- call(ctx, i) }(results[i])
			synctest.Wait()
		}
		start(context.Background(), 1)
		start(impatient, 2)
		start(context.Background(), 3)
		start(context.Background(), 4) // one too many
		if err := <-results[4]; !errors.Is(err, &schemas.Error{Kind: schemas.KindOverloaded}) || !strings.Contains(err.Error(), "2 callers") {
			t.Errorf("4: %v", err)
		}
		time.Sleep(600 * time.Millisecond)
		if err := <-results[2]; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("2: %v", err)
		}
		start(context.Background(), 5) // in the place that 2 gave up
		for _, i := range []int{1, 3, 5} {
			if err := <-results[i]; err != nil {
				t.Errorf("%d: %v", i, err)
			}
		}
		if len(order) != 3 || order[0] != 1 || order[1] != 3 || order[2] != 5 {
			t.Errorf("ran %v", order)
		}
	})
}

func TestPanicBreaksTheGroupLoudly(t *testing.T) {
	g, a, b := NewGroup(), extra("a"), extra("b")
	pool := NewPool(1)
	swallow := func(f func()) {
		defer func() {
			if recover() == nil {
				t.Error("the panic did not reach the caller")
			}
		}()
		f()
	}
	waiting := make(chan error, 1)
	swallow(func() {
		_ = in(context.Background(), g, a, func(ctx context.Context) {
			go func() {
				waiting <- in(context.Background(), g, b, func(context.Context) { t.Error("ran on broken state") })
			}()
			for { // until the other call waits
				g.mu.Lock()
				n := len(g.waiters)
				g.mu.Unlock()
				if n == 1 {
					break
				}
				runtime.Gosched()
			}
			_ = in(ctx, pool, b, func(ctx context.Context) {
				_ = in(ctx, g, b, func(context.Context) { panic("broken") })
			})
		})
	})
	for _, err := range []error{<-waiting, in(context.Background(), g, a, func(context.Context) { t.Error("ran on broken state") })} {
		if !errors.Is(err, &schemas.Error{Kind: schemas.KindInternal}) || !strings.Contains(err.Error(), "test.b panicked") {
			t.Errorf("got %v", err)
		}
	}
	if err := in(context.Background(), pool, a, func(context.Context) {}); err != nil {
		t.Errorf("the pool in between lost a place: %v", err)
	}
}

// A context derived from a handler's can outlive the handler, in its timer's goroutine. The group must not
// change under it; the race detector watches.
func TestTurnIsNotReusedWhileADerivedContextLives(t *testing.T) {
	g, a := NewGroup(), extra("a")
	for range 300 {
		caller, cancel := context.WithCancel(context.Background())
		err := in(caller, g, a, func(ctx context.Context) {
			short, cancel := context.WithTimeout(ctx, 20*time.Microsecond)
			_ = cancel // left to its timer, which may fire while the next handler starts
			<-short.Done()
		})
		cancel()
		if err != nil {
			t.Fatal(err)
		}
	}
	allocations := testing.AllocsPerRun(100, func() { _ = in(context.Background(), g, a, func(context.Context) {}) })
	if allocations > 1 { // the action
		t.Errorf("%v allocations for a plain turn", allocations)
	}
}

func TestLoop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, a := NewLoop(2), extra("a")
		var ran []int
		call := func(ctx context.Context, i int) chan error {
			result := make(chan error, 1)
			go func() {
				result <- in(ctx, l, a, func(context.Context) {
					time.Sleep(time.Second)
					ran = append(ran, i)
				})
			}()
			synctest.Wait()
			return result
		}
		short, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		first, second := call(short, 1), call(short, 2)
		third, fourth := call(context.Background(), 3), call(context.Background(), 4)
		if err := <-fourth; !errors.Is(err, &schemas.Error{Kind: schemas.KindOverloaded}) {
			t.Errorf("a full queue: %v", err)
		}
		for _, r := range []chan error{first, second} {
			if err := <-r; !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("an impatient caller: %v", err)
			}
		}
		if err := <-third; err != nil {
			t.Errorf("a patient caller: %v", err)
		}
		if len(ran) != 2 || ran[0] != 1 || ran[1] != 3 {
			t.Errorf("ran %v: a task starts unless its caller has gone, and then runs to its end", ran)
		}
		waiting := call(context.Background(), 5)
		l.Close()
		if err := <-waiting; !errors.Is(err, &schemas.Error{Kind: schemas.KindUnavailable}) {
			t.Errorf("a caller of a closed loop: %v", err)
		}
		if err := in(context.Background(), l, a, func(context.Context) {}); !errors.Is(err, &schemas.Error{Kind: schemas.KindUnavailable}) {
			t.Errorf("a call of a closed loop: %v", err)
		}
		time.Sleep(2 * time.Second) // its last task
	})
}

// A caller that gave up on a Loop leaves its task running. The pooled call must stay with the task.
func TestAbandonedCallIsNotReused(t *testing.T) {
	n, l := startNode(t, Options{}), NewLoop(LoopQueueMax)
	defer l.Close()
	a := NewActor(n, "stage", "stage", "")
	held, release := make(chan struct{}), make(chan struct{})
	Handle(a, looped, l, func(_ context.Context, p *probe) (*answer, error) {
		if p.Number < 0 {
			held <- struct{}{}
			<-release
		}
		return &answer{Number: p.Number}, nil
	})
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	ref := NewRef(n, looped, "stage")
	for i := range 50 {
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			<-held
			cancel()
		}()
		_, err := ref.Call(ctx, &probe{Number: -1})
		wantKind(t, err, schemas.KindCanceled)
		go func() { release <- struct{}{} }() // the abandoned task ends while the next call uses the pool
		got, err := ref.Call(within(t, 5*time.Second), &probe{Number: int64(i)})
		if err != nil || got.Number != int64(i) {
			t.Fatalf("call %d got the answer %+v, %v", i, got, err)
		}
	}
}

func TestOutboxBatchesWhatWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var batches [][]int
		o := NewOutbox(3, func(rows []int) {
			batches = append(batches, append([]int(nil), rows...))
			time.Sleep(time.Second)
		})
		o.Put(1)
		synctest.Wait()
		if !o.Put(2, 3) || o.Put(4, 5) || !o.Put(6) {
			t.Error("a put is all or nothing, up to the limit")
		}
		o.Close()
		o.Close()
		if o.Put(7) {
			t.Error("a closed outbox took a row")
		}
		if len(batches) != 2 || len(batches[0]) != 1 || len(batches[1]) != 3 || batches[1][2] != 6 {
			t.Errorf("sent %v", batches)
		}
	})
}
