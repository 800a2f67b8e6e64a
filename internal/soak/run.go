package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// Config of a soak run.
type Config struct {
	Duration  time.Duration
	Round     time.Duration // load between two looks at the engine at rest; default 10 s
	Clients   int           // at once; default 16
	Burst     int           // requests at once in a burst, one burst per round; 0 is none
	OutputMax int           // tokens of an answer; default 48
	Seed      uint64
	// Process measures the engine's process when it is at rest; nil if it runs elsewhere.
	Process func() Process
	Log     func(format string, args ...any) // one line per round; may be nil
}

// Process is what an engine's process uses.
type Process struct {
	Goroutines, Subscriptions int
	HeapBytes                 uint64 // live, after a collection
}

// Sample is the engine at rest after a round.
type Sample struct {
	At          time.Duration
	Process     Process
	Tensors     int64 // on the device
	DeviceBytes int64
	Cached      int32 // KV blocks
	Requests    int   // asked so far
}

// Report is what a run found.
type Report struct {
	Requests, Complete, Refused, Overloaded, GivenUp int

	Failures []string // what was wrong, the first failuresMax
	Failed   int
	Samples  []Sample
	Last     *State
}

const (
	failuresMax   = 20
	requestMax    = 60 * time.Second // for any one request
	quietMax      = 20 * time.Second // for the engine to come to rest
	lookEvery     = 200 * time.Millisecond
	goroutinesGap = 8 // more than at first that are no leak: timers and connections come and go
)

// run is a soak run in progress.
type run struct {
	c      *Client
	cfg    Config
	mu     sync.Mutex
	report Report
}

// Run loads the engine behind c until the time is over or ctx ends.
func Run(ctx context.Context, c *Client, cfg Config) *Report {
	if cfg.Round == 0 {
		cfg.Round = 10 * time.Second
	}
	if cfg.Clients == 0 {
		cfg.Clients = 16
	}
	if cfg.OutputMax == 0 {
		cfg.OutputMax = 48
	}
	r := &run{c: c, cfg: cfg}
	began := time.Now()
	for round := 0; round < 2 || time.Since(began) < cfg.Duration; round++ {
		if ctx.Err() != nil || r.report.Failed > failuresMax {
			break
		}
		r.choosePolicy(ctx, []string{"fcfs", "priority"}[round%2])
		r.round(ctx, round)
		r.rest(ctx, began)
	}
	if n := c.Broken(); n > 0 {
		r.fail("the connection to NATS broke %d times: requests over it were lost with it", n)
	}
	r.growth()
	return &r.report
}

func (r *run) fail(format string, args ...any) {
	if r.cfg.Log != nil {
		r.cfg.Log("FAILED: "+format, args...)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.report.Failed++; len(r.report.Failures) < failuresMax {
		r.report.Failures = append(r.report.Failures, fmt.Sprintf("seed %d: ", r.cfg.Seed)+fmt.Sprintf(format, args...))
	}
}

func (r *run) choosePolicy(ctx context.Context, name string) {
	var reply schemas.PolicyReply
	if err := r.c.ask(ctx, schemas.SubjectPrefix+"scheduler.policy", mustJSON(schemas.PolicyRequest{Name: name}), &reply); err != nil {
		r.fail("policy: %v", err)
	}
}

// round runs all clients for a while, with a burst in the middle.
func (r *run) round(ctx context.Context, round int) {
	var clients sync.WaitGroup
	until := time.Now().Add(r.cfg.Round)
	for i := range r.cfg.Clients {
		rng := rand.New(rand.NewPCG(r.cfg.Seed, uint64(round)<<32|uint64(i)))
		clients.Go(func() {
			for time.Now().Before(until) && ctx.Err() == nil {
				r.one(ctx, rng, mix(rng, r.cfg.OutputMax))
			}
		})
	}
	over := make(chan struct{})
	watching := sync.WaitGroup{}
	watching.Go(func() { r.watch(ctx, over) })
	if r.cfg.Burst > 0 {
		time.Sleep(r.cfg.Round / 2)
		r.burst(ctx, round)
	}
	clients.Wait()
	close(over)
	watching.Wait()
}

// stallMax is how long an engine may have requests and get nothing done.
const stallMax = 15 * time.Second

// watch looks at what must hold at any time.
func (r *run) watch(ctx context.Context, over <-chan struct{}) {
	var done uint64
	since := time.Now()
	for {
		select {
		case <-over:
			return
		case <-time.After(lookEvery):
		}
		ask, cancel := context.WithTimeout(ctx, requestMax)
		s, err := r.c.State(ask)
		cancel()
		if err == nil {
			err = s.Consistent()
		}
		if err != nil && ctx.Err() == nil {
			r.fail("under load: %v", err)
			continue
		}
		if s == nil {
			continue
		}
		if now := s.Scheduler.Tokens + s.Scheduler.Prefilled + s.Gateway.Finished; now != done || s.Gateway.Running == 0 {
			done, since = now, time.Now()
		}
		if time.Since(since) > stallMax {
			since = time.Now()
			r.fail("nothing was done for %v: %s", stallMax, mustJSON(s))
		}
	}
}

// burst asks for more than the engine takes. Some must be refused, by name and with a time to come back.
func (r *run) burst(ctx context.Context, round int) {
	var asking sync.WaitGroup
	for i := range r.cfg.Burst {
		rng := rand.New(rand.NewPCG(^r.cfg.Seed, uint64(round)<<32|uint64(i)))
		j := job{overHTTP: i%2 == 0, stream: i%3 == 0, choices: 1}
		j.body = j.goodBody(rng, r.cfg.OutputMax)
		asking.Go(func() { r.one(ctx, rng, j) })
	}
	asking.Wait()
}

// one asks once, behaves as the job says, and judges the ending.
func (r *run) one(ctx context.Context, rng *rand.Rand, j job) {
	ctx, cancel := context.WithTimeout(ctx, requestMax)
	defer cancel()
	gaveUp := false
	watch := func(e *Ending, events int) {
		if events != j.afterEvents || e.ID == "" {
			return
		}
		switch j.behaviour {
		case hangsUp:
			gaveUp = true
			cancel()
		case cancels:
			gaveUp = true
			if _, err := r.c.Cancel(ctx, e.ID); err != nil {
				r.fail("cancel %s: %v", e.ID, err)
			}
		}
	}
	if j.behaviour == hangsUp && !j.stream {
		gaveUp = true
		defer time.AfterFunc(j.after, cancel).Stop()
	}
	var e *Ending
	var err error
	if j.overHTTP {
		e, err = r.c.Post(ctx, j.path, j.body, watch)
	} else {
		e, err = r.c.Request(ctx, j.subject, j.body, j.stream && !j.bad, watch)
	}
	if wrong := j.judge(e, err, gaveUp); wrong != nil {
		r.fail("over HTTP %v, stream %v: %v", j.overHTTP, j.stream, wrong)
	}
	r.count(e, gaveUp)
	if e != nil && e.Status == http.StatusTooManyRequests {
		time.Sleep(time.Duration(rng.IntN(20)) * time.Millisecond) // not the whole Retry-After: pressure is the point
	}
}

func (r *run) count(e *Ending, gaveUp bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := &r.report
	n.Requests++
	switch {
	case gaveUp:
		n.GivenUp++
	case e == nil:
	case e.OK():
		n.Complete++
	case e.Status == http.StatusTooManyRequests:
		n.Overloaded++
	default:
		n.Refused++
	}
}

// rest waits until nothing runs and takes a sample.
func (r *run) rest(ctx context.Context, began time.Time) {
	ctx, cancel := context.WithTimeout(ctx, quietMax)
	defer cancel()
	r.c.HTTP.CloseIdleConnections()
	s, err := r.c.WaitQuiet(ctx)
	if err != nil {
		r.fail("%v", err)
		return
	}
	sample := Sample{At: time.Since(began), Tensors: s.Compute.Tensors, DeviceBytes: s.Compute.Bytes, Cached: s.Memory.Cached, Requests: r.report.Requests}
	if r.cfg.Process != nil {
		sample.Process = r.settled(ctx)
	}
	r.report.Last = s
	r.report.Samples = append(r.report.Samples, sample)
	if r.cfg.Log != nil {
		n := &r.report
		r.cfg.Log("%6.1fs %6d requests (%d complete, %d refused, %d overloaded, %d given up), %d failures; %d goroutines, %d subscriptions, %.1f MB heap, %d tensors, %d preemptions",
			sample.At.Seconds(), n.Requests, n.Complete, n.Refused, n.Overloaded, n.GivenUp, n.Failed,
			sample.Process.Goroutines, sample.Process.Subscriptions, float64(sample.Process.HeapBytes)/1e6, sample.Tensors, s.Scheduler.Preemptions)
	}
}

// settled measures the process once goroutines that are about to end have ended.
func (r *run) settled(ctx context.Context) Process {
	p := r.cfg.Process()
	if len(r.report.Samples) == 0 {
		time.Sleep(lookEvery)
		return r.cfg.Process()
	}
	first := r.report.Samples[0].Process
	for ctx.Err() == nil && (p.Goroutines > first.Goroutines || p.Subscriptions > first.Subscriptions) && !within(ctx, 2*time.Second) {
		time.Sleep(lookEvery)
		p = r.cfg.Process()
	}
	return p
}

// within reports whether ctx ends in less than d.
func within(ctx context.Context, d time.Duration) bool {
	end, ok := ctx.Deadline()
	return ok && time.Until(end) < d
}

// growth compares the engine at rest with what it was after the first round.
func (r *run) growth() {
	if len(r.report.Samples) < 2 {
		r.fail("%d samples; a run needs two to see growth", len(r.report.Samples))
		return
	}
	first, last := r.report.Samples[0], r.report.Samples[len(r.report.Samples)-1]
	for _, g := range []struct {
		what               string
		first, last, spare int64
	}{
		{"goroutines", int64(first.Process.Goroutines), int64(last.Process.Goroutines), goroutinesGap},
		{"NATS subscriptions", int64(first.Process.Subscriptions), int64(last.Process.Subscriptions), 0},
		{"heap bytes", int64(first.Process.HeapBytes), int64(last.Process.HeapBytes), int64(first.Process.HeapBytes)/4 + 4<<20},
		{"device tensors", first.Tensors, last.Tensors, 0},
		{"device bytes", first.DeviceBytes, last.DeviceBytes, 0},
	} {
		if g.last > g.first+g.spare {
			r.fail("%s grew from %d to %d", g.what, g.first, g.last)
		}
	}
}

// Curves tells start, least, most and end of what was measured at rest.
func (n *Report) Curves() string {
	var b strings.Builder
	for _, c := range []struct {
		name string
		of   func(s Sample) float64
	}{
		{"goroutines", func(s Sample) float64 { return float64(s.Process.Goroutines) }},
		{"subscriptions", func(s Sample) float64 { return float64(s.Process.Subscriptions) }},
		{"heap MB", func(s Sample) float64 { return float64(s.Process.HeapBytes) / 1e6 }},
		{"device tensors", func(s Sample) float64 { return float64(s.Tensors) }},
		{"device MB", func(s Sample) float64 { return float64(s.DeviceBytes) / 1e6 }},
	} {
		if len(n.Samples) == 0 {
			break
		}
		first := c.of(n.Samples[0])
		least, most, last := first, first, first
		for _, s := range n.Samples {
			last = c.of(s)
			least, most = min(least, last), max(most, last)
		}
		fmt.Fprintf(&b, "%-15s start %.6g, least %.6g, most %.6g, end %.6g\n", c.name, first, least, most, last)
	}
	return b.String()
}
