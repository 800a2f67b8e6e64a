package conform

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// TestSwitchingPoliciesLosesNothing switches between all policies every few milliseconds, among them ones in other
// processes that are good, slow, broken or not there, while more requests than places run. Every request must give
// the very text that it gives alone.
func TestSwitchingPoliciesLosesNothing(t *testing.T) {
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen, opts.SequencesMax, opts.TokensStepMax, opts.Shadow = "none", "127.0.0.1:0", 4, 64, "fair"
	var log safeBuffer
	engine, err := troupe.Open(t.Context(), opts, zerolog.New(&log).Level(zerolog.InfoLevel), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()

	prompts := []string{"Once upon a time", "The sea was", "A king had three", "In the wood there", "She said that", "The old man", "One day the", "It was cold"}
	rounds := 4
	if raceDetector {
		rounds = 2
	}
	answer := func(i int) (string, error) {
		most, zero := int64(10+i%5*8), 0.0
		var text strings.Builder
		r := troupe.GenerateRequest{Prompt: strings.Repeat(prompts[i%len(prompts)]+" ", 1+i%4), GenerationParams: schemas.GenerationParams{MaxTokens: &most, Temperature: &zero,
			User: fmt.Sprint("user", i%3), Priority: int64(i % 4)}}
		for delta, err := range engine.Generate(t.Context(), r) {
			if err != nil {
				return "", err
			}
			text.WriteString(delta.Text)
		}
		return text.String(), nil
	}
	want := make([]string, 40)
	for i := range want {
		if want[i], err = answer(i); err != nil {
			t.Fatal(err)
		}
	}

	policies := startPolicies(t, engine.NATSURL())
	done := make(chan struct{})
	var switching sync.WaitGroup
	switched := 0
	switching.Go(func() { switched = keepSwitching(t, engine, policies, done) })
	var requests sync.WaitGroup
	for range rounds {
		for i := range want {
			requests.Go(func() {
				if got, err := answer(i); err != nil || got != want[i] {
					t.Errorf("request %d: %q, %v; alone it is %q", i, got, err, want[i])
				}
			})
		}
	}
	requests.Wait()
	close(done)
	switching.Wait()
	t.Logf("%d requests, %d switches", rounds*len(want), switched)
	if switched < 20 {
		t.Errorf("only %d switches", switched)
	}
	for _, bad := range []string{"panic", `"level":"error"`} {
		if text := log.String(); strings.Contains(text, bad) {
			t.Errorf("the log has %s: %.2000s", bad, text)
		}
	}
	if !strings.Contains(log.String(), "policy_fallback") {
		t.Error("no warning tells that a policy in another process failed")
	}
}

// startPolicies serves three policies and returns the names of all that are tried.
func startPolicies(t *testing.T, url string) []string {
	t.Helper()
	serve(t, url, "good", shortestFirst)
	serve(t, url, "slow", func(q *schemas.RankRequest) schemas.I32 {
		time.Sleep(8 * time.Millisecond)
		return shortestFirst(q)
	})
	serve(t, url, "broken", func(q *schemas.RankRequest) schemas.I32 { return make(schemas.I32, len(q.Seq)+1) })
	return append(scheduler.Policies(), "nats:good?limit=100ms", "nats:good?wait&limit=20ms", "nats:good?json&limit=100ms&preempt", "nats:slow?fallback=fair",
		"nats:slow?wait&limit=2ms", "nats:broken?fallback=shortest", "nats:broken?wait", "nats:gone?fallback=prefix", "nats:gone?wait&fallback=deadline")
}

// keepSwitching switches until done and returns how often.
func keepSwitching(t *testing.T, engine *troupe.Engine, policies []string, done chan struct{}) (switched int) {
	ref := bus.NewRef(engine.Node(), schemas.Policy, "replica0")
	shadow := bus.NewRef(engine.Node(), schemas.Shadow, "replica0")
	for {
		select {
		case <-done:
			return switched
		case <-time.After(7 * time.Millisecond):
		}
		name := policies[switched%len(policies)]
		if reply, err := ref.Call(context.Background(), &schemas.PolicyRequest{Name: name}); err != nil || reply.Active != name {
			t.Errorf("switching to %s: %+v, %v", name, reply, err)
		}
		if switched%5 == 0 {
			if _, err := shadow.Call(context.Background(), &schemas.ShadowRequest{Policy: policies[(switched+3)%len(policies)]}); err != nil {
				t.Errorf("shadow: %v", err)
			}
		}
		switched++
	}
}

// shortestFirst orders by what is left of max_tokens.
func shortestFirst(q *schemas.RankRequest) schemas.I32 {
	order := make(schemas.I32, 0, len(q.Seq))
	for range q.Seq {
		best := int32(-1)
		for row := range int32(len(q.Seq)) {
			taken := false
			for _, o := range order {
				taken = taken || o == row
			}
			if left := func(r int32) int64 { return int64(q.MaxTokens[r]-q.Output[r])<<32 + int64(q.Arrival[r]) }; !taken && (best < 0 || left(row) < left(best)) {
				best = row
			}
		}
		order = append(order, best)
	}
	return order
}

// serve answers questions under a name over a connection of its own, in msgpack or JSON as asked; what is no question is
// refused.
func serve(t *testing.T, url, name string, rank func(*schemas.RankRequest) schemas.I32) {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	if _, err := conn.Subscribe(schemas.RankSubjectPrefix+name, func(m *nats.Msg) {
		isJSON := m.Header.Get("Content-Type") == "application/json"
		q := &schemas.RankRequest{}
		err := error(nil)
		if isJSON {
			err = json.Unmarshal(m.Data, q)
		} else {
			err = bus.Unmarshal(m.Data, q)
		}
		if err == nil && (q.Version != 1 || len(q.Prompt) != len(q.Seq)) {
			err = fmt.Errorf("version %d, %d prompts of %d", q.Version, len(q.Prompt), len(q.Seq))
		}
		reply := nats.NewMsg(m.Reply)
		if err != nil {
			reply.Header.Set("Nats-Service-Error-Code", "400")
			reply.Header.Set("Nats-Service-Error", strings.ReplaceAll(err.Error(), "\n", " "))
		} else if a := (&schemas.RankReply{Number: q.Number, Order: rank(q)}); isJSON {
			reply.Header.Set("Content-Type", "application/json")
			reply.Data, _ = json.Marshal(a)
		} else {
			reply.Data, _ = schemas.MarshalMap(a)
		}
		_ = conn.PublishMsg(reply) // the test may be over
	}); err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
}

type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
