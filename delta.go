package troupe

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// eventChoice is a choice in an event of a chat (delta) or a completion (text).
type eventChoice struct {
	Index    int                `json:"index"`
	Text     string             `json:"text"`
	Delta    *schemas.ChatDelta `json:"delta"`
	Finish   *string            `json:"finish_reason"`
	Logprobs *struct {
		schemas.ChatLogprobs
		Tokens        []string             `json:"tokens"`
		TokenLogprobs []*float32           `json:"token_logprobs"`
		TopLogprobs   []map[string]float32 `json:"top_logprobs"`
	} `json:"logprobs"`
}

// eachDelta yields what one event holds. top is how many likeliest tokens were asked for.
func eachDelta(raw []byte, top int, yield func(Delta, error) bool) error {
	var event struct {
		ID      string         `json:"id"`
		Choices []eventChoice  `json:"choices"`
		Usage   *schemas.Usage `json:"usage"`
	}
	if err := json.Unmarshal(raw, &event); err != nil {
		err := schemas.Errorf(schemas.KindInternal, "generate", "the engine sent an event that is no JSON: %v", err)
		yield(Delta{}, err)
		return err
	}
	for i := range event.Choices {
		d := event.Choices[i].delta(top)
		d.ID = event.ID
		if (d.Text != "" || d.Finish != "" || len(d.ToolCalls) > 0 || len(d.Logprobs) > 0) && !yield(d, nil) {
			return errStopped
		}
	}
	if event.Usage != nil && !yield(Delta{ID: event.ID, Usage: event.Usage}, nil) {
		return errStopped
	}
	return nil
}

func (c *eventChoice) delta(top int) Delta {
	d := Delta{Index: c.Index, Text: c.Text, Logprobs: c.logprobs(top)}
	if c.Delta != nil {
		d.ToolCalls = c.Delta.ToolCalls
		if c.Delta.Content != nil {
			d.Text = *c.Delta.Content
		}
	}
	if c.Finish != nil {
		d.Finish = *c.Finish
	}
	return d
}

// logprobs has the form of a chat's, from either kind of event.
func (c *eventChoice) logprobs(top int) []schemas.ChatLogprob {
	l := c.Logprobs
	if l == nil {
		return nil
	}
	list := l.Content
	for i, token := range l.Tokens {
		one := schemas.ChatLogprob{TopLogprob: topLogprob(token, 0)}
		if i < len(l.TokenLogprobs) && l.TokenLogprobs[i] != nil { // the first token of an echoed prompt has none
			one.Logprob = *l.TokenLogprobs[i]
		}
		if i < len(l.TopLogprobs) {
			one.TopLogprobs = likeliest(l.TopLogprobs[i], top)
		}
		list = append(list, one)
	}
	return list
}

// likeliest orders the tokens of a completion's place, of which there may be one too many: the sampled one.
func likeliest(of map[string]float32, top int) []schemas.TopLogprob {
	list := make([]schemas.TopLogprob, 0, len(of))
	for token, value := range of {
		list = append(list, topLogprob(token, value))
	}
	slices.SortFunc(list, func(a, b schemas.TopLogprob) int {
		return cmp.Or(cmp.Compare(b.Logprob, a.Logprob), cmp.Compare(a.Token, b.Token))
	})
	return list[:min(len(list), top)]
}

func topLogprob(token string, value float32) schemas.TopLogprob {
	t := schemas.TopLogprob{Token: token, Logprob: value, Bytes: schemas.U8(token)}
	if digits, ok := strings.CutPrefix(token, `bytes:\x`); ok { // see schemas.TokenText
		if b, err := hex.DecodeString(strings.ReplaceAll(digits, `\x`, "")); err == nil {
			t.Bytes = b
		}
	}
	return t
}
