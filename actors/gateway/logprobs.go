package gateway

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/schemas"
)

// logprob is the log-probability of one token, and of the likeliest ones at its place in descending order.
type logprob struct {
	token int32
	text  string // its bytes, which may be part of a character
	value float32
	rank  int32 // of a token of the prompt among all, from 1; 0 if that is not known
	top   []logprob
}

// logprobsOf reads the message from the tokenizer, which has width candidates per token: itself, then the
// likeliest.
func logprobsOf(t *schemas.TextLogprobs) []logprob {
	l := &t.Logprobs
	all := make([]logprob, len(l.Tokens))
	for i := range all {
		all[i] = logprob{token: l.Tokens[i], text: string(t.Bytes[i]), value: max(l.Values[i], schemas.LogprobMin)}
	}
	width := int(l.Width)
	out := make([]logprob, len(all)/width)
	for i := range out {
		out[i] = all[i*width]
		out[i].top = all[i*width+1 : (i+1)*width]
		if len(l.Ranks) > 0 {
			out[i].rank = l.Ranks[i]
		}
	}
	return out
}

// checkLogprobs refuses what does not fit the rows of its batch.
func checkLogprobs(t *schemas.TextLogprobs, rows int) *schemas.Error {
	l := &t.Logprobs
	n := len(l.Tokens)
	if !l.Fits(rows) || l.Width > schemas.LogprobsMax+1 || len(t.Bytes) != n {
		return schemas.Errorf(schemas.KindInvalid, "deltas", "logprobs of row %d of %d have width %d and %d tokens, %d values, %d texts, %d ranks; expected as many of each, a multiple of the width",
			l.Row, rows, l.Width, n, len(l.Values), len(t.Bytes), len(l.Ranks)).WithParam("logprobs")
	}
	for _, v := range l.Values {
		if v != v || v > 1e-3 { // rounding may exceed 0
			return schemas.Errorf(schemas.KindInvalid, "deltas", "a log-probability is %v; expected at most 0", v).WithParam("logprobs")
		}
	}
	return nil
}

// logprobBytes is what a token's log-probabilities take while they wait for a client, roughly.
const logprobBytes = 64

func sizeOfLogprobs(list []logprob) int {
	size := 0
	for i := range list {
		size += logprobBytes * (1 + len(list[i].top))
	}
	return size
}

// chatLogprobs is nil if none were asked for.
func (a *answer) chatLogprobs(list []logprob) *schemas.ChatLogprobs {
	if !a.job.logprobs {
		return nil
	}
	out := &schemas.ChatLogprobs{Content: make([]schemas.ChatLogprob, len(list))}
	for i := range list {
		out.Content[i] = schemas.ChatLogprob{TopLogprob: topLogprob(&list[i]), TopLogprobs: make([]schemas.TopLogprob, len(list[i].top))}
		for k := range list[i].top {
			out.Content[i].TopLogprobs[k] = topLogprob(&list[i].top[k])
		}
	}
	return out
}

func topLogprob(l *logprob) schemas.TopLogprob {
	return schemas.TopLogprob{Token: schemas.TokenText(l.text), Logprob: l.value, Bytes: schemas.U8(l.text)}
}

// completionLogprobs writes a completion's log-probabilities as they come.
type completionLogprobs struct {
	out    *schemas.CompletionLogprobs
	offset int // characters so far
}

func newCompletionLogprobs(offset int) *completionLogprobs {
	return &completionLogprobs{&schemas.CompletionLogprobs{TextOffset: []int{}, TokenLogprobs: []*float32{}, Tokens: []string{},
		TopLogprobs: []map[string]float32{}}, offset}
}

// add appends tokens.
func (c *completionLogprobs) add(list []logprob) {
	for i := range list {
		l := &list[i]
		top := make(map[string]float32, 1+len(l.top))
		for k := range l.top {
			top[schemas.TokenText(l.top[k].text)] = l.top[k].value
		}
		top[schemas.TokenText(l.text)] = l.value
		c.addOne(l.text, &l.value, top)
	}
}

func (c *completionLogprobs) addOne(text string, value *float32, top map[string]float32) {
	c.out.TextOffset = append(c.out.TextOffset, c.offset)
	c.out.Tokens = append(c.out.Tokens, schemas.TokenText(text))
	c.out.TokenLogprobs = append(c.out.TokenLogprobs, value)
	c.out.TopLogprobs = append(c.out.TopLogprobs, top)
	c.offset += characters(text)
}

// characters counts those that begin in text, which may start or end within one.
func characters(text string) (n int) {
	for i := range len(text) {
		if utf8.RuneStart(text[i]) {
			n++
		}
	}
	return n
}

// addPrompt appends an echoed prompt, with at most top likeliest tokens at each place. A token that is not in its text, such as the one that begins every
// prompt, takes no room there.
func (c *completionLogprobs) addPrompt(p *prompt, top int) {
	at := 0 // bytes of p.text
	place := func(token string) {
		c.offset = characters(p.text[:at])
		if strings.HasPrefix(p.text[at:], token) {
			at += len(token)
		} else if bare := strings.TrimPrefix(token, " "); at == 0 && bare != "" && strings.HasPrefix(p.text, bare) {
			at += len(bare) // tokenizers that put a space before the text
		}
	}
	place(p.first)
	c.addOne(p.first, nil, nil)
	for i := range p.logprobs {
		l := p.logprobs[i]
		l.top = l.top[:min(top, len(l.top))] // another parameter may have asked for more
		place(l.text)
		c.add([]logprob{l})
	}
	c.offset = characters(p.text)
}

// promptLogprobs is vLLM's form of a prompt's log-probabilities, nil if none were asked for.
func (a *answer) promptLogprobs(p *prompt) []schemas.PromptLogprobs {
	if !a.job.promptLogprobs {
		return nil
	}
	out := make([]schemas.PromptLogprobs, 1, 1+len(p.logprobs)) // the first token has none
	for i := range p.logprobs {
		l := &p.logprobs[i]
		at := make(schemas.PromptLogprobs, 1+a.job.promptTop)
		put := func(l *logprob, rank int32) {
			at[strconv.Itoa(int(l.token))] = schemas.RankedLogprob{Logprob: l.value, Rank: rank, DecodedToken: schemas.TokenText(l.text)}
		}
		put(l, l.rank)
		for k := range l.top[:min(a.job.promptTop, len(l.top))] {
			put(&l.top[k], int32(k+1))
		}
		out = append(out, at)
	}
	return out
}
