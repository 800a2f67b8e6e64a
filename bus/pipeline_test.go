package bus

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/internal/link"
	"github.com/troupe-engine/troupe/schemas"
)

// queueOf is an actor that keeps the order of one caller's numbers, as receivers of pipelines do.
type queueOf struct {
	last    int64 // under the group
	refused atomic.Int64
	busy    atomic.Int64 // so many requests are refused as overload
}

func startQueue(t *testing.T, n *Node) *queueOf {
	t.Helper()
	q := &queueOf{}
	a := NewActor(n, "stage", "queue", "Keeps the order.")
	Handle(a, serial, NewGroup(), func(_ context.Context, p *probe) (*answer, error) {
		switch {
		case p.Number > q.last+1:
			q.refused.Add(1)
			return nil, schemas.Errorf(schemas.KindOutOfOrder, "queue", "%d has yet to come", q.last+1)
		case q.busy.Add(-1) >= 0:
			return nil, schemas.Errorf(schemas.KindOverloaded, "queue", "busy")
		case p.Number == q.last+1:
			q.last++
			if p.Fail != nil {
				return nil, p.Fail
			}
		}
		return &answer{Number: p.Number}, nil
	})
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Stop)
	return q
}

type outcome struct {
	number int64
	resp   *answer
	err    error
}

// startPipeline returns a pipeline to the queue, and what comes of its requests.
func startPipeline(t *testing.T, n *Node, cfg PipelineConfig[probe, answer]) (*Pipeline[probe, answer], chan outcome) {
	t.Helper()
	done := make(chan outcome, 4096)
	cfg.Done = func(req *probe, resp *answer, err error) { done <- outcome{req.Number, resp, err} }
	p, err := NewPipeline(NewRef(n, serial, "queue"), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, done
}

// put waits for room.
func put(t *testing.T, p *Pipeline[probe, answer], req *probe) {
	t.Helper()
	for until := time.Now().Add(20 * time.Second); !p.Put(req); time.Sleep(time.Millisecond) {
		if time.Now().After(until) {
			t.Fatal("no room for a request")
		}
	}
}

// expectNext is the next outcome, which must be the request's with that number.
func expectNext(t *testing.T, done chan outcome, number int64) outcome {
	t.Helper()
	select {
	case o := <-done:
		if o.number != number || o.err == nil && o.resp.Number != number {
			t.Fatalf("%+v came where request %d was due", o, number)
		}
		return o
	case <-time.After(30 * time.Second):
		t.Fatalf("nothing comes of request %d", number)
		return outcome{}
	}
}

// What is lost, doubled, late or overtaken, in either direction, comes once and in order.
func TestPipelinesKeepTheOrder(t *testing.T) {
	const requests = 400
	plan := LossyNetwork(3, 0.05, 0.1, 0.1, 3*time.Millisecond)
	plan.Rules = append(plan.Rules, schemas.FaultRule{Kind: schemas.FaultReorder, Subject: schemas.SubjectPrefix + ">", Probability: 0.05, DelayUs: 3000})
	n := startNode(t, Options{Faults: plan, AttemptTimeMax: 50 * time.Millisecond})
	q := startQueue(t, n)
	p, done := startPipeline(t, n, PipelineConfig[probe, answer]{WindowMax: 16, TimeMax: 30 * time.Second})
	for i := range requests {
		put(t, p, &probe{Number: int64(i + 1)})
	}
	for i := range requests {
		if o := expectNext(t, done, int64(i+1)); o.err != nil {
			t.Fatalf("request %d: %v", i+1, o.err)
		}
	}
	if q.refused.Load() == 0 {
		t.Error("nothing came out of order; nothing was tested")
	}
}

// Over a network each request costs no round trip.
func TestPipelinesDoNotWaitForAnswers(t *testing.T) {
	const requests, oneWay = 40, 10 * time.Millisecond
	hub := startNode(t, Options{LeafListen: "127.0.0.1:-1"})
	way, err := link.Listen("127.0.0.1:0", strings.TrimPrefix(hub.LeafURL(), "nats-leaf://"), 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(way.Close)
	far := startNode(t, Options{Leafs: []string{"nats-leaf://" + way.Addr()}})
	startQueue(t, far)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := hub.WaitForService(ctx, serial.Subject("queue")); err != nil {
		t.Fatal(err)
	}
	way.SetDelay(oneWay, 0)
	number := int64(0)
	for _, c := range []struct {
		window   int
		min, max time.Duration
	}{{1, requests * 2 * oneWay, time.Minute}, {requests, 2 * oneWay, requests * 2 * oneWay / 2}} {
		p, done := startPipeline(t, hub, PipelineConfig[probe, answer]{WindowMax: c.window})
		from, first := time.Now(), number+1
		for range requests {
			number++
			put(t, p, &probe{Number: number})
		}
		for i := range int64(requests) {
			if o := expectNext(t, done, first+i); o.err != nil {
				t.Fatal(o.err)
			}
		}
		if took := time.Since(from); took < c.min || took > c.max {
			t.Errorf("%d requests over %s each way took %s with a window of %d; expected %s to %s", requests, oneWay, took, c.window, c.min, c.max)
		}
	}
}

// What was on the way when a connection breaks comes once and in order when there is another one, and so does what comes after it.
func TestPipelinesOutliveConnections(t *testing.T) {
	const requests = 400
	hub := startNode(t, Options{LeafListen: "127.0.0.1:-1"})
	way, err := link.Listen("127.0.0.1:0", strings.TrimPrefix(hub.LeafURL(), "nats-leaf://"), 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(way.Close)
	far := startNode(t, Options{Leafs: []string{"nats-leaf://" + way.Addr()}})
	startQueue(t, far) // answers repeats, and what comes next
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := hub.WaitForService(ctx, serial.Subject("queue")); err != nil {
		t.Fatal(err)
	}
	way.SetDelay(5*time.Millisecond, 0)
	p, done := startPipeline(t, hub, PipelineConfig[probe, answer]{WindowMax: 16, TimeMax: 30 * time.Second})
	go func() {
		for number := int64(1); number <= requests && t.Context().Err() == nil; {
			if p.Put(&probe{Number: number}) {
				number++
			} else {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	for i := range int64(requests) {
		if o := expectNext(t, done, i+1); o.err != nil {
			t.Fatalf("request %d: %v", i+1, o.err)
		}
		if i == 100 || i == 250 {
			way.Cut()
		}
	}
}

// An error ends its request alone; one that Again names is tried until it is taken.
func TestPipelinesAndRefusals(t *testing.T) {
	n := startNode(t, Options{})
	q := startQueue(t, n)
	p, done := startPipeline(t, n, PipelineConfig[probe, answer]{WindowMax: 4, Again: func(_ *probe, err *schemas.Error) bool { return err.Kind == schemas.KindOverloaded }})
	q.busy.Store(5)
	for i := range int64(8) {
		req := &probe{Number: i + 1}
		if i == 3 {
			req.Fail = schemas.Errorf(schemas.KindInvalid, "queue", "no")
		}
		put(t, p, req)
	}
	for i := range int64(8) {
		if o := expectNext(t, done, i+1); (o.err != nil) != (i == 3) || i == 3 && schemas.AsError(o.err, "").Kind != schemas.KindInvalid {
			t.Errorf("request %d: %v", i+1, o.err)
		}
	}
}

// Injected errors are what an error of the receiver is: they end a request, or it is sent again.
func TestPipelinesAndInjectedErrors(t *testing.T) {
	for name, subject := range map[string]string{"of requests": schemas.SubjectPrefix + "*.*.queue", "of replies": schemas.SubjectPrefix + "*.*.queue" + schemas.ReplySuffix} {
		for _, again := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, again %t", name, again), func(t *testing.T) {
				n := startNode(t, Options{Faults: &schemas.FaultPlan{Seed: 1, Rules: []schemas.FaultRule{{Kind: schemas.FaultError, Subject: subject, Probability: 1, CountMax: 2}}}})
				startQueue(t, n)
				p, done := startPipeline(t, n, PipelineConfig[probe, answer]{WindowMax: 1, TimeMax: 2 * time.Second,
					Again: func(_ *probe, err *schemas.Error) bool { return again && err.Kind == schemas.KindUnavailable }})
				for range 3 { // repeats, for a receiver that keeps order
					put(t, p, &probe{Number: 1})
				}
				for i := range 3 {
					if o := expectNext(t, done, 1); (o.err == nil) != (again || i == 2) || o.err != nil && schemas.AsError(o.err, "").Kind != schemas.KindUnavailable {
						t.Errorf("request %d: %v", i+1, o.err)
					}
				}
			})
		}
	}
}

// Without a receiver, requests end with the reason in time, and those put in meanwhile are bounded.
func TestPipelinesWithoutAReceiver(t *testing.T) {
	n := startNode(t, Options{})
	p, done := startPipeline(t, n, PipelineConfig[probe, answer]{WindowMax: 2, TimeMax: 300 * time.Millisecond})
	from, taken := time.Now(), int64(0)
	for p.Put(&probe{Number: taken + 1}) {
		if taken++; taken > 2*PipelineQueueMax {
			t.Fatal("a pipeline without a receiver takes everything")
		}
	}
	if o := expectNext(t, done, 1); o.err == nil || schemas.AsError(o.err, "").Kind != schemas.KindUnavailable {
		t.Errorf("it ended with %v", o.err)
	}
	if took := time.Since(from); took < 200*time.Millisecond || took > 10*time.Second {
		t.Errorf("that took %s; it was to take about 300 ms", took)
	}
	if _, err := NewPipeline(NewRef(n, serial, "no name"), PipelineConfig[probe, answer]{WindowMax: 1}); err == nil {
		t.Error("a pipeline to a malformed name was started")
	}
}
