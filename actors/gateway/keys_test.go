package gateway

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// request sends headers given as name, value pairs and returns the reply with its body.
func request(t *testing.T, c *http.Client, method, url, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp, readAll(resp)
}

func TestAPIKeys(t *testing.T) {
	e := startEngine(t, recite)
	_, server := startGateway(t, e, func(c *Config) { c.APIKeys = []string{"sk-first-key", "sk-second-key"} })
	for _, c := range []struct {
		path, key string
		status    int
	}{
		{"/v1/models", "Bearer sk-first-key", 200},
		{"/v1/models", "bearer sk-second-key", 200},
		{"/v1/models", "Bearer sk-third-key", 401},
		{"/v1/models", "Bearer sk-first-ke", 401},
		{"/v1/models", "Bearer ", 401},
		{"/v1/models", "sk-first-key", 401},
		{"/v1/models", "Basic sk-first-key", 401},
		{"/v1/models", "", 401},
		{"/debug", "", 401},
		{"/nowhere", "", 401}, // what there is, is nobody's business
		{"/metricsx", "", 401},
		{"/health", "", 200},
		{"/health/ready", "", 200},
		{"/metrics", "", 200},
	} {
		resp, body := request(t, server.Client(), "GET", server.URL+c.path, "", "Authorization", c.key)
		if resp.StatusCode != c.status {
			t.Errorf("%s with %q: %d %s", c.path, c.key, resp.StatusCode, body)
		}
		if c.status != 401 {
			continue
		}
		if d := decode[schemas.ErrorReply](t, []byte(body)).Error; d.Type != "invalid_request_error" || *d.Code != "invalid_api_key" || resp.Header.Get("WWW-Authenticate") != "Bearer" {
			t.Errorf("%s with %q: %s", c.path, c.key, body)
		}
	}
	resp, body := request(t, server.Client(), "POST", server.URL+"/v1/completions", `{"prompt":"a"}`, "Authorization", "Bearer sk-second-key")
	if r := <-e.submitted; resp.StatusCode != 200 || !strings.HasPrefix(r.User, "key-") || strings.Contains(r.User, "second") {
		t.Errorf("%d %s; the scheduler was told user %q", resp.StatusCode, body, r.User)
	}
}

// Kernels are submitted with admin keys alone, which are API keys otherwise; where there are no keys, by everybody.
func TestAdminKeys(t *testing.T) {
	e := startEngine(t, nil)
	_, open := startGateway(t, e, nil)
	_, keyed := startGateway(t, e, func(c *Config) {
		c.Instance, c.APIKeys, c.AdminKeys, c.KeylessPaths = "gateway1", []string{"sk-first-key"}, []string{"sk-admin-key"}, []string{"/debug"}
	})
	_, adminOnly := startGateway(t, e, func(c *Config) { c.Instance, c.AdminKeys = "gateway2", []string{"sk-admin-key"} })
	_, noAdmin := startGateway(t, e, func(c *Config) { c.Instance, c.APIKeys = "gateway3", []string{"sk-first-key"} })
	const submit, list = "/debug/compute/submit_kernel", "/debug/compute/kernels"
	for _, c := range []struct {
		server    *httptest.Server
		path, key string
		status    int // 503: it was let through, to an engine that has no such actor
	}{
		{open, submit, "", 503}, {keyed, submit, "sk-admin-key", 503}, {adminOnly, submit, "sk-admin-key", 503},
		{keyed, submit, "sk-first-key", 401}, {keyed, submit, "", 401}, {adminOnly, submit, "", 401}, {noAdmin, submit, "sk-first-key", 401}, {noAdmin, submit, "", 401},
		{keyed, "/debug/compute/%73ubmit_kernel", "", 401}, {noAdmin, "/debug//compute/submit_kernel", "sk-first-key", 401},
		{noAdmin, list, "sk-first-key", 503}, {adminOnly, list, "sk-admin-key", 503}, {adminOnly, list, "sk-first-key", 401},
	} {
		resp, body := request(t, c.server.Client(), "POST", c.server.URL+c.path, "{}", "Authorization", "Bearer "+c.key, "Content-Type", "application/json")
		if resp.StatusCode != c.status {
			t.Errorf("%s with %q: %d %s, want %d", c.path, c.key, resp.StatusCode, body, c.status)
		}
	}
	if resp, body := request(t, keyed.Client(), "GET", keyed.URL+"/v1/models", "", "Authorization", "Bearer sk-admin-key"); resp.StatusCode != 200 {
		t.Errorf("an admin key is no API key: %d %s", resp.StatusCode, body)
	}
}

func TestOneKeyDoesNotStarveAnother(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, func(c *Config) {
		c.APIKeys, c.KeyRequestsMax = []string{"sk-first-key", "sk-second-key"}, 1
	})
	ask := func(key string) (*http.Response, string) {
		return request(t, server.Client(), "POST", server.URL+"/v1/completions", `{"prompt":"a"}`, "Authorization", "Bearer "+key)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		ask("sk-first-key")
	}()
	first := <-e.submitted
	if resp, body := ask("sk-first-key"); resp.StatusCode != 429 || resp.Header.Get("Retry-After") == "" || !strings.Contains(body, "with this API key") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	go func() { e.send(delta{seq: (<-e.submitted).Request.Seq(0), tokens: 1, finish: schemas.FinishStop}) }()
	if resp, body := ask("sk-second-key"); resp.StatusCode != 200 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	e.send(delta{seq: first.Request.Seq(0), tokens: 1, finish: schemas.FinishStop})
	<-done
	settled(t, g, e)
	if len(g.requests.keys) != 0 {
		t.Errorf("keys left: %v", g.requests.keys)
	}
}

func TestParseAPIKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, []byte("# ours\nsk-one-one\n\n  sk-two,two  \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for list, want := range map[string]string{"": "", "sk-one-one, sk-two-two": "sk-one-one sk-two-two", "@" + file: "sk-one-one sk-two,two"} {
		if keys, err := ParseAPIKeys(list); err != nil || strings.Join(keys, " ") != want {
			t.Errorf("%q: %q, %v", list, keys, err)
		}
	}
	for _, list := range []string{"short", " , ", "@/no/such/file", "@" + filepath.Dir(file), "sk-ünicode-key", strings.Repeat("x", 513), "sk-with space"} {
		if keys, err := ParseAPIKeys(list); err == nil || strings.Contains(err.Error(), "ünicode") {
			t.Errorf("%q: %q, %v", list, keys, err)
		}
	}
}

func TestCORS(t *testing.T) {
	e := startEngine(t, nil)
	_, server := startGateway(t, e, func(c *Config) {
		c.CORSOrigins, c.APIKeys = []string{"https://a.example", "http://b.example:8080"}, []string{"sk-first-key"}
	})
	preflight := func(path, origin string) *http.Response {
		resp, _ := request(t, server.Client(), "OPTIONS", server.URL+path, "", "Origin", origin, "Access-Control-Request-Method", "POST",
			"Access-Control-Request-Headers", "authorization,content-type,x-stainless-os")
		return resp
	}
	resp := preflight("/v1/chat/completions", "https://a.example")
	if h := resp.Header; resp.StatusCode != 204 || h.Get("Access-Control-Allow-Origin") != "https://a.example" || h.Get("Vary") != "Origin" ||
		h.Get("Access-Control-Allow-Headers") != "authorization,content-type,x-stainless-os" || !strings.Contains(h.Get("Access-Control-Allow-Methods"), "POST") {
		t.Errorf("%d %v", resp.StatusCode, h)
	}
	for _, c := range [][2]string{{"/v1/chat/completions", "https://evil.example"}, {"/debug/scheduler/policy", "https://a.example"}} {
		if resp := preflight(c[0], c[1]); resp.StatusCode == 204 || resp.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%v: %d %v", c, resp.StatusCode, resp.Header)
		}
	}
	// An error must be readable too.
	if resp, _ := request(t, server.Client(), "GET", server.URL+"/v1/models", "", "Origin", "http://b.example:8080"); resp.StatusCode != 401 || resp.Header.Get("Access-Control-Allow-Origin") == "" {
		t.Errorf("%d %v", resp.StatusCode, resp.Header)
	}
	_, open := startGateway(t, startEngine(t, nil), func(c *Config) { c.CORSOrigins = []string{"*"} })
	if resp, _ := request(t, open.Client(), "GET", open.URL+"/v1/models", "", "Origin", "https://any.example"); resp.Header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("%v", resp.Header)
	}
}

func TestSettingsAreChecked(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"KeylessPaths[0]": func(c *Config) { c.KeylessPaths = []string{"health"} },
		"CORSOrigins[1]":  func(c *Config) { c.CORSOrigins = []string{"*", "https://a.example/path"} },
		"api_keys":        func(c *Config) { c.APIKeys = []string{"x"} },
		"KeyRequestsMax":  func(c *Config) { c.KeyRequestsMax = -1 },
		"PromptTokensMax": func(c *Config) { c.PromptTokensMax = -1 },
	} {
		c := Config{Scheduler: "s", Tokenizer: "t"}
		change(&c)
		if err := c.Validate(); err == nil || err.Param != want {
			t.Errorf("%s: got %v", want, err)
		}
	}
}

// h2c is a client that begins with HTTP/2.
func h2c(t *testing.T) *http.Client {
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// Streams, refusals and clients that leave share one connection and do not disturb each other.
func TestHTTP2(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, func(c *Config) { c.BodyBytesMax, c.BodyTimeMax = 2000, 200*time.Millisecond })
	c := h2c(t)
	open := func(ctx context.Context) *http.Response {
		req, _ := http.NewRequestWithContext(ctx, "POST", server.URL+"/v1/completions", strings.NewReader(`{"prompt":"a","stream":true}`))
		resp, err := c.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		return resp
	}
	stays := open(context.Background())
	seq := (<-e.submitted).Request.Seq(0)
	ctx, leave := context.WithCancel(context.Background())
	leaves := open(ctx)
	gone := (<-e.submitted).Request.Seq(0)
	leave()
	leaves.Body.Close()
	eventually(t, "the stream that was left is cancelled", func() bool { return e.isCancelled(gone) })

	if resp, body := request(t, c, "POST", server.URL+"/v1/completions", strings.Repeat(" ", 3000)); resp.StatusCode != 413 || resp.ProtoMajor != 2 {
		t.Errorf("%d %s over %s", resp.StatusCode, body, resp.Proto)
	}
	slow, hold := io.Pipe()
	req, _ := http.NewRequest("POST", server.URL+"/v1/completions", slow)
	if resp, err := c.Do(req); err != nil || resp.StatusCode != 408 {
		t.Errorf("a slow body: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}
	hold.Close()
	e.send(delta{seq: seq, text: "end", tokens: 1, finish: schemas.FinishStop})
	if text := readAll(stays); !strings.Contains(text, `"text":"end"`) || !strings.HasSuffix(text, sseDone) {
		t.Errorf("the stream that stayed got %s", text)
	}
	settled(t, g, e)
}

func TestPromptLimit(t *testing.T) {
	e := startEngine(t, recite)
	_, server := startGateway(t, e, func(c *Config) { c.PromptTokensMax = 3 })
	resp, body := post(t, server, "/v1/completions", `{"prompt":"a b c d"}`)
	if resp.StatusCode != 400 || !strings.Contains(string(body), "context_length_exceeded") || !strings.Contains(string(body), "allows at most 3") {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
	if resp, body := post(t, server, "/v1/completions", `{"prompt":"a b c"}`); resp.StatusCode != 200 {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}
