package scheduler

import (
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// TestAPromptThatDoesNotFitIsNotBegun: the blocks that are left hold the first chunks of a prompt, but not all of
// it. Begun all the same, it would be computed chunk by chunk and given up, again and again, at the cost of
// whoever decodes meanwhile.
func TestAPromptThatDoesNotFitIsNotBegun(t *testing.T) {
	for _, cacheOff := range []bool{true, false} {
		w := newWorld(t, Config{ContextMax: 200, SequencesMax: 4, WaitingMax: 16, TokensStepMax: 8, BlockSize: 4, Blocks: 30, PipelineDepth: 2,
			PrefixCacheOff: cacheOff})
		long := &schemas.SubmitRequest{Request: schemas.NewRequestID(1, 1), Choices: 1, Tokens: prompt(40, 1), MaxTokens: 60, Sampling: schemas.SamplingParams{TopP: 1}}
		big := &schemas.SubmitRequest{Request: schemas.NewRequestID(1, 2), Choices: 1, Tokens: prompt(90, 2), MaxTokens: 2, Sampling: schemas.SamplingParams{TopP: 1}}
		for _, r := range []*schemas.SubmitRequest{long, big} {
			if err := w.submit(r); err != nil {
				t.Fatal(err)
			}
		}
		w.drain()
		w.check()
		if n := w.core.count.prefilled; n != 130 {
			t.Errorf("prefix cache off %v: %d prompt tokens were computed for prompts of 130; %d preemptions", cacheOff, n, w.core.count.preemptions)
		}
	}
}

func prompt(n int, first int32) (tokens schemas.I32) {
	for i := range n {
		tokens = append(tokens, (first*100+int32(i))%worldVocab)
	}
	return tokens
}
