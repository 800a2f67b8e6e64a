package soak

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// How a client behaves.
const (
	patient    = iota // reads to the end
	hangsUp           // closes the connection, or drops its inbox, on the way
	cancels           // asks inf.v1.cancel on the way
	behaviours = 3
)

// job is one request of the mix.
type job struct {
	path, subject string
	body          []byte
	stream        bool
	overHTTP      bool
	choices       int
	behaviour     int
	afterEvents   int           // of a stream, before the client loses patience
	after         time.Duration // the same for a whole answer
	bad           bool          // must be refused
}

var words = strings.Fields("once upon a time there was king queen forest river house old young little great gold silver the and of in with his her son daughter wolf")

func text(rng *rand.Rand, count int) string {
	var b strings.Builder
	for range count {
		b.WriteString(words[rng.IntN(len(words))])
		b.WriteByte(' ')
	}
	return b.String()
}

// mix draws a request.
func mix(rng *rand.Rand, outputMax int) job {
	j := job{overHTTP: rng.IntN(2) == 0, stream: rng.IntN(2) == 0, choices: 1}
	if rng.IntN(6) == 0 {
		j.bad = true
		chat := rng.IntN(2) == 0
		j.address(chat)
		j.body = badBody(rng, chat)
		return j
	}
	if rng.IntN(3) == 0 {
		j.behaviour = hangsUp + rng.IntN(behaviours-1)
		j.afterEvents, j.after = 1+rng.IntN(8), time.Duration(rng.IntN(40))*time.Millisecond
	}
	if j.behaviour == cancels {
		j.stream = true // otherwise the client never learns what to cancel
	}
	j.body = j.goodBody(rng, outputMax)
	return j
}

func (j *job) address(chat bool) {
	j.path, j.subject = "/v1/completions", schemas.SubjectPrefix+"generate"
	if chat {
		j.path, j.subject = "/v1/chat/completions", schemas.SubjectPrefix+"chat"
	}
}

func (j *job) goodBody(rng *rand.Rand, outputMax int) []byte {
	body := map[string]any{"max_tokens": 1 + rng.IntN(outputMax), "temperature": rng.Float64() * 1.2, "stream": j.stream,
		"priority": rng.IntN(5) - 2}
	prompt := text(rng, 1+rng.IntN(40))
	if rng.IntN(3) == 0 { // a common prefix
		prompt = strings.Repeat("There was a king who had twelve daughters. ", 3) + prompt
	}
	chat := rng.IntN(3) == 0
	j.address(chat)
	if chat {
		body["messages"] = []map[string]string{{"role": "user", "content": prompt}}
	} else {
		body["prompt"] = prompt
	}
	if rng.IntN(4) == 0 {
		j.choices = 2 + rng.IntN(3)
		body["n"] = j.choices
	}
	if rng.IntN(4) == 0 {
		body["stop"] = []string{text(rng, 1), ".", "\n"}[:1+rng.IntN(3)]
	}
	if rng.IntN(4) == 0 {
		body["seed"], body["top_k"], body["top_p"] = rng.IntN(100), 1+rng.IntN(50), 0.1+0.9*rng.Float64()
	}
	if rng.IntN(8) == 0 {
		body["ignore_eos"] = true
	}
	return mustJSON(body)
}

// badBody is a request that must be refused, one of every kind.
func badBody(rng *rand.Rand, chat bool) []byte {
	body := map[string]any{"prompt": "x", "max_tokens": 4}
	if chat {
		body = map[string]any{"messages": []map[string]string{{"role": "user", "content": "x"}}, "max_tokens": 4}
	}
	spoils := []map[string]any{
		{"temperature": -1}, {"temperature": 1e30}, {"temperature": "warm"}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -7}, {"min_p": 2},
		{"n": 0}, {"n": -1}, {"n": 1 << 40}, {"n": 1.5}, {"max_tokens": 0}, {"max_tokens": -1}, {"max_tokens": 1 << 50}, {"max_tokens": "many"},
		{"model": "no-such-model"}, {"stop": []any{"a", 1}}, {"stop": ""}, {"seed": "x"}, {"stream": "yes"}, {"stream_options": 1},
		{"prompt": nil, "messages": nil}, {"prompt": map[string]any{}, "messages": map[string]any{}}, {"prompt": []int{-1}, "messages": []int{1}},
		{"prompt": []int{1 << 30}, "messages": "hello"}, {"prompt": []any{}, "messages": []any{}},
		{"prompt": strings.Repeat("long ", 20000), "messages": []map[string]string{{"role": "user", "content": strings.Repeat("long ", 20000)}}},
		{"stop_token_ids": []int{1 << 30}}, {"priority": "high"}, {"min_tokens": -1},
	}
	for k, v := range spoils[rng.IntN(len(spoils))] {
		if _, mine := body[k]; mine || k != "prompt" && k != "messages" {
			body[k] = v
		}
	}
	raw := mustJSON(body)
	switch rng.IntN(6) {
	case 0:
		return raw[:rng.IntN(len(raw)-1)] // cut off
	case 1:
		at := rng.IntN(len(raw))
		return append(append([]byte{}, raw[:at]...), 0xff, 0xfe, '"', '{') // and spoilt
	}
	return raw
}

func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("soak: %v", err)) // numbers, strings, lists and maps of them
	}
	return b
}

// judge says what is wrong with an ending, or nil. gaveUp: the client lost patience, so nothing it got is wrong.
func (j *job) judge(e *Ending, err error, gaveUp bool) error {
	if gaveUp {
		if e != nil && e.Endings > 1 {
			return fmt.Errorf("a request that was given up ended %d times: %v", e.Endings, e)
		}
		return nil
	}
	switch {
	case err != nil:
		return fmt.Errorf("no ending: %v %w", e, err)
	case e.Endings != 1:
		return fmt.Errorf("%d endings: %v", e.Endings, e)
	case e.Status == http.StatusTooManyRequests:
		if e.RetryAfter == "" {
			return fmt.Errorf("429 without Retry-After: %v", e)
		}
		return nil
	case j.bad:
		if e.Status < 400 || e.Status >= 500 || e.Detail == "" {
			return fmt.Errorf("a bad request was answered %v\n%.300s", e, j.body)
		}
		return nil
	case !e.OK():
		return fmt.Errorf("failed: %v", e)
	case len(e.Finishes) != j.choices:
		return fmt.Errorf("%d choices of %d: %v", len(e.Finishes), j.choices, e)
	}
	for i, finish := range e.Finishes {
		if finish != "stop" && finish != "length" {
			return fmt.Errorf("choice %d finished %q: %v", i, finish, e)
		}
	}
	return nil
}
