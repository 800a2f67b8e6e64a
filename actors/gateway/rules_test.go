package gateway

import (
	"reflect"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

func TestRulesReachTheScheduler(t *testing.T) {
	e := startEngine(t, recite)
	_, server := startGateway(t, e, nil)
	for _, c := range []struct {
		path, body string
		want       *schemas.SamplingRules
		salted     bool
	}{
		{"/v1/chat/completions", `{` + hello + `,"presence_penalty":1,"frequency_penalty":-0.5,"repetition_penalty":1.5,"logit_bias":{"7":-100,"3":2.5}}`,
			&schemas.SamplingRules{PresencePenalty: 1, FrequencyPenalty: -0.5, RepetitionPenalty: 1.5, BiasTokens: schemas.I32{3, 7}, BiasValues: schemas.F32{2.5, -100}}, false},
		{"/v1/chat/completions", `{` + hello + `,"logprobs":true}`, &schemas.SamplingRules{Logprobs: 1}, false},
		{"/v1/chat/completions", `{` + hello + `,"logprobs":true,"top_logprobs":20,"prompt_logprobs":0}`, &schemas.SamplingRules{Logprobs: 21, PromptLogprobs: 1}, true},
		{"/v1/completions", `{"prompt":"a","logprobs":5}`, &schemas.SamplingRules{Logprobs: 6}, false},
		{"/v1/completions", `{"prompt":"a","logprobs":5,"echo":true,"max_tokens":0}`, &schemas.SamplingRules{Logprobs: 6, PromptLogprobs: 6}, true},
		{"/v1/completions", `{"prompt":"a","echo":true,"repetition_penalty":1}`, nil, false},
	} {
		resp, body := post(t, server, c.path, c.body)
		r := <-e.submitted
		if resp.StatusCode != 200 || !reflect.DeepEqual(r.Sampling.Rules, c.want) || (r.CacheSalt == uint64(r.Request)) != c.salted {
			t.Errorf("%s: %d %s\n got %+v salt %x\nwant %+v", c.body, resp.StatusCode, body, r.Sampling.Rules, r.CacheSalt, c.want)
		}
		if strings.Contains(c.body, `"max_tokens":0`) && r.MaxTokens != 1 {
			t.Errorf("%s: max_tokens is %d; the scheduler wants at least 1", c.body, r.MaxTokens)
		}
	}
}

func TestGuidesAreCompiledFirst(t *testing.T) {
	e := startEngine(t, recite)
	_, server := startGateway(t, e, nil)
	for extra, want := range map[string]schemas.Guide{
		`"response_format":{"type":"json_object"}`: {Kind: "json_object"},
		`"response_format":{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":{"b": 1, "a":2}}}`: {Kind: "json_schema", Source: `{"b":1,"a":2}`},
		`"guided_json":"{\"type\":\"object\"}"`:     {Kind: "json_schema", Source: `{"type":"object"}`},
		`"guided_regex":"a+"`:                       {Kind: "regex", Source: "a+"},
		`"regex":"a+"`:                              {Kind: "regex", Source: "a+"},
		`"grammar":"root ::= \"a\""`:                {Kind: "grammar", Source: `root ::= "a"`},
		`"guided_choice":["yes","n\"o\\\n"]`:        {Kind: "grammar", Source: `root ::= "yes" | "n\"o\\\n"`},
		`"structured_outputs":{"choice":["a"]}`:     {Kind: "grammar", Source: `root ::= "a"`},
		`"structured_outputs":{"json_object":true}`: {Kind: "json_object"},
	} {
		resp, body := post(t, server, "/v1/chat/completions", `{`+hello+`,"max_tokens":9,`+extra+`}`)
		if resp.StatusCode != 200 {
			t.Errorf("%s: %d %s", extra, resp.StatusCode, body)
			continue
		}
		compiled := e.compiles[len(e.compiles)-1]
		r := <-e.submitted
		if compiled.Guide != want || compiled.MaxTokens != 9 || *r.Sampling.Rules.Guide != want {
			t.Errorf("%s: compiled %+v, submitted %+v; want %+v", extra, compiled, r.Sampling.Rules.Guide, want)
		}
	}
}

func lp(prompt bool, width int32, tokens schemas.I32, values schemas.F32, texts ...string) schemas.TextLogprobs {
	l := schemas.TextLogprobs{Logprobs: schemas.TokenLogprobs{Prompt: prompt, Width: width, Tokens: tokens, Values: values}}
	for _, s := range texts {
		l.Bytes = append(l.Bytes, []byte(s))
	}
	return l
}

// The whole way of log-probabilities: rows of several tokens, of the prompt, and the end token's, which is not told.
func TestLogprobsAreAnswered(t *testing.T) {
	e := startEngine(t, func(e *engine, r *schemas.SubmitRequest) {
		seq := r.Request.Seq(0)
		prompt := lp(true, 2, schemas.I32{2, 2, 3, 9}, schemas.F32{-1, -1, -2, -0.5}, "two", "two", "three", "nine")
		prompt.Logprobs.Ranks = schemas.I32{1, 44}
		e.send(delta{seq: seq, text: "a", tokens: 1, id: 10, logprobs: []schemas.TextLogprobs{prompt,
			lp(false, 2, schemas.I32{10, 11}, schemas.F32{-0.75, -0.25}, "a", "b")}})
		e.send(delta{seq: seq, text: "", tokens: 2, id: e.info.EndTokens[0], finish: schemas.FinishStop, logprobs: []schemas.TextLogprobs{
			lp(false, 2, schemas.I32{2, 2}, schemas.F32{-1, -1}, "</s>", "</s>")}})
	})
	g, server := startGateway(t, e, nil)
	_, body := post(t, server, "/v1/completions", `{"prompt":[1,2,3],"logprobs":1,"prompt_logprobs":1}`)
	c := decode[schemas.Completion](t, body).Choices[0]
	if l := c.Logprobs; len(l.Tokens) != 1 || *l.TokenLogprobs[0] != -0.75 || l.TopLogprobs[0]["b"] != -0.25 || l.TopLogprobs[0]["a"] != -0.75 {
		t.Errorf("%s", body)
	}
	if p := c.PromptLogprobs; len(p) != 3 || p[0] != nil || p[1]["2"].Rank != 1 || p[2]["3"].Rank != 44 || p[2]["9"].Rank != 1 || p[2]["9"].DecodedToken != "nine" {
		t.Errorf("%s", body)
	}
	_, body = post(t, server, "/v1/completions", `{"prompt":[1,2,3],"logprobs":1,"echo":true,"prompt_logprobs":0}`)
	c = decode[schemas.Completion](t, body).Choices[0] // each with as many of the likeliest as it asked for
	if p := c.PromptLogprobs; len(p) != 3 || len(p[2]) != 1 || len(c.Logprobs.TopLogprobs) != 4 || len(c.Logprobs.TopLogprobs[2]) != 2 {
		t.Errorf("%s", body)
	}
	_, body = post(t, server, "/v1/chat/completions", `{`+hello+`,"logprobs":true,"top_logprobs":1}`)
	if l := decode[schemas.ChatCompletion](t, body).Choices[0].Logprobs; len(l.Content) != 1 || l.Content[0].Bytes[0] != 'a' || l.Content[0].TopLogprobs[0].Token != "b" {
		t.Errorf("%s", body)
	}
	_, body = post(t, server, "/v1/completions", `{"prompt":[1,2,3],"logprobs":0,"echo":true,"max_tokens":0}`)
	c = decode[schemas.Completion](t, body).Choices[0]
	if c.Text != "t1 t2 t3 " || len(c.Logprobs.Tokens) != 3 || c.Logprobs.TokenLogprobs[0] != nil || c.Logprobs.Tokens[0] != "t1 " {
		t.Errorf("%s", body)
	}
	settled(t, g, e)
}

func TestMalformedLogprobsAreRefused(t *testing.T) {
	good := lp(false, 1, schemas.I32{1}, schemas.F32{-1}, "a")
	for what, spoil := range map[string]func(*schemas.TextLogprobs){
		"row":    func(l *schemas.TextLogprobs) { l.Logprobs.Row = 1 },
		"width":  func(l *schemas.TextLogprobs) { l.Logprobs.Width = 0 },
		"wide":   func(l *schemas.TextLogprobs) { l.Logprobs.Width = 22 },
		"uneven": func(l *schemas.TextLogprobs) { l.Logprobs.Width = 2 },
		"values": func(l *schemas.TextLogprobs) { l.Logprobs.Values = nil },
		"ranks":  func(l *schemas.TextLogprobs) { l.Logprobs.Ranks = schemas.I32{1, 2} },
		"texts":  func(l *schemas.TextLogprobs) { l.Bytes = nil },
		"above":  func(l *schemas.TextLogprobs) { l.Logprobs.Values = schemas.F32{1} },
	} {
		l := good
		spoil(&l)
		b := batchOf(delta{seq: 1, text: "a", tokens: 1})
		b.Logprobs = []schemas.TextLogprobs{l}
		if err := checkBatch(b); err == nil || err.Param != "logprobs" {
			t.Errorf("%s: got %v", what, err)
		}
	}
}
