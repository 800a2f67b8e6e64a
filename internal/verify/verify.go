package verify

import (
	"context"
	"fmt"
	"io/fs"
	"math"
	"slices"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
	"github.com/troupe-engine/troupe/internal/replica"
	"github.com/troupe-engine/troupe/schemas"
)

// Result is how one way of running the golden prompt compared.
type Result struct {
	Scenario    string  `json:"scenario"`
	MaxError    float64 `json:"max_abs_logit_error"` // against the golden logits, over positions computed
	Positions   int     `json:"positions"`           // compared with the golden
	Greedy      int     `json:"greedy_match"`        // leading golden tokens reproduced
	GreedyOf    int     `json:"greedy_of"`
	Identical   bool    `json:"identical"` // bit for bit the logits and tokens of the prompt run alone
	Cached      int32   `json:"cached_tokens"`
	Preemptions uint64  `json:"preemptions"`
	RoPEBF16    bool    `json:"rope_bf16"`         // compared with rotary frequencies rounded to bfloat16
	Failure     string  `json:"failure,omitempty"` // why the scenario does not pass
}

// scenario is a way to run requests: limits that force the engine to do it, and what must be seen to
// believe that it did.
type scenario struct {
	name     string
	config   replica.Config
	requests func(g *Golden) [][]request // rounds; the golden prompt is the first request of the last
	happened func(r *Result) string
	// logprobs: what is compared are the log-probabilities that the requests ask for, as clients see them.
	logprobs bool
}

func scenarios(g *Golden) []scenario {
	n := int32(len(g.Greedy))
	whole := request{prompt: g.Prompt, tokens: n}
	others := func(count int) []request {
		list := []request{whole}
		for i := 1; i < count; i++ { // other lengths and other tokens
			p := slices.Clone(g.Prompt[:max(1, len(g.Prompt)*i/count)])
			slices.Reverse(p)
			list = append(list, request{prompt: p, tokens: n})
		}
		return list
	}
	one := func(list ...request) func(*Golden) [][]request {
		return func(*Golden) [][]request { return [][]request{list} }
	}
	length := len(g.Prompt) + len(g.Greedy)
	chunks := func(budget int) replica.Config {
		return replica.Config{TokensStepMax: budget, SequencesMax: min(budget, 4), ContextMax: length + 1, PrefixCacheOff: true, BlockSize: 4}
	}
	tight := 2*((length+3)/4) + 3 // blocks of 4 tokens: room for two sequences of four
	return []scenario{
		{name: "alone", config: replica.Config{ContextMax: length + 1, PrefixCacheOff: true}, requests: one(whole)},
		{name: "batched with 7 others", config: replica.Config{ContextMax: length + 1, PrefixCacheOff: true}, requests: one(others(8)...)},
		{name: "chunks of 3", config: chunks(3), requests: one(whole)},
		{name: "chunks of 7, batched", config: chunks(7), requests: one(others(4)...)},
		{name: "preempted and resumed", config: replica.Config{ContextMax: length + 1, SequencesMax: 4, BlockSize: 4, KVBlocks: tight, PrefixCacheOff: true},
			// The golden prompt comes last, so it is the one that must give way.
			requests: func(*Golden) [][]request { l := others(4); return [][]request{append(l[1:], whole)} },
			happened: func(r *Result) string {
				if r.Preemptions == 0 {
					return "nothing was preempted"
				}
				return ""
			}},
		{name: "from the prefix cache", config: replica.Config{ContextMax: length + 1, BlockSize: 4},
			requests: func(*Golden) [][]request { return [][]request{{whole}, {whole}} },
			happened: func(r *Result) string {
				if r.Cached == 0 {
					return "nothing came from the cache"
				}
				return ""
			}},
		{name: "3 choices sharing blocks", config: replica.Config{ContextMax: length + 1, BlockSize: 16}, requests: one(request{prompt: g.Prompt, tokens: n, n: 3})},
		{name: "log-probabilities", logprobs: true,
			config:   replica.Config{TokensStepMax: 5, SequencesMax: 4, ContextMax: length + 1, PrefixCacheOff: true, BlockSize: 4},
			requests: one(reporting(others(4))...)},
	}
}

// reporting makes requests ask for log-probabilities, each for another number of candidates, and the last for none.
func reporting(list []request) []request {
	for i := range list[:len(list)-1] {
		list[i].rules = &schemas.SamplingRules{Logprobs: int32(6 - i), PromptLogprobs: int32(6 - i)}
	}
	return list
}

// Run executes every scenario on a device that open provides and compares with the golden. tol bounds the
// absolute logit error. Some references were cast to bfloat16 as a whole, rotary frequencies included; if
// only that explains the golden, the scenarios run that way, and their results say so.
func Run(ctx context.Context, files fs.FS, g *Golden, open func() (gpu.Device, error), tol float64, report func(Result)) error {
	var alone *outcome
	rounded := false
	for _, s := range scenarios(g) {
		s.config.RoPEBF16 = rounded
		list, r, err := runScenario(ctx, files, g, open, s)
		if err == nil && alone == nil {
			if compare(r, list[0], g, list[0]); !(r.MaxError <= tol) {
				s.config.RoPEBF16 = true
				l, cast, castErr := runScenario(ctx, files, g, open, s)
				if castErr == nil {
					compare(cast, l[0], g, l[0])
					rounded = cast.MaxError <= tol
				}
				if rounded {
					list, r = l, cast
				}
			}
			alone = list[0]
		} else if err == nil {
			for _, o := range list {
				if s.logprobs {
					compareLogprobs(r, o, g, tol)
				}
				compare(r, o, g, alone)
			}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		r.RoPEBF16 = rounded
		r.judge(tol, s.happened)
		report(*r)
	}
	return nil
}

// judge fills in Failure.
func (r *Result) judge(tol float64, happened func(*Result) string) {
	switch {
	case r.Failure != "":
	case !(r.MaxError <= tol): // also for a NaN tolerance
		r.Failure = fmt.Sprintf("logit error %.3g is over %.3g", r.MaxError, tol)
	case r.Greedy < r.GreedyOf:
		r.Failure = fmt.Sprintf("greedy token %d differs", r.Greedy)
	case !r.Identical:
		r.Failure = "not bit-identical to the prompt run alone"
	case happened != nil:
		r.Failure = happened(r)
	}
}

// runScenario returns the outcomes of the golden prompt's choices.
func runScenario(ctx context.Context, files fs.FS, g *Golden, open func() (gpu.Device, error), s scenario) (_ []*outcome, _ *Result, err error) {
	e, err := openEngine(files, open, s.config, !s.logprobs)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if closeErr := e.close(); err == nil {
			err = closeErr
		}
	}()
	var golden []*outcome
	rounds := s.requests(g)
	for _, round := range rounds {
		list, err := e.run(ctx, round)
		if err != nil {
			return nil, nil, err
		}
		golden = golden[:0]
		at := 0
		for _, r := range round {
			n := int(max(r.n, 1))
			if slices.Equal(r.prompt, g.Prompt) {
				golden = append(golden, list[at:at+n]...)
			}
			at += n
		}
	}
	state, err := e.schedulerState()
	if err != nil {
		return nil, nil, err
	}
	return golden, &Result{Scenario: s.name, Identical: true, Greedy: len(g.Greedy), GreedyOf: len(g.Greedy), Preemptions: state.Preemptions, Cached: golden[0].cached}, nil
}

// compare holds one outcome of the golden prompt to the golden and to the one that ran alone.
func compare(r *Result, o *outcome, g *Golden, alone *outcome) {
	if o.err != nil {
		r.Failure = o.err.Error()
	}
	match := 0
	for match < min(len(g.Greedy), len(o.tokens)) && o.tokens[match] == g.Greedy[match] {
		match++
	}
	r.Greedy = min(r.Greedy, match)
	r.Identical = r.Identical && slices.Equal(o.tokens, alone.tokens)
	for pos, row := range o.logits {
		if want := alone.logits[pos]; want == nil || !slices.Equal(row, want) {
			r.Identical = false
		}
		if int(pos) >= len(g.Prompt) {
			continue
		}
		if len(row) != len(g.Logits[pos]) {
			r.Failure = fmt.Sprintf("the golden has logits of %d tokens, the model of %d", len(g.Logits[pos]), len(row))
			return
		}
		r.Positions++
		for i, v := range row {
			d := math.Abs(float64(v) - float64(g.Logits[pos][i]))
			if math.IsNaN(d) || math.IsInf(d, 0) { // no number of a report
				r.Failure = fmt.Sprintf("the logit of token %d at position %d is %v, the golden's %v", i, pos, v, g.Logits[pos][i])
				return
			}
			r.MaxError = max(r.MaxError, d)
		}
	}
}

// compareLogprobs holds the log-probabilities of an outcome's prompt and first token to those of the golden logits.
func compareLogprobs(r *Result, o *outcome, g *Golden, tol float64) {
	for pos := range g.Prompt {
		next := int32(pos + 1)
		list := o.logprobs[next]
		if len(list) < 2 {
			r.Failure = fmt.Sprintf("the token at position %d has %d candidates", next, len(list))
			return
		}
		token := o.tokens[0]
		if pos+1 < len(g.Prompt) {
			token = g.Prompt[pos+1]
		}
		if list[0].token != token {
			r.Failure = fmt.Sprintf("the log-probabilities of position %d begin with token %d; it is %d", next, list[0].token, token)
			return
		}
		r.Positions++
		ids := make([]int32, len(list))
		for i, c := range list {
			ids[i] = c.token
		}
		for i, want := range ref.LogSoftmax(g.Logits[pos], ids) {
			r.MaxError = max(r.MaxError, math.Abs(float64(want-list[i].logprob)))
			if i > 1 && list[i].logprob > list[i-1].logprob {
				r.Failure = fmt.Sprintf("the candidates of position %d are not in order", next)
			}
		}
		if pos+1 < len(g.Prompt) {
			compareRank(r, o.ranks[next], g.Logits[pos], token, next, float32(tol))
		}
		if likeliest := slices.Max(g.Logits[pos]); g.Logits[pos][list[1].token] < likeliest-float32(2*r.MaxError) {
			r.Failure = fmt.Sprintf("the first candidate of position %d is token %d, which is not the likeliest", next, list[1].token)
		}
	}
}

// compareRank holds the rank of a prompt's token to the golden logits, each of which may be off by tol: the order of
// two that are nearer than twice that is not certain.
func compareRank(r *Result, rank int32, logits []float32, token, pos int32, tol float32) {
	lowest, highest := int32(1), int32(0)
	for _, v := range logits {
		if v > logits[token]+2*tol {
			lowest++
		}
		if v >= logits[token]-2*tol {
			highest++
		}
	}
	if rank < lowest || rank > highest {
		r.Failure = fmt.Sprintf("the token at position %d has rank %d; by the golden logits it is %d to %d", pos, rank, lowest, highest)
	}
}
