package scheduler

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// TestRequestsGoOnFromTheirOutput hands over requests that ran elsewhere, at any point of their answers, and checks
// that the rest is what would have come there.
func TestRequestsGoOnFromTheirOutput(t *testing.T) {
	resumed := 0
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 11))
		w := newWorld(t, Config{ContextMax: 60, SequencesMax: 1 + rng.Int32N(4), WaitingMax: 200, BlockSize: 1 + rng.Int32N(4),
			Blocks: 40, PipelineDepth: 1 + rng.Int32N(3), TokensStepMax: 8})
		for next := uint32(1); next < 8; next++ {
			r := randomRequest(rng, next, nil, w.core.contextMax)
			if r.Embed || r.Choices < 1 || r.Sampling.Rules != nil {
				continue
			}
			r.Resume = &schemas.Resumed{}
			going := false
			for c := range int(r.Choices) {
				want, _ := expected(r, c, w.core.contextMax)
				if cut := rng.IntN(len(want) + 1); cut < len(want) {
					r.Resume.Counts, r.Resume.Tokens = append(r.Resume.Counts, int32(cut)), append(r.Resume.Tokens, want[:cut]...)
					w.answers[r.Request.Seq(c)] = &answer{request: r, tokens: append([]int32(nil), want[:cut]...)}
					going = true
					continue
				}
				r.Resume.Counts = append(r.Resume.Counts, -1)
			}
			if !going {
				continue
			}
			if fx, _ := w.event(Submitted{r}); fx.Refused != nil {
				t.Fatalf("seed %d: %v", seed, fx.Refused)
			}
			resumed++
			for range rng.IntN(6) {
				if len(w.queue) > 0 {
					w.finish()
				}
			}
			if rng.IntN(4) == 0 {
				w.lose()
			}
		}
		w.drain()
		w.check()
	}
	if resumed < 500 {
		t.Errorf("only %d requests were resumed", resumed)
	}
}

func TestWhatCannotBeResumedIsRefused(t *testing.T) {
	w := newWorld(t, Config{ContextMax: 32, SequencesMax: 2, WaitingMax: 8, BlockSize: 4, Blocks: 16, PipelineDepth: 1, TokensStepMax: 8})
	for want, resume := range map[string]*schemas.Resumed{
		"1 counts for 2 choices":             {Counts: schemas.I32{0}},
		"count 0 is -2":                      {Counts: schemas.I32{-2, 0}},
		"the counts and the 3 tokens differ": {Counts: schemas.I32{1, 1}, Tokens: schemas.I32{1, 2, 3}},
		"all choices have ended":             {Counts: schemas.I32{-1, -1}},
		"choice 1 has 4 tokens of output":    {Counts: schemas.I32{0, 4}, Tokens: schemas.I32{1, 2, 3, 4}},
		"token 0 is 997; the vocabulary has": {Counts: schemas.I32{1, 0}, Tokens: schemas.I32{worldVocab}},
	} {
		r := &schemas.SubmitRequest{Request: 0x100, Choices: 2, Tokens: schemas.I32{1, 2}, MaxTokens: 4, Sampling: schemas.SamplingParams{TopP: 1}, Resume: resume}
		if err := w.submit(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
