package troupe

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/troupe-engine/troupe/internal/soak"
	"github.com/troupe-engine/troupe/schemas"
)

// streams runs long streams, half over HTTP and half over NATS, and returns once all of them flow. wait gives
// their endings.
func streams(ctx context.Context, t *testing.T, c *soak.Client, count, tokens int) (wait func() []*soak.Ending) {
	t.Helper()
	endings := make([]*soak.Ending, count)
	var flowing, ended sync.WaitGroup
	for i := range endings {
		body := fmt.Appendf(nil, `{"prompt": "The king", "max_tokens": %d, "ignore_eos": true, "temperature": 1, "seed": %d, "stream": true}`, tokens, i)
		flowing.Add(1)
		var once sync.Once
		watch := func(*soak.Ending, int) { once.Do(flowing.Done) }
		ended.Go(func() {
			var err error
			if i%2 == 0 {
				endings[i], err = c.Post(ctx, "/v1/completions", body, watch)
			} else {
				endings[i], err = c.Request(ctx, "inf.v1.generate", body, true, watch)
			}
			if err != nil {
				t.Errorf("stream %d: %v %v", i, endings[i], err)
			}
			once.Do(flowing.Done)
		})
	}
	flowing.Wait()
	return func() []*soak.Ending {
		ended.Wait()
		return endings
	}
}

// refused asks an engine that drains. It must say so at once, and when to come back.
func refused(ctx context.Context, t *testing.T, c *soak.Client) {
	t.Helper()
	body := []byte(`{"prompt": "x", "max_tokens": 1}`)
	overHTTP, err := c.Post(ctx, "/v1/completions", body, nil)
	if err != nil {
		t.Error(err)
		return
	}
	overNATS, err := c.Request(ctx, "inf.v1.generate", body, false, nil)
	if err != nil {
		t.Error(err)
		return
	}
	for _, e := range []*soak.Ending{overHTTP, overNATS} {
		if e.Status != http.StatusServiceUnavailable || e.RetryAfter == "" || !strings.Contains(e.Detail, "shutting down") {
			t.Errorf("while draining, a request got %v, Retry-After %q; expected 503 for shutting down", e, e.RetryAfter)
		}
	}
	resp, err := c.HTTP.Get(c.HTTPURL + "/health/ready")
	if err != nil {
		t.Error(err)
		return
	}
	if resp.Body.Close(); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("while draining, /health/ready is %d", resp.StatusCode)
	}
}

func TestDrainLetsStreamsFinish(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	e := openOn(t, network{}, nil)
	c := clientOf(t, e)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	const tokens = 120
	wait := streams(ctx, t, c, 6, tokens)
	drained := make(chan error, 1)
	go func() { drained <- e.Drain(ctx) }()
	for {
		s, err := c.State(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if s.Gateway.Draining {
			break
		}
	}
	refused(ctx, t, c)
	for i, ending := range wait() {
		if !ending.OK() || ending.Endings != 1 || ending.Finishes[0] != "length" {
			t.Errorf("stream %d: %v, %d endings; expected all %d tokens", i, ending, ending.Endings, tokens)
		}
	}
	if err := <-drained; err != nil {
		t.Errorf("every stream has finished, but: %v", err)
	}
	if s, err := c.State(ctx); err != nil || s.Scheduler.Tokens < 6*tokens || s.Quiet() != nil {
		t.Errorf("%v: %d tokens, %v", err, s.Scheduler.Tokens, s.Quiet())
	}
	c.Close()
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

func TestDrainCancelsWhatOutlastsTheGracePeriod(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	e := openOn(t, network{}, nil)
	c := clientOf(t, e)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	wait := streams(ctx, t, c, 6, 400)
	grace, over := context.WithTimeout(ctx, 20*time.Millisecond)
	defer over()
	err := e.Drain(grace)
	if !errors.Is(err, &schemas.Error{Kind: schemas.KindCanceled}) {
		t.Errorf("draining gave %v; expected how many requests were cancelled", err)
	}
	for i, ending := range wait() {
		if ending.Status != http.StatusServiceUnavailable || ending.Endings != 1 || !strings.Contains(ending.Detail, "incomplete") || ending.Texts[0] == "" {
			t.Errorf("stream %d: %v, %d endings; expected a beginning and 503 for shutting down", i, ending, ending.Endings)
		}
	}
	if _, err := c.WaitQuiet(ctx); err != nil {
		t.Error(err)
	}
	c.Close()
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// TestCloseUnderLoad closes an engine in the middle of everything: every client learns, nothing is left.
func TestCloseUnderLoad(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	e := openOn(t, network{}, nil)
	c := clientOf(t, e)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	wait := streams(ctx, t, c, 6, 400)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	for i, ending := range wait() {
		if ending.Status != http.StatusServiceUnavailable || ending.Endings != 1 {
			t.Errorf("stream %d: %v, %d endings; expected 503", i, ending, ending.Endings)
		}
	}
	c.Close()
}
