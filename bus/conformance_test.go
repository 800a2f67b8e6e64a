package bus

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// world is where the suite runs: the caller's node, and the stage somewhere.
type world struct {
	node    *Node
	inside  bool // the stage is called without NATS
	serial  *Ref[probe, answer]
	looped  *Ref[probe, answer]
	pooled  *Ref[probe, answer]
	restart *Ref[probe, answer]
}

func newWorld(n *Node, inside bool) *world {
	return &world{n, inside, NewRef(n, serial, "stage"), NewRef(n, looped, "stage"), NewRef(n, pooled, "stage"), NewRef(n, restart, "usher")}
}

func (w *world) mailboxes() map[string]*Ref[probe, answer] {
	return map[string]*Ref[probe, answer]{"group": w.serial, "loop": w.looped, "pool": w.pooled}
}

// TestConformance holds every behaviour that actors rely on against every way a message can take.
func TestConformance(t *testing.T) {
	behaviours := []struct {
		name  string
		check func(*testing.T, *world)
	}{
		{"typed reply", typedReply},
		{"errors keep every field", errorsRoundTrip},
		{"the deadline ends the wait", deadlineEndsTheWait},
		{"the handler knows the deadline", handlerKnowsTheDeadline},
		{"cancelling ends the wait", cancelEndsTheWait},
		{"a cancelled call does not start", cancelledCallDoesNotStart},
		{"a mailbox is serial and keeps order", serialAndInOrder},
		{"a pool is concurrent up to its size", poolIsConcurrent},
		{"overload is an error at the limit", overloadIsAnError},
		{"nobody there", nobodyThere},
		{"malformed instance", malformedInstance},
		{"restart under a living Ref", restartUnderRef},
		{"large columns", largeColumns},
		{"oversize payloads", oversize},
		{"a panic in a pool is an error", poolPanic},
		{"tap and peek mirror once", mirrorsOnce},
	}
	for _, transport := range []struct {
		name  string
		start func(*testing.T) *world
	}{
		{"in process", func(t *testing.T) *world { return stageHere(t, Options{}) }},
		{"NATS in one process", func(t *testing.T) *world { return stageHere(t, Options{RemoteOnly: true}) }},
		{"leaf process", stageInHelper},
	} {
		t.Run(transport.name, func(t *testing.T) {
			w := transport.start(t)
			for _, b := range behaviours {
				t.Run(b.name, func(t *testing.T) { b.check(t, w) })
			}
		})
	}
}

func stageHere(t *testing.T, opts Options) *world {
	n := startNode(t, opts)
	s, err := newStage(n)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.loop.Close)
	return newWorld(n, !opts.RemoteOnly)
}

func stageInHelper(t *testing.T) *world {
	n := startNode(t, Options{LeafListen: "127.0.0.1:-1"})
	startHelper(t, n)
	return newWorld(n, false)
}

func within(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func wantKind(t *testing.T, err error, kind schemas.Kind) *schemas.Error {
	t.Helper()
	var e *schemas.Error
	if !errors.As(err, &e) || e.Kind != kind {
		t.Fatalf("got error %v, want kind %s", err, kind)
	}
	return e
}

func typedReply(t *testing.T, w *world) {
	for name, ref := range w.mailboxes() {
		a, err := ref.Call(within(t, 5*time.Second), &probe{Number: 1 << 40, Text: "héllo", Column: schemas.I32{-1, 0, 1 << 30}})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if a.Number != 1<<40 || a.Text != "héllo" || !slices.Equal(a.Column, schemas.I32{-1, 0, 1 << 30}) {
			t.Errorf("%s: got %+v", name, a)
		}
	}
}

func errorsRoundTrip(t *testing.T, w *world) {
	for _, kind := range []schemas.Kind{schemas.KindInvalid, schemas.KindUnauthorized, schemas.KindNotFound, schemas.KindTooLarge,
		schemas.KindUnsupported, schemas.KindOverloaded, schemas.KindCanceled, schemas.KindInternal, schemas.KindUnavailable,
		schemas.KindTimeout, schemas.KindReentrant, schemas.KindNoMemory, schemas.KindDeviceLost, "a kind of a later version"} {
		sent := &schemas.Error{Kind: kind, Op: "play", Request: 0x100, Step: 7, Param: "temperature",
			Detail: "two\nlines, \"quoted\" and an emoji 🎭", Hint: "try less", RetryAfterMs: 250}
		_, err := w.serial.Call(within(t, 5*time.Second), &probe{Fail: sent})
		got := wantKind(t, err, kind)
		want := *sent
		want.Actor = "stage.stage"
		if !reflect.DeepEqual(got, &want) {
			t.Errorf("got  %#v\nwant %#v", got, &want)
		}
	}
}

func deadlineEndsTheWait(t *testing.T, w *world) {
	for name, ref := range w.mailboxes() {
		_, err := ref.Call(within(t, 60*time.Millisecond), &probe{WaitMs: 400, Stubborn: true})
		if inline := w.inside && name != "loop"; !inline { // a handler on the caller's goroutine decides itself
			wantKind(t, err, schemas.KindTimeout)
		}
	}
}

func handlerKnowsTheDeadline(t *testing.T, w *world) {
	a, err := w.serial.Call(within(t, 400*time.Millisecond), &probe{})
	if err != nil || a.LeftMs < 0 || a.LeftMs > 400 {
		t.Fatalf("got %+v, %v; want at most 400 ms left", a, err)
	}
}

func cancelEndsTheWait(t *testing.T, w *world) {
	for name, ref := range w.mailboxes() {
		ctx, cancel := context.WithCancel(within(t, 5*time.Second))
		time.AfterFunc(30*time.Millisecond, cancel)
		a, err := ref.Call(ctx, &probe{WaitMs: 1500})
		if w.inside && err == nil {
			if !a.Cancelled {
				t.Errorf("%s: the handler did not learn of it", name)
			}
			continue // handlers on the caller's goroutine answer for themselves
		}
		wantKind(t, err, schemas.KindCanceled)
	}
}

func cancelledCallDoesNotStart(t *testing.T, w *world) {
	for name, ref := range w.mailboxes() {
		before, err := ref.Call(within(t, 5*time.Second), &probe{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err = ref.Call(ctx, &probe{})
		wantKind(t, err, schemas.KindCanceled)
		after, err := ref.Call(within(t, 5*time.Second), &probe{})
		if err != nil || after.Started != before.Started+1 {
			t.Errorf("%s: got %+v after %+v, %v", name, after, before, err)
		}
	}
}

func serialAndInOrder(t *testing.T, w *world) {
	for _, ref := range []*Ref[probe, answer]{w.serial, w.looped} {
		before, err := ref.Call(within(t, 5*time.Second), &probe{})
		if err != nil {
			t.Fatal(err)
		}
		ctx := within(t, 30*time.Second)
		const callers, calls = 8, 40
		var all sync.WaitGroup
		for caller := range callers {
			all.Go(func() {
				for i := range calls {
					if _, err := ref.Call(ctx, &probe{Caller: 10 + int32(caller), Number: before.Started + 1 + int64(i)}); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		after, err := ref.Call(ctx, &probe{})
		if err != nil || after.Together != 1 || after.Started != before.Started+callers*calls+1 || after.Disorder != before.Disorder+1 {
			t.Errorf("got %+v after %+v, %v", after, before, err)
		}
	}
}

func poolIsConcurrent(t *testing.T, w *world) {
	ctx := within(t, 10*time.Second)
	var all sync.WaitGroup
	for range poolSize {
		all.Go(func() {
			if _, err := w.pooled.Call(ctx, &probe{WaitMs: 300}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	a, err := w.pooled.Call(ctx, &probe{})
	if err != nil || a.Together != poolSize {
		t.Fatalf("got %+v, %v; want %d together", a, err, poolSize)
	}
}

func overloadIsAnError(t *testing.T, w *world) {
	ctx := within(t, 10*time.Second)
	const over = 4
	results := make(chan error, int(poolSize)+poolWait+over)
	for range cap(results) {
		go func() {
			_, err := w.pooled.Call(ctx, &probe{WaitMs: 600})
			results <- err
		}()
	}
	refused := 0
	for range cap(results) {
		if err := <-results; err != nil {
			e := wantKind(t, err, schemas.KindOverloaded)
			if e.RetryAfterMs <= 0 || !strings.Contains(e.Detail, fmt.Sprint(poolWait)) {
				t.Fatalf("the error does not say the limit and when to retry: %#v", e)
			}
			refused++
		}
	}
	if refused != over {
		t.Fatalf("%d calls were refused, want %d", refused, over)
	}
}

func nobodyThere(t *testing.T, w *world) {
	began := time.Now()
	_, err := NewRef(w.node, serial, "nobody").Call(context.Background(), &probe{})
	wantKind(t, err, schemas.KindUnavailable)
	if took := time.Since(began); took >= serial.Timeout {
		t.Errorf("it took %s to notice", took)
	}
}

func malformedInstance(t *testing.T, w *world) {
	for _, bad := range []schemas.Instance{"*", ">", "a.b", "a b", "a\r\nPUB x 0", schemas.Instance(strings.Repeat("x", 65))} {
		_, err := NewRef(w.node, serial, bad).Call(context.Background(), &probe{})
		wantKind(t, err, schemas.KindInvalid)
	}
}

func restartUnderRef(t *testing.T, w *world) {
	ctx := within(t, 20*time.Second)
	done := make(chan error, 1)
	go func() {
		_, err := w.restart.Call(ctx, &probe{WaitMs: 300})
		done <- err
	}()
	for restarting := true; restarting; {
		select {
		case err := <-done:
			if err != nil {
				t.Fatal(err)
			}
			restarting = false
		default:
			if _, err := w.serial.Call(ctx, &probe{}); err != nil {
				wantKind(t, err, schemas.KindUnavailable)
			}
		}
	}
	if err := w.node.WaitForService(ctx, serial.Subject("stage")); err != nil {
		t.Fatal(err)
	}
	a, err := w.serial.Call(ctx, &probe{Number: 5})
	if err != nil || a.Number != 5 {
		t.Fatalf("after the restart: %+v, %v", a, err)
	}
}

func largeColumns(t *testing.T, w *world) {
	column := make(schemas.I32, 1<<20)
	for i := range column {
		column[i] = int32(i * 2654435761)
	}
	a, err := w.serial.Call(within(t, 10*time.Second), &probe{Column: column})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(a.Column, column) {
		t.Error("the column came back changed")
	}
}

func oversize(t *testing.T, w *world) {
	for what, p := range map[string]*probe{
		"request": {Column: make(schemas.I32, PayloadBytesMax/4+1)},
		"reply":   {ReplyBytes: PayloadBytesMax + 1},
	} {
		_, err := w.serial.Call(within(t, 10*time.Second), p)
		if w.inside {
			if err != nil {
				t.Errorf("%s: in process there is no limit: %v", what, err)
			}
			continue
		}
		if e := wantKind(t, err, schemas.KindTooLarge); !strings.Contains(e.Detail, fmt.Sprint(PayloadBytesMax)) || !strings.Contains(e.Detail, what) {
			t.Errorf("the error does not name the %s and the limit: %v", what, e)
		}
	}
}

func poolPanic(t *testing.T, w *world) {
	ctx := within(t, 5*time.Second)
	_, err := w.pooled.Call(ctx, &probe{Panic: true})
	if e := wantKind(t, err, schemas.KindInternal); !strings.Contains(e.Detail, "asked to") {
		t.Errorf("got %v", e)
	}
	if _, err := w.pooled.Call(ctx, &probe{}); err != nil {
		t.Error(err)
	}
}
