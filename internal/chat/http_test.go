package chat

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// serve answers chats with a status and a body.
func serve(t *testing.T, status int, body string) Client {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Authorization"); got != "Bearer key" {
			t.Errorf("authorization %q", got)
		}
		switch r.URL.Path {
		case "/v1/models":
			_, _ = io.WriteString(w, `{"data":[{"id":"m","max_model_len":77}]}`)
		case "/v1/chat/completions":
			request, _ := io.ReadAll(r.Body)
			if !strings.Contains(string(request), `"model":"m"`) {
				t.Errorf("the request names no model: %s", request)
			}
			w.WriteHeader(status)
			_, _ = io.WriteString(w, body)
		default:
			t.Errorf("asked for %s", r.URL.Path)
		}
	}))
	t.Cleanup(s.Close)
	c, err := NewHTTPClient(s.URL+"/v1/", "", "key")
	if err != nil {
		t.Fatal(err)
	}
	if n := c.ContextMax(t.Context()); n != 77 {
		t.Errorf("the context has %d tokens; want 77", n)
	}
	return c
}

func TestStreamsOverHTTP(t *testing.T) {
	const event = `data: {"choices":[{"index":0,"delta":{"content":"a"}},{"index":1,"delta":{"content":"z"}}]}` + "\n\n"
	for name, c := range map[string]struct {
		status     int
		body       string
		text, want string // want is of the error
	}{
		"whole":        {200, ": hello\n\n" + event + event + `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}` + "\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":3}}\n\ndata: [DONE]\n\n", "aa", ""},
		"breaks off":   {200, event, "a", "broke off"},
		"error inside": {200, event + `data: {"error":{"message":"gone"}}` + "\n\n", "a", "gone"},
		"no JSON":      {200, "data: {\n\n", "", "no JSON"},
		"endless line": {200, "data: " + strings.Repeat("x", eventBytesMax+1), "", "too long"},
		"refused":      {400, `{"error":{"message":"bad temperature"}}`, "", "bad temperature"},
		"proxy":        {502, "<html>", "", "502 Bad Gateway"},
		"empty":        {200, "", "", "broke off"},
	} {
		var text strings.Builder
		reply, err := serve(t, c.status, c.body).Answer(context.Background(), []Message{{roleUser, "x"}}, schemas.GenerationParams{}, func(s string) { text.WriteString(s) })
		switch {
		case text.String() != c.text:
			t.Errorf("%s: text %q; want %q", name, text.String(), c.text)
		case c.want == "" && (err != nil || reply.Finish != "stop" || reply.Usage.PromptTokens != 3):
			t.Errorf("%s: %+v %v", name, reply, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	_, err := serve(t, 400, `{"error":{"message":"too long","code":"context_length_exceeded"}}`).Answer(context.Background(), nil, schemas.GenerationParams{}, nil)
	if !tooLong(err) {
		t.Errorf("%v is not seen as a conversation that is too long", err)
	}
}
