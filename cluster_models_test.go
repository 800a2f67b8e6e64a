package troupe

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/internal/modelstore"
	"github.com/troupe-engine/troupe/schemas"
)

// otherModel makes a directory with a model of other weights, another chat template and other defaults than the one that ships.
func otherModel(t *testing.T) string {
	t.Helper()
	m, err := modelstore.Find("")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "other")
	if err := os.CopyFS(dir, m.Files); err != nil {
		t.Fatal(err)
	}
	var config map[string]any
	raw, err := os.ReadFile(filepath.Join(dir, "tokenizer_config.json"))
	if err == nil {
		err = json.Unmarshal(raw, &config)
	}
	if err != nil {
		t.Fatal(err)
	}
	config["chat_template"] = "{% for m in messages %}Says {{ m.role }}: {{ m.content }}\n{% endfor %}"
	_ = os.Remove(filepath.Join(dir, "chat_template.jinja")) // it would be the one that counts
	for name, content := range map[string]any{"tokenizer_config.json": config, "generation_config.json": map[string]any{"temperature": 0.4, "top_k": 7}} {
		if err := os.WriteFile(filepath.Join(dir, name), marshal(t, content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// listed are the models that a client is told of.
func listed(t *testing.T, e *Engine) (names []string) {
	t.Helper()
	resp, err := http.Get(e.HTTPURL() + "/v1/models")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var list schemas.ModelList
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		t.Fatal(err)
	}
	for _, card := range list.Data {
		names = append(names, card.ID)
	}
	return names
}

// post returns the status and the text of an answer.
func post(t *testing.T, e *Engine, path, body string, header ...string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, e.HTTPURL()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(raw)
}

// A gateway serves every model that somebody brings a replica and a tokenizer of: by name, each with its own tokenizer, template,
// defaults and weights, and none hurt by another's end.
func TestModelsBehindOneGateway(t *testing.T) {
	dir := otherModel(t)
	other := func(o *Options) { o.Model, o.RandomWeights, o.Threads, o.KVBlocks = dir, 7, 1, 1024 }
	alone := openEngine(t, other)
	theirs, ours := asksFor(t, alone, "other", 71, 10, 700, 3), asks(t, 72, 6, 300)
	const chat = `{"model": "other", "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 20, "seed": 5, "ignore_eos": true}`
	const words = `{"model": "other", "messages": [{"role": "user", "content": "Hello there"}]}`
	_, tokens := post(t, alone, "/tokenize", words)
	var want struct{ Choices []any }
	said := func(text string) struct{ Choices []any } {
		t.Helper()
		var got struct{ Choices []any }
		if err := json.Unmarshal([]byte(text), &got); err != nil || len(got.Choices) == 0 {
			t.Errorf("%v: %s", err, text)
		}
		return got
	}
	_, text := post(t, alone, "/v1/chat/completions", chat)
	want = said(text)

	hub := startHub(t, nil)
	if status, text := post(t, hub, "/v1/completions", `{"model": "other", "prompt": "x"}`); status != http.StatusServiceUnavailable && status != http.StatusNotFound {
		t.Errorf("nobody has it: %d %s", status, text)
	}
	bring := func(name, actors string) *child {
		opts := clusterOptions()
		other(&opts)
		opts.HTTP, opts.Attach, opts.Actors, opts.Node = "none", hub.LeafURL(), actors, name
		return startProcess(t, name, nodeVariable+"="+string(marshal(t, opts)))
	}
	replica := bring("o1", RoleReplica)
	waitFor(t, "its replica is known", func() bool { return reports(t, hub)["o1"] != nil })
	if status, text := post(t, hub, "/v1/completions", `{"model": "other", "prompt": "x"}`); status != http.StatusServiceUnavailable || !strings.Contains(text, "no tokenizer of other is there") {
		t.Errorf("without a tokenizer: %d %s", status, text)
	}
	if names := listed(t, hub); len(names) != 0 {
		t.Errorf("nothing can be asked for, and listed are %q", names)
	}
	bring("t1", RoleTokenizer)
	waitFor(t, "it is listed", func() bool { return len(listed(t, hub)) == 1 })
	if status, text := post(t, hub, "/v1/completions", `{"prompt": "x", "max_tokens": 2}`); status != http.StatusOK || !strings.Contains(text, `"model":"other"`) {
		t.Errorf("the only one there is, asked for without a name: %d %s", status, text)
	}
	startChild(t, hub, "r1")
	second := bring("o2", RoleReplica+","+RoleTokenizer)
	waitFor(t, "all is known", func() bool { return len(reports(t, hub)) == 3 && hub.gateway.Tokenizers() == 3 })
	if names := fmt.Sprint(listed(t, hub)); names != "["+defaultmodel.Name+" other]" {
		t.Errorf("listed are %s", names)
	}

	askTogether(t, hub, theirs, func() { askTogether(t, hub, ours, func() {}) })
	if _, text := post(t, hub, "/tokenize", words); text != tokens {
		t.Errorf("got tokens %s\nwant       %s", text, tokens)
	}
	_, text = post(t, hub, "/v1/chat/completions", chat)
	if got := said(text); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("got %v\nwant %v", got, want)
	}
	if got := said(string(askNATS(t, clientOf(t, hub), "inf.v1.chat", chat).Data)); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("over NATS: got %v\nwant %v", got, want)
	}
	if status, text := post(t, hub, "/v1/completions", `{"model": "third", "prompt": "x"}`); status != http.StatusNotFound || !strings.Contains(text, `\"`+defaultmodel.Name+`\", \"other\"`) {
		t.Errorf("a third: %d %s", status, text)
	}
	for version, want := range map[string]int{bus.BuildVersion: http.StatusOK, "v9.9.9": http.StatusServiceUnavailable} {
		if status, text := post(t, hub, "/v1/completions", `{"model": "other", "prompt": "x", "max_tokens": 2}`, "Troupe-Version", version); status != want {
			t.Errorf("version %s: %d %s", version, status, text)
		}
	}
	if all := metrics(t, hub); !strings.Contains(all, `troupe_generation_tokens_total{model_name="other"}`) || !strings.Contains(all, `vllm:generation_tokens_total{model_name="`+defaultmodel.Name+`"}`) {
		t.Error("tokens are not counted by model")
	}

	// Replica and tokenizer of one die while they are at work: what they did goes on at those that are left.
	askTogether(t, hub, theirs, func() {
		askTogether(t, hub, ours, func() {
			waitFor(t, "tokens come from there", func() bool { r := reports(t, hub)["o2"]; return r != nil && r.Running > 0 })
			second.kill()
		})
	})
	if hub.gateway.Moved() == 0 {
		t.Error("nothing moved; nothing was tested")
	}
	replica.kill()
	waitFor(t, "it is listed no more", func() bool { return len(listed(t, hub)) == 1 })
	if status, text := post(t, hub, "/v1/completions", `{"model": "other", "prompt": "x"}`); status != http.StatusServiceUnavailable || !strings.Contains(text, "no replica of other is there") {
		t.Errorf("its replicas are gone: %d %s", status, text)
	}
	askTogether(t, hub, ours, func() {})
	waitHoldsNothing(t, hub.node, "r1")
}
