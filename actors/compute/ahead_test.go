package compute

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// Results go out before those before them are acknowledged to schedulers that keep their order, and to those alone: one of the
// version before would take a result that is lost on the way, and another that comes, for the end of an epoch.
func TestResultsGoAheadToSchedulersThatKeepTheirOrder(t *testing.T) {
	const steps = 4
	for name, ahead := range map[string]bool{"a scheduler that keeps it": true, "one of the version before": false} {
		t.Run(name, func(t *testing.T) {
			node, err := bus.Start(bus.Options{Listen: "none", RemoteOnly: true, Log: zerolog.Nop()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(node.Close)
			var mu sync.Mutex
			var sent []schemas.StepID // each once
			seen := func() int { mu.Lock(); defer mu.Unlock(); return len(sent) }
			if _, err := node.Conn().Subscribe(schemas.StepDone.Subject("r"), func(m *nats.Msg) {
				var r schemas.StepResult
				if err := schemas.Unmarshal(m.Data, &r); err != nil {
					t.Error(err)
				}
				mu.Lock()
				defer mu.Unlock()
				if !slices.Contains(sent, r.Step) {
					sent = append(sent, r.Step)
				}
			}); err != nil {
				t.Fatal(err)
			}
			answer, taken := make(chan struct{}), make(chan schemas.StepID, 100)
			scheduler := bus.NewActor(node, "scheduler", "r", "Answers late.")
			bus.Handle(scheduler, schemas.StepDone, bus.NewGroup(), func(_ context.Context, r *schemas.StepResult) (*schemas.Ack, error) {
				<-answer
				taken <- r.Step
				return &schemas.Ack{}, nil
			})
			a := startAhead(t, node, ahead)
			if err := scheduler.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(scheduler.Stop)
			t.Cleanup(sync.OnceFunc(func() { close(answer) }))
			for step := range schemas.StepID(steps) {
				if _, err := a.execute(t.Context(), &schemas.StepPlan{Epoch: 1, Step: step + 1, After: step}); err != nil {
					t.Fatal(err)
				}
			}
			expected := 1
			if ahead {
				expected = steps
			}
			for until := time.Now().Add(10 * time.Second); seen() < expected; time.Sleep(time.Millisecond) {
				if time.Now().After(until) {
					t.Fatalf("%d results have come of %d", seen(), expected)
				}
			}
			time.Sleep(20 * time.Millisecond)
			if n := seen(); n != expected {
				t.Fatalf("%d results have come before one was acknowledged; expected %d", n, expected)
			}
			for step := schemas.StepID(1); step <= steps; {
				select {
				case answer <- struct{}{}:
				case got := <-taken:
					if got == step {
						step++
					} else if got > step { // a repeat is no matter
						t.Fatalf("the result of step %d comes before that of step %d", got, step)
					}
				case <-time.After(10 * time.Second):
					t.Fatalf("the result of step %d does not come", step)
				}
			}
		})
	}
}

// startAhead is a computation manager whose plans may ask for nothing.
func startAhead(t *testing.T, node *bus.Node, ahead bool) *Actor {
	t.Helper()
	dev, seed := openCPU(t), uint64(1)
	m, err := model.Load(dev, fstest.MapFS{"config.json": {Data: []byte(`{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300,
		"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
		"max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": false}`)}},
		model.Options{SequencesMax: 2, TokensPerStepMax: 8, BlockSize: blockSizeTest, KVBlocks: 40, KV: gpu.F32, RandomSeed: &seed}, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := New(node, bus.NewGroup(), Config{Replica: "r", ResultsAhead: ahead}, dev, m, zerolog.Nop())
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Stop()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// A lost device is told once, also where one result found no room in the queue while another was acknowledged.
func TestALostDeviceIsToldOnce(t *testing.T) {
	var told atomic.Int32
	a := &Actor{cfg: Config{Lost: func(*schemas.Error) { told.Add(1) }}, ctx: t.Context(), log: zerolog.Nop()}
	var both sync.WaitGroup
	for step := range schemas.StepID(8) {
		both.Go(func() {
			a.delivered(&schemas.StepResult{Step: step, Error: schemas.Errorf(schemas.KindDeviceLost, "step", "gone")}, nil)
		})
	}
	if both.Wait(); told.Load() != 1 {
		t.Errorf("it was told %d times", told.Load())
	}
}
