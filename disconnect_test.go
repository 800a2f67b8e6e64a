package troupe

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/internal/soak"
	"github.com/troupe-engine/troupe/schemas"
)

// seen is a message between the actors, as peek.> shows it.
type seen struct {
	at      time.Time
	reserve *schemas.ReserveRequest // one of the two
	cancel  *schemas.CancelRequest
}

// peek follows what the scheduler is told to cancel and what it tells memory.
func peek(t *testing.T, c *soak.Client) <-chan seen {
	t.Helper()
	messages := make(chan seen, 1<<14)
	reserve, cancel := schemas.PeekPrefix+schemas.Reserve.Subject(replicaInstance), schemas.PeekPrefix+schemas.CancelSeqs.Subject(replicaInstance)
	// One subscription: the order matters.
	_, err := c.Conn.Subscribe(schemas.PeekPrefix+">", func(m *nats.Msg) {
		s := seen{at: time.Now()}
		var err error
		switch m.Subject {
		case reserve:
			err = json.Unmarshal(m.Data, &s.reserve)
		case cancel:
			err = json.Unmarshal(m.Data, &s.cancel)
		default:
			return
		}
		if err != nil {
			t.Errorf("%s: %v", m.Subject, err)
		}
		messages <- s
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return messages
}

// TestAClientThatGoesAwayFreesItsBlocksWithinOneStep measures, for each way of going away, how long the blocks
// of a sequence are held: from when the client leaves, and in steps from when the scheduler hears of it.
func TestAClientThatGoesAwayFreesItsBlocksWithinOneStep(t *testing.T) {
	for name, leave := range map[string]func(ctx context.Context, c *soak.Client, body []byte, left func(id string)){
		"closes its connection": func(ctx context.Context, c *soak.Client, body []byte, left func(string)) {
			ctx, hangUp := context.WithCancel(ctx)
			defer hangUp()
			_, _ = c.Post(ctx, "/v1/completions", body, func(e *soak.Ending, events int) {
				if events == 8 {
					hangUp()
					left(e.ID)
				}
			})
		},
		"drops its inbox": func(ctx context.Context, c *soak.Client, body []byte, left func(string)) {
			ctx, drop := context.WithCancel(ctx)
			defer drop()
			_, _ = c.Request(ctx, "inf.v1.generate", body, true, func(e *soak.Ending, events int) {
				if events == 8 {
					drop()
					left(e.ID)
				}
			})
		},
		"cancels": func(ctx context.Context, c *soak.Client, body []byte, left func(string)) {
			_, _ = c.Request(ctx, "inf.v1.generate", body, true, func(e *soak.Ending, events int) {
				if events == 8 {
					left(e.ID)
					if was, err := c.Cancel(ctx, e.ID); err != nil || !was {
						t.Errorf("cancel: %v, running: %v", err, was)
					}
				}
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := openOn(t, network{}, nil)
			c := clientOf(t, e)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			messages := peek(t, c)
			others := streams(ctx, t, c, 3, 60) // the device is busy with them, too
			body := []byte(`{"prompt": "The king", "max_tokens": 400, "ignore_eos": true, "stream": true}`)
			var leftAt time.Time
			leave(ctx, c, body, func(string) { leftAt = time.Now() })
			if leftAt.IsZero() {
				t.Fatal("the stream ended before its client could leave it")
			}
			steps, heard, freed := follow(ctx, t, messages)
			t.Logf("the scheduler heard %v after the client had left, memory %v after; %d steps were planned in between",
				heard.Sub(leftAt).Round(10*time.Microsecond), freed.Sub(leftAt).Round(10*time.Microsecond), steps)
			if steps > 1 {
				t.Errorf("%d steps were planned before memory heard of it; expected at most one", steps)
			}
			for i, other := range others() {
				if !other.OK() {
					t.Errorf("stream %d, which stayed: %v", i, other)
				}
			}
			if _, err := c.WaitQuiet(ctx); err != nil {
				t.Error(err)
			}
		})
	}
}

// follow waits until the scheduler is told to cancel a sequence and until it tells memory to let go of it, and
// counts the steps that it planned in between.
func follow(ctx context.Context, t *testing.T, messages <-chan seen) (steps int, heard, freed time.Time) {
	t.Helper()
	var gone schemas.U64
	for {
		var m seen
		select {
		case m = <-messages:
		case <-ctx.Done():
			t.Fatal(fmt.Errorf("memory never heard that the client had left: %w", ctx.Err()))
		}
		switch {
		case m.cancel != nil && gone == nil:
			gone, heard = m.cancel.Seq, m.at
		case m.reserve != nil && gone != nil:
			if slices.Contains(m.reserve.Release, gone[0]) {
				return steps, heard, m.at
			}
			if len(m.reserve.Seq) > 0 {
				steps++
			}
		}
	}
}
