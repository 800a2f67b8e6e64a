package measure

import (
	"context"
	"sync"
	"time"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// Outcome is what a client saw of a request, in time since the load began.
type Outcome struct {
	Sent, First, Last time.Duration
	Tokens            int
	Err               error
}

// specialTokens are the lowest ids, which prompts of made-up tokens leave out.
const specialTokens = 4

// Send sends a workload to an engine at its times, and returns what came of each request and how long all of it took.
// Prompts are made-up tokens, others for another number, lest an engine finds what it was sent before in its prefix cache;
// answers are as long as the workload says, whatever the model says.
func Send(ctx context.Context, e *troupe.Engine, t *traces.Trace, number int) ([]Outcome, time.Duration, error) {
	info, err := e.Info(ctx)
	if err != nil {
		return nil, 0, err
	}
	prompts := make([][]int32, len(t.Requests))
	for i := range t.Requests {
		prompts[i] = t.Requests[i].PromptTokens(nil, info.VocabSize-specialTokens, number<<24+i)
		for j := range prompts[i] {
			prompts[i][j] += specialTokens
		}
	}
	outcomes := make([]Outcome, len(t.Requests))
	client := e.Client()
	var all sync.WaitGroup
	began := time.Now()
	for i := range t.Requests {
		if err := sleepUntil(ctx, began.Add(time.Duration(t.Requests[i].ArrivalNs))); err != nil {
			break
		}
		all.Go(func() { outcomes[i] = ask(ctx, client, prompts[i], int64(t.Requests[i].Output), began) })
	}
	all.Wait()
	return outcomes, time.Since(began), ctx.Err()
}

func ask(ctx context.Context, client *troupe.Client, prompt []int32, output int64, began time.Time) (o Outcome) {
	zero, no := 0.0, false
	r := troupe.GenerateRequest{Tokens: prompt, AddSpecialTokens: &no, GenerationParams: schemas.GenerationParams{MaxTokens: &output, IgnoreEOS: true, Temperature: &zero}}
	o.Sent = time.Since(began)
	for delta, err := range client.Generate(ctx, r) {
		if err != nil {
			o.Err = err
			return o
		}
		if delta.Usage != nil {
			o.Tokens = int(delta.Usage.CompletionTokens)
			continue // comes after the last token
		}
		o.Last = time.Since(began)
		if o.First == 0 {
			o.First = o.Last
		}
	}
	return o
}

func sleepUntil(ctx context.Context, at time.Time) error {
	select {
	case <-time.After(time.Until(at)):
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
