package gateway

import (
	"net/http"
	"regexp"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

const hello = `"messages":[{"role":"user","content":"a b c"}]`

func TestChatWhole(t *testing.T) {
	e := startEngine(t, recite)
	_, server := startGateway(t, e, nil)
	resp, body := post(t, server, "/v1/chat/completions", `{"model":"fake",`+hello+`,"max_tokens":3,"n":2}`)
	c := decode[schemas.ChatCompletion](t, body)
	if resp.StatusCode != 200 || len(c.Choices) != 2 || c.Choices[1].Message.Content != "w0 w1 w2 " || c.Choices[1].FinishReason != "length" {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	if !regexp.MustCompile(`^chatcmpl-[0-9a-f]{16}$`).MatchString(c.ID) || resp.Header.Get("X-Request-Id") != strings.TrimPrefix(c.ID, "chatcmpl-") {
		t.Fatalf("id %q, X-Request-Id %q", c.ID, resp.Header.Get("X-Request-Id"))
	}
	if u := c.Usage; u.PromptTokens != 3 || u.CompletionTokens != 6 || u.TotalTokens != 9 || u.PromptDetails.CachedTokens != 0 {
		t.Fatalf("%s", body)
	}
}

var volatile = regexp.MustCompile(`cmpl-[0-9a-f]{16}|"created":\d+`)

func TestStreamsAreFramedAsClientsExpect(t *testing.T) {
	e := startEngine(t, nil)
	_, server := startGateway(t, e, nil)
	for _, c := range []struct{ path, body, want string }{
		{"/v1/chat/completions", `{` + hello + `,"stream":true,"stream_options":{"include_usage":true}}`, `
data: {"id":"chatX","object":"chat.completion.chunk",X,"model":"fake","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatX","object":"chat.completion.chunk",X,"model":"fake","choices":[{"index":0,"delta":{"content":"one"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatX","object":"chat.completion.chunk",X,"model":"fake","choices":[{"index":0,"delta":{"content":" two"},"logprobs":null,"finish_reason":null}],"usage":null}

data: {"id":"chatX","object":"chat.completion.chunk",X,"model":"fake","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"usage":null}

data: {"id":"chatX","object":"chat.completion.chunk",X,"model":"fake","choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,"prompt_tokens_details":{"cached_tokens":1}}}

data: [DONE]

`},
		{"/v1/completions", `{"prompt":"a b c","stream":true}`, `
data: {"id":"X","object":"text_completion",X,"model":"fake","choices":[{"index":0,"text":"one","logprobs":null,"finish_reason":null}]}

data: {"id":"X","object":"text_completion",X,"model":"fake","choices":[{"index":0,"text":" two","logprobs":null,"finish_reason":"stop"}]}

data: [DONE]

`}} {
		go func() {
			seq := (<-e.submitted).Request.Seq(0)
			e.send(delta{seq: seq, text: "one", tokens: 1, cached: 1})
			eventually(t, "the first row is read", func() bool { return e.unread() == 0 })
			e.send(delta{seq: seq, text: " two", tokens: 2, cached: 1, finish: schemas.FinishStop})
		}()
		resp, body := post(t, server, c.path, c.body)
		if kind := resp.Header.Get("Content-Type"); resp.StatusCode != 200 || kind != "text/event-stream" {
			t.Fatalf("%d %s", resp.StatusCode, kind)
		}
		if got := "\n" + volatile.ReplaceAllString(string(body), "X"); got != c.want {
			t.Errorf("got %s\nwant %s", got, c.want)
		}
	}
}

func TestCompletionOfSeveralPrompts(t *testing.T) {
	e := startEngine(t, recite)
	_, server := startGateway(t, e, nil)
	resp, body := post(t, server, "/v1/completions", `{"prompt":[[1,2],[3]],"n":2,"max_tokens":2,"seed":-1,"temperature":0.5}`)
	c := decode[schemas.Completion](t, body)
	if resp.StatusCode != 200 || len(c.Choices) != 4 || c.Choices[3].Index != 3 || c.Choices[3].Text != "w0 w1 " {
		t.Fatalf("%d %s", resp.StatusCode, body)
	}
	if c.Usage.PromptTokens != 3 || c.Usage.CompletionTokens != 8 {
		t.Fatalf("%s", body)
	}
	first := <-e.submitted
	want := schemas.SamplingParams{Temperature: 0.5, TopP: 1, Seed: 1<<64 - 1}
	if first.Sampling != want || first.Tokenizer != "tokenizer0" || len(first.Tokens) != 2 || first.StopTokens[0] != 2 {
		t.Fatalf("%+v", first)
	}
}

func TestModelsHealthAndUnknownPaths(t *testing.T) {
	e := startEngine(t, nil)
	_, server := startGateway(t, e, nil)
	for _, c := range []struct {
		method, path string
		status       int
		contains     string
	}{
		{"GET", "/v1/models", 200, `"id":"fake","object":"model"`},
		{"GET", "/v1/models/alias", 200, `"root":"fake","max_model_len":64`},
		{"GET", "/v1/models/org/name", 200, `"id":"org/name"`},
		{"GET", "/v1/models/org%2Fname", 200, `"id":"org/name"`},
		{"GET", "/v1/models/other", 404, `"code":"model_not_found"`},
		{"GET", "/v1/models/", 404, `"code":"model_not_found"`},
		{"GET", "/health", 200, `"status":"ok"`},
		{"GET", "/health/ready", 200, `"status":"ready"`},
		{"GET", "/v1/nothing", 404, `"type":"invalid_request_error"`},
		{"GET", "/v1/completions", 405, `use POST`},
		{"DELETE", "/v1/models", 405, `use GET`},
	} {
		req, _ := http.NewRequest(c.method, server.URL+c.path, nil)
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		body := readAll(resp)
		if resp.StatusCode != c.status || !strings.Contains(body, c.contains) {
			t.Errorf("%s %s: %d %s; want %d with %s", c.method, c.path, resp.StatusCode, body, c.status, c.contains)
		}
	}
}

// What a request's headers alone make wrong. Programs send no Origin; a page's own server is no stranger to it.
func TestHeadersThatAreRefused(t *testing.T) {
	e := startEngine(t, recite)
	_, server := startGateway(t, e, func(c *Config) { c.CORSOrigins = []string{"https://a.example"} })
	for _, c := range []struct {
		path, name, value string
		status            int
		contains          string
	}{
		{"/v1/chat/completions", "Content-Encoding", "gzip", 415, `Content-Encoding is \"gzip\"`},
		{"/v1/chat/completions", "Content-Encoding", "identity", 200, `"object":"chat.completion"`},
		{"/v1/chat/completions", "Origin", "https://evil.example", 403, `pages of \"https://evil.example\"`},
		{"/v1/chat/completions", "Sec-Fetch-Site", "cross-site", 403, "cors_origins"},
		{"/v1/chat/completions", "Origin", "https://a.example", 200, `"object":"chat.completion"`},
		{"/v1/chat/completions", "Origin", server.URL, 200, `"object":"chat.completion"`},
		{"/debug/scheduler/policy", "Origin", "https://a.example", 403, "may not use this server"},
	} {
		req, _ := http.NewRequest("POST", server.URL+c.path, strings.NewReader(`{`+hello+`,"max_tokens":1}`))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set(c.name, c.value)
		resp, err := server.Client().Do(req)
		if err != nil {
			t.Fatal(err)
		}
		if body := readAll(resp); resp.StatusCode != c.status || !strings.Contains(body, c.contains) {
			t.Errorf("%s with %s: %s: %d %s; want %d with %s", c.path, c.name, c.value, resp.StatusCode, body, c.status, c.contains)
		}
	}
}
