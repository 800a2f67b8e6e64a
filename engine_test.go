package troupe

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
)

func openEngine(t testing.TB, change func(*Options)) *Engine {
	t.Helper()
	opts := DefaultOptions()
	opts.HTTP, opts.NATSListen = "127.0.0.1:0", "127.0.0.1:0"
	if change != nil {
		change(&opts)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	e, err := Open(ctx, opts, zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func complete(t testing.TB, e *Engine, body string) string {
	t.Helper()
	resp, err := http.Post(e.HTTPURL()+"/v1/completions", "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("status %d: %s %v", resp.StatusCode, raw, err)
	}
	var answer struct {
		Choices []struct {
			Text   string `json:"text"`
			Finish string `json:"finish_reason"`
		} `json:"choices"`
	}
	if err := json.Unmarshal(raw, &answer); err != nil || len(answer.Choices) == 0 {
		t.Fatalf("%s: %v", raw, err)
	}
	return answer.Choices[0].Text
}

func TestStories260KTellsItsStory(t *testing.T) {
	const dir = "../shared/models/stories260K-hf"
	if _, err := os.Stat(dir); err != nil {
		t.Skip("SKIPPED: " + dir + " is not here; the trained model's story is not read")
	}
	e := openEngine(t, func(o *Options) { o.Model = dir })
	text := complete(t, e, `{"prompt": "", "max_tokens": 60, "temperature": 0}`)
	t.Logf("stories260K: %s", text)
	if !strings.HasPrefix(strings.TrimSpace(text), "Once upon a time") {
		t.Errorf("the story begins %.40q; expected \"Once upon a time\"", text)
	}
}

func TestDefaultModelContinuesAPrompt(t *testing.T) {
	e := openEngine(t, nil)
	text := complete(t, e, `{"prompt": "Once upon a time there was a", "max_tokens": 60, "temperature": 0}`)
	t.Logf("default model: %s", text)
	if len(strings.Fields(text)) < 10 {
		t.Errorf("the answer is %q; expected a dozen words", text)
	}
}
