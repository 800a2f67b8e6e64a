package scheduler

import (
	"fmt"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// benchCore is a core with 64 running sequences and so many that wait.
func benchCore(b *testing.B, policy string, waiting int) *Core {
	b.Helper()
	w := newWorld(b, Config{ContextMax: 600, SequencesMax: 64, WaitingMax: 1 << 16, TokensStepMax: 1 << 20, BlockSize: 16, Blocks: 64 * 40, PipelineDepth: 1, Policy: policy})
	for n := range uint32(64 + waiting) {
		r := &schemas.SubmitRequest{Request: schemas.NewRequestID(1, n+1), Choices: 1, Tokens: prompt(64+int(n*7%200), int32(n%50)), MaxTokens: int32(50 + n*13%200),
			Sampling: schemas.SamplingParams{TopP: 1, Seed: uint64(n)}, User: fmt.Sprint("user", n%20), DeadlineMs: int64(1000 + n*31%5000)}
		w.now += 1e6
		if err := w.submit(r); err != nil {
			b.Fatal(err)
		}
	}
	w.finish()
	if len(w.core.running) != 64 || len(w.core.waiting) != waiting {
		b.Fatalf("%d run and %d wait", len(w.core.running), len(w.core.waiting))
	}
	return w.core
}

// BenchmarkOrder is what a policy costs each step: keys and order of 64 running sequences and a queue.
func BenchmarkOrder(b *testing.B) {
	for _, policy := range Policies() {
		for _, waiting := range []int{16, 1024} {
			b.Run(fmt.Sprintf("%s/waiting=%d", policy, waiting), func(b *testing.B) {
				c := benchCore(b, policy, waiting)
				if c.dynamic == nil {
					b.Skip("the order does not change: it costs nothing each step")
				}
				for b.Loop() {
					c.now += 1e6
					c.rekey()
				}
			})
		}
	}
}

// BenchmarkAsk is what a question to a policy in another process and its answer cost the step: the rest happens beside it.
func BenchmarkAsk(b *testing.B) {
	for _, waiting := range []int{16, 1024} {
		b.Run(fmt.Sprintf("waiting=%d", waiting), func(b *testing.B) {
			c := benchCore(b, "nats:mine", waiting)
			c.external.asked = nil
			reply := lastFirst(&Question{Request: c.Queue()}).Reply
			for b.Loop() {
				c.step++
				q := c.askPolicy(c.external)
				v := c.view()
				reply.Number = q.Request.Number
				if fell, _ := c.external.answer(&schemas.RankOutcome{Number: reply.Number, Reply: reply}, &v); fell != nil {
					b.Fatal(fell)
				}
			}
		})
	}
}

// BenchmarkShadow is what a shadow costs each decision.
func BenchmarkShadow(b *testing.B) {
	for _, policy := range []string{"shortest", "fair"} {
		for _, waiting := range []int{16, 1024} {
			b.Run(fmt.Sprintf("%s/waiting=%d", policy, waiting), func(b *testing.B) {
				c := benchCore(b, "fcfs", waiting)
				p, err := PolicyByName(policy)
				if err != nil {
					b.Fatal(err)
				}
				c.Shadow(c.now, p)
				for b.Loop() {
					v := c.view()
					c.shadow.decide(&v)
				}
				if c.shadow.report.Failed != "" || c.shadow.report.Decisions == 0 {
					b.Fatalf("%+v", c.shadow.report)
				}
			})
		}
	}
}
