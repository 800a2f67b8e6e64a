package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/troupe-engine/troupe/internal/soak"
	"github.com/troupe-engine/troupe/schemas"
)

// paths are where the API of a recorded request is served.
var paths = map[string]string{"chat": "/v1/chat/completions", "completion": "/v1/completions", "response": "/v1/responses", "embedding": "/v1/embeddings"}

// IntoConfig says how recorded requests are sent to an engine.
type IntoConfig struct {
	URL   string  // of its HTTP API
	Speed float64 // 2 is twice as fast as recorded; 0 sends everything as fast as Concurrency allows
	// Concurrency bounds the requests at once; 0: no bound, as recorded.
	Concurrency int
	Key         string // API key, or ""
	Model       string // instead of the recorded model, or ""
	Progress    func(done, total int)
}

// IntoReport compares an engine's answers with the recorded ones.
type IntoReport struct {
	Requests    int              `json:"requests"`
	Sent        int              `json:"sent"`
	Left        int              `json:"left_out"` // redacted, or of an API that cannot be compared
	Same        int              `json:"same_text"`
	Different   int              `json:"different_text"`
	GivenUp     int              `json:"given_up"`              // by the recorded client, and so here
	Failed      int              `json:"failed"`                // here, but not in the recording
	Recovered   int              `json:"recovered"`             // in the recording, but not here
	Differences []IntoDifference `json:"differences,omitempty"` // the first few
	Duration    float64          `json:"duration"`
	Recorded    float64          `json:"recorded_duration"`
	// PacingError is the mean lateness of requests as a part of the replay's length.
	PacingError float64   `json:"pacing_error"`
	TTFT        Quantiles `json:"ttft_ms"`
	E2EL        Quantiles `json:"e2el_ms"`
}

// Quantiles of a latency, as recorded and as measured now, in milliseconds.
type Quantiles struct {
	Recorded [3]float64 `json:"recorded"` // p50, p90, p99
	Replayed [3]float64 `json:"replayed"`
}

// IntoDifference is one answer that is not the recorded one.
type IntoDifference struct {
	Request  schemas.RequestID `json:"request"`
	What     string            `json:"what"`
	Recorded string            `json:"recorded"`
	Replayed string            `json:"replayed"`
}

const (
	differencesMax = 10
	textShown      = 120
)

// outcome is how one request went.
type outcome struct {
	late, ttft, took time.Duration
	ending           *soak.Ending
	err              error
	givenUp          bool
}

// Into sends the requests to an engine and compares.
func Into(ctx context.Context, requests []*Request, cfg IntoConfig) (*IntoReport, error) {
	client := &soak.Client{HTTPURL: cfg.URL, HTTP: &http.Client{Transport: &authorized{cfg.Key, &http.Transport{MaxIdleConnsPerHost: 1024}}}}
	defer client.HTTP.CloseIdleConnections()
	report := &IntoReport{Requests: len(requests)}
	var send []*Request
	for _, q := range requests {
		if q.Body == nil || q.API != "chat" && q.API != "completion" {
			report.Left++
			continue
		}
		send = append(send, q)
	}
	outcomes := make([]outcome, len(send))
	limit := cfg.Concurrency
	if limit == 0 {
		limit = len(send) + 1
	}
	slots := make(chan struct{}, limit)
	var running sync.WaitGroup
	var mu sync.Mutex
	done := 0
	began := time.Now()
	for i, q := range send {
		due := began
		if cfg.Speed > 0 {
			due = began.Add(time.Duration(float64(q.At) / cfg.Speed))
			select {
			case <-time.After(time.Until(due)):
			case <-ctx.Done():
			}
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		outcomes[i].late = time.Since(due)
		running.Go(func() {
			cfg.ask(ctx, client, q, &outcomes[i])
			<-slots
			mu.Lock()
			defer mu.Unlock()
			if done++; cfg.Progress != nil {
				cfg.Progress(done, len(send))
			}
		})
	}
	running.Wait()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	report.Duration = time.Since(began).Seconds()
	report.judge(send, outcomes, cfg)
	return report, nil
}

// ask sends one request as a stream, so that its first token can be timed.
func (cfg *IntoConfig) ask(ctx context.Context, client *soak.Client, q *Request, o *outcome) {
	body := map[string]json.RawMessage{}
	for k, v := range q.Body {
		body[k] = v
	}
	body["stream"] = json.RawMessage("true")
	if _, chosen := body["seed"]; !chosen && q.Seed != nil {
		body["seed"] = json.RawMessage(fmt.Sprint(int64(*q.Seed)))
	}
	if cfg.Model != "" {
		body["model"], _ = json.Marshal(cfg.Model) // a string
	}
	raw, err := json.Marshal(body)
	if err != nil {
		o.err = err
		return
	}
	gaveUp := q.Err != nil && q.Err.Kind == schemas.KindCanceled
	if gaveUp {
		patience := q.Took
		if cfg.Speed > 0 {
			patience = time.Duration(float64(patience) / cfg.Speed)
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, patience)
		defer cancel()
	}
	began := time.Now()
	o.ending, o.err = client.Post(ctx, paths[q.API], raw, func(e *soak.Ending, _ int) {
		if o.ttft == 0 && slices.ContainsFunc(e.Texts, func(s string) bool { return s != "" }) {
			o.ttft = time.Since(began)
		}
	})
	o.took = time.Since(began)
	o.givenUp = gaveUp && errors.Is(ctx.Err(), context.DeadlineExceeded)
}

// judge fills in the report.
func (r *IntoReport) judge(requests []*Request, outcomes []outcome, cfg IntoConfig) {
	var ttft, took [2][]time.Duration
	var late time.Duration
	for i, q := range requests {
		o := &outcomes[i]
		r.Sent++
		late += o.late
		recordedOK := q.Ended && q.Err == nil
		replayedOK := o.err == nil && o.ending != nil && o.ending.OK()
		switch {
		case q.Err != nil && q.Err.Kind == schemas.KindCanceled || o.givenUp || !q.Ended:
			r.GivenUp++
		case recordedOK && !replayedOK:
			r.Failed++
			r.add(q, "failed", "an answer", failure(o))
		case !recordedOK && replayedOK:
			r.Recovered++
			r.add(q, "answered", q.Err.Error(), "an answer")
		case recordedOK:
			r.texts(q, o)
			if q.TTFT > 0 && o.ttft > 0 {
				ttft[0], ttft[1] = append(ttft[0], q.TTFT), append(ttft[1], o.ttft)
			}
			took[0], took[1] = append(took[0], q.Took), append(took[1], o.took)
		}
	}
	r.TTFT = Quantiles{quantiles(ttft[0]), quantiles(ttft[1])}
	r.E2EL = Quantiles{quantiles(took[0]), quantiles(took[1])}
	if n := len(requests); n > 0 {
		r.Recorded = requests[n-1].At.Seconds()
		if length := r.Recorded; cfg.Speed > 0 && length > 0 {
			r.PacingError = late.Seconds() / float64(n) / (length / cfg.Speed)
		}
	}
}

// texts compares an answer's choices with the recorded ones.
func (r *IntoReport) texts(q *Request, o *outcome) {
	if _, tools := q.Body["tools"]; tools {
		r.Same++ // what is text and what are calls depends on the stream; both were answered
		return
	}
	for i, seq := range q.Seqs {
		got := ""
		if i < len(o.ending.Texts) {
			got = o.ending.Texts[i]
		}
		if want := q.Texts[seq]; got != want {
			r.Different++
			r.add(q, fmt.Sprintf("choice %d", i), clip(want), clip(got))
			return
		}
	}
	r.Same++
}

func (r *IntoReport) add(q *Request, what, recorded, replayed string) {
	if len(r.Differences) < differencesMax {
		r.Differences = append(r.Differences, IntoDifference{q.ID, what, recorded, replayed})
	}
}

func failure(o *outcome) string {
	if o.err != nil {
		return o.err.Error()
	}
	return fmt.Sprintf("%d %s", o.ending.Status, o.ending.Detail)
}

func clip(s string) string {
	if r := []rune(s); len(r) > textShown {
		return string(r[:textShown]) + "…"
	}
	return s
}

// quantiles are p50, p90 and p99 in milliseconds.
func quantiles(d []time.Duration) (q [3]float64) {
	if len(d) == 0 {
		return q
	}
	slices.Sort(d)
	for i, p := range []float64{0.5, 0.9, 0.99} {
		q[i] = float64(d[int(p*float64(len(d)-1)+0.5)]) / 1e6
	}
	return q
}

// authorized adds an API key to requests.
type authorized struct {
	key  string
	base *http.Transport
}

func (a *authorized) RoundTrip(r *http.Request) (*http.Response, error) {
	if a.key != "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+a.key)
	}
	return a.base.RoundTrip(r)
}

// CloseIdleConnections ends those that nobody uses.
func (a *authorized) CloseIdleConnections() { a.base.CloseIdleConnections() }
