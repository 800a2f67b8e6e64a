package replica

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// Plans go out before those before them are acknowledged to computes that keep their order, and to those alone: one of the version
// before would not miss a plan that is lost on the way.
func TestPlansGoAheadToComputesThatKeepTheirOrder(t *testing.T) {
	for name, inOrder := range map[string]bool{"a compute that keeps it": true, "one of the version before": false} {
		t.Run(name, func(t *testing.T) {
			node, err := bus.Start(bus.Options{Listen: "none", Log: zerolog.Nop()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(node.Close)
			var mu sync.Mutex
			var sent []schemas.StepID // each once
			seen := func() int { mu.Lock(); defer mu.Unlock(); return len(sent) }
			if _, err := node.Conn().Subscribe(schemas.Execute.Subject("r"), func(m *nats.Msg) {
				var p schemas.StepPlan
				if err := schemas.Unmarshal(m.Data, &p); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if slices.Contains(sent, p.Step) {
					return
				}
				if len(sent) > 0 && p.After != sent[len(sent)-1] {
					t.Errorf("plan %d says that it follows %d; it came after %d", p.Step, p.After, sent[len(sent)-1])
				}
				sent = append(sent, p.Step)
			}); err != nil {
				t.Fatal(err)
			}
			answer := make(chan struct{})
			release := sync.OnceFunc(func() { close(answer) })
			compute := bus.NewActor(node, "compute", "r", "Acknowledges late, and computes nothing.")
			bus.Handle(compute, schemas.Execute, bus.NewGroup(), func(context.Context, *schemas.StepPlan) (*schemas.PlanReply, error) {
				<-answer
				return &schemas.PlanReply{}, nil
			})
			if err := compute.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(compute.Stop)
			t.Cleanup(release)
			s, err := OpenScheduler(node, &schemas.ClaimReply{Replica: "r", Model: "m", VocabSize: 100, ContextMax: 64, SequencesMax: 4, TokensStepMax: 32,
				BlockSize: 16, Blocks: 16, BlockBytes: 1024, InOrder: inOrder}, Config{PipelineDepth: 2}, zerolog.Nop())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(s.Close)
			if _, err := bus.NewRef(node, schemas.Submit, "r").Call(t.Context(), &schemas.SubmitRequest{Request: schemas.NewRequestID(1, 1), Choices: 1,
				Tokens: schemas.I32{1, 2, 3}, MaxTokens: 9, Sampling: schemas.SamplingParams{TopP: 1}}); err != nil {
				t.Fatal(err)
			}
			wait := func(plans int) {
				t.Helper()
				for until := time.Now().Add(10 * time.Second); seen() < plans; time.Sleep(time.Millisecond) {
					if time.Now().After(until) {
						t.Fatalf("%d plans have come; expected %d", seen(), plans)
					}
				}
			}
			if inOrder {
				wait(2)
				return
			}
			wait(1)
			time.Sleep(20 * time.Millisecond)
			if n := seen(); n != 1 {
				t.Fatalf("%d plans have come before one was acknowledged", n)
			}
			release()
			wait(2)
		})
	}
}
