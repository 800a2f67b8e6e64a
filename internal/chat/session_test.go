package chat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	"github.com/troupe-engine/troupe/schemas"
)

// fakeClient answers "1", "2" … or with what do returns, and keeps what it was sent.
type fakeClient struct {
	contextMax int
	do         func(ctx context.Context, messages []Message, p schemas.GenerationParams, text func(string)) (*Reply, error)

	mu   sync.Mutex
	sent [][]Message
}

func (c *fakeClient) ContextMax(context.Context) int { return c.contextMax }

func (c *fakeClient) Answer(ctx context.Context, messages []Message, p schemas.GenerationParams, text func(string)) (*Reply, error) {
	c.mu.Lock()
	c.sent = append(c.sent, slices.Clone(messages))
	n := len(c.sent)
	c.mu.Unlock()
	if c.do != nil {
		return c.do(ctx, messages, p, text)
	}
	text(fmt.Sprint(n))
	return &Reply{Finish: "stop"}, nil
}

// said joins the messages that were sent last.
func (c *fakeClient) said() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.sent) == 0 {
		return ""
	}
	var parts []string
	for _, m := range c.sent[len(c.sent)-1] {
		parts = append(parts, m.Role[:1]+":"+m.Content)
	}
	return strings.Join(parts, "|")
}

func clean(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' {
			return -1
		}
		return r
	}, s)
}

// talk runs a session through a pipe.
func talk(t *testing.T, c *fakeClient, conversation Conversation, input string) (out, errOut string, err error) {
	t.Helper()
	var o, e bytes.Buffer
	err = RunStreams(t.Context(), c, conversation, Streams{In: strings.NewReader(input), Out: &o, Err: &e, Clean: plain})
	return o.String(), e.String(), err
}

func TestEveryLineOfAPipeIsAMessage(t *testing.T) {
	c := &fakeClient{}
	out, errOut, err := talk(t, c, Conversation{System: "S"}, "hello\n\n  \nagain\r\n//slash\nlast")
	if err != nil || out != "1\n2\n3\n4\n" || errOut != "" {
		t.Errorf("%q %q %v", out, errOut, err)
	}
	if want := "s:S|u:hello|a:1|u:again|a:2|u:/slash|a:3|u:last"; c.said() != want {
		t.Errorf("sent %s; want %s", c.said(), want)
	}
}

func TestMessagesOfSeveralLines(t *testing.T) {
	for input, want := range map[string]string{
		"\"\"\"\none\n two\n\"\"\"\n":      "u:one\n two",
		"\"\"\"one\n\ntwo\"\"\"\n":         "u:one\n\ntwo",
		"\"\"\"one\"\"\"\n":                "u:one",
		"\"\"\"one\n":                      "u:one", // the input ended
		"one\\\ntwo\\\nthree\n":            "u:one\ntwo\nthree",
		"one\\\n":                          "u:one",
		"\"\"\"\n/reset\n\"\"\"\n":         "u:/reset", // quoted, so no command
		"a \"\"\" b\n":                     "u:a \"\"\" b",
		strings.Repeat("é", 1000) + "\\\n": "u:" + strings.Repeat("é", 1000),
	} {
		c := &fakeClient{}
		if _, _, err := talk(t, c, Conversation{}, input); err != nil || c.said() != want {
			t.Errorf("%.40q: sent %.60q %v; want %.60q", input, c.said(), err, want)
		}
	}
}

func TestMessagesThatAreTooLongAreNotSent(t *testing.T) {
	long := strings.Repeat("x", messageBytesMax+1)
	half := strings.Repeat("x", messageBytesMax*2/3)
	for name, input := range map[string]string{"line": long + "\n", "fence": "\"\"\"\n" + half + "\n" + half + "\n\"\"\"\n"} {
		c := &fakeClient{}
		out, errOut, err := talk(t, c, Conversation{}, input+"ok\n")
		if !errors.Is(err, ErrFailed) || out != "1\n" || !strings.Contains(errOut, "more than 1048576 bytes") || c.said() != "u:ok" {
			t.Errorf("%s: %q %q %v, sent %.40q", name, out, errOut, err, c.said())
		}
	}
}

func TestCommands(t *testing.T) {
	for _, c := range []struct{ input, said, note string }{
		{"a\n/reset\nb\n", "u:b", "the conversation is empty"},
		{"a\n/system Be brief.\nb\n", "s:Be brief.|u:b", "the system's message is set"},
		{"/system\n", "", "there is no system message"},
		{"a\n/quit\nb\n", "u:a", ""},
		{"/set temperature=0.5\n/set top-k = 7\n/set stop=[\"x\",\"y\"]\n/set seed=-1\n", "", `temperature=0.5 top_k=7 seed=18446744073709551615 stop=["x","y"]`},
		{"/set temperature=0.5\n/set temperature=\n", "", "all parameters are the model's defaults"},
		{"/help\n", "", "/save FILE"},
	} {
		client := &fakeClient{}
		_, errOut, err := talk(t, client, Conversation{}, c.input)
		if err != nil || client.said() != c.said || !strings.Contains(errOut, c.note) {
			t.Errorf("%q: sent %q, %v, %q; want %q and %q", c.input, client.said(), err, errOut, c.said, c.note)
		}
	}
	for input, want := range map[string]string{
		"/nosuch": "there is no /nosuch", "/reset now": "takes no argument", "/save": "expected /save FILE", "/load": "expected /load FILE",
		"/load /nowhere": "no such file", "/load /dev/zero": "not a regular file", "/set temperature": "expected /set name=value",
		"/set temperature=hot": `temperature is "hot"`, "/set temperature=-1": "temperature is -1", "/set max_tokens=0": "max_tokens is 0",
		"/set n=2": `there is no "n"`, "/set stop=[1]": "stop is", "/set top_p=1e999": "top_p is",
	} {
		client := &fakeClient{}
		if _, errOut, err := talk(t, client, Conversation{}, input+"\nhi\n"); !errors.Is(err, ErrFailed) || !strings.Contains(errOut, want) || client.said() != "u:hi" {
			t.Errorf("%q: %v %q, sent %q; want %q", input, err, errOut, client.said(), want)
		}
	}
}

func TestSavedConversationsGoOn(t *testing.T) {
	dir := t.TempDir()
	name, other := filepath.Join(dir, "a chat.json"), filepath.Join(dir, "other")
	c := &fakeClient{}
	if _, errOut, err := talk(t, c, Conversation{System: "S"}, "a\n/set temperature=0.5\n/save "+name+"\nb\n/save "+name+"\n"); err != nil {
		t.Fatalf("%v %s", err, errOut)
	}
	if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v; want a file for its owner only", info, err)
	}
	c = &fakeClient{do: func(_ context.Context, _ []Message, p schemas.GenerationParams, text func(string)) (*Reply, error) {
		if p.Temperature != nil {
			text(fmt.Sprint(*p.Temperature))
		}
		return &Reply{}, nil
	}}
	out, errOut, err := talk(t, c, Conversation{}, "lost\n/load "+name+"\nc\n")
	if want := "s:S|u:a|a:1|u:b|a:2|u:c"; c.said() != want || err != nil || out != "\n0.5\n" {
		t.Errorf("sent %s; want %s (%q %s)", c.said(), want, out, errOut)
	}
	for text, want := range map[string]string{
		"not a chat": "invalid character", `{}`: "no messages", `{"messages":[{"role":"tool","content":""}]}`: "messages[0].role",
		`{"messages":[{"role":"user","content":"a"},{"role":"system","content":"b"}]}`: "messages[1].role",
		`{"messages":[],"temperature":-3}`:                                             "temperature is -3", "{\"messages\":[{\"role\":\"user\",\"content\":\"\xff\"}]}": "not UTF-8",
	} {
		if err := os.WriteFile(other, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, errOut, err := talk(t, &fakeClient{}, Conversation{}, "/load "+other); !errors.Is(err, ErrFailed) || !strings.Contains(errOut, want) {
			t.Errorf("%q: %v %q; want %q", text, err, errOut, want)
		}
		if _, errOut, err := talk(t, &fakeClient{}, Conversation{}, "/save "+other); !errors.Is(err, ErrFailed) || !strings.Contains(errOut, "is no conversation") {
			t.Errorf("saving over %q: %v %q", text, err, errOut)
		}
		if raw, err := os.ReadFile(other); err != nil || string(raw) != text {
			t.Errorf("the file now holds %q", raw)
		}
	}
	if left, err := filepath.Glob(filepath.Join(dir, ".troupe-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestAFailedMessageIsNotInTheConversation(t *testing.T) {
	c := &fakeClient{}
	c.do = func(_ context.Context, messages []Message, _ schemas.GenerationParams, text func(string)) (*Reply, error) {
		switch messages[len(messages)-1].Content {
		case "fail":
			return nil, schemas.Errorf(schemas.KindUnavailable, "x", "the engine is gone").WithHint("try later")
		case "break":
			text("half")
			return nil, errors.New("broke off")
		}
		text("ok")
		return &Reply{}, nil
	}
	out, errOut, err := talk(t, c, Conversation{}, "a\nfail\nbreak\nb\n")
	if !errors.Is(err, ErrFailed) || out != "ok\nhalf\nok\n" || !strings.Contains(errOut, "troupe: the engine is gone; try later\ntroupe: broke off\n") {
		t.Errorf("%q %q %v", out, errOut, err)
	}
	if want := "u:a|a:ok|u:break|a:half|u:b"; c.said() != want {
		t.Errorf("sent %s; want %s", c.said(), want)
	}
}

// wordEngine counts a word as a token and refuses what is over the context, as a gateway does.
func wordEngine(contextMax int) *fakeClient {
	c := &fakeClient{contextMax: contextMax}
	c.do = func(_ context.Context, messages []Message, p schemas.GenerationParams, text func(string)) (*Reply, error) {
		tokens := 0
		for _, m := range messages {
			tokens += messageTokens + len(strings.Fields(m.Content))
		}
		asked := 1
		if p.MaxTokens != nil {
			asked = int(*p.MaxTokens)
		}
		if tokens+asked > contextMax {
			return nil, schemas.Errorf(schemas.KindInvalid, schemas.OpContext, "%d tokens, the context holds %d", tokens, contextMax)
		}
		text("yes")
		return &Reply{Finish: "stop", Usage: &schemas.Usage{PromptTokens: int64(tokens), CompletionTokens: 1}}, nil
	}
	return c
}

func TestHistoryIsKeptWithinTheContext(t *testing.T) {
	for _, contextMax := range []int{100, 400} {
		for _, words := range []int{1, 9, 40} {
			c := wordEngine(contextMax)
			message := strings.TrimSpace(strings.Repeat("word ", words))
			out, errOut, err := talk(t, c, Conversation{System: "S"}, strings.Repeat(message+"\n", 60))
			if err != nil || out != strings.Repeat("yes\n", 60) {
				t.Errorf("context %d, %d words: %v, %s", contextMax, words, err, errOut)
			}
			if !strings.Contains(errOut, "no longer fit the context and are left out)") || !strings.HasPrefix(c.said(), "s:S|u:") {
				t.Errorf("context %d, %d words: not told: %s; sent %.40s", contextMax, words, errOut, c.said())
			}
		}
	}
	// A message that can never fit fails; what was said before stays.
	c := wordEngine(50)
	_, _, err := talk(t, c, Conversation{}, "a\n"+strings.Repeat("b ", 100)+"\nc\n")
	if want := "u:a|a:yes|u:c"; !errors.Is(err, ErrFailed) || c.said() != want {
		t.Errorf("%v, sent %s; want %s", err, c.said(), want)
	}
	// A large max_tokens is lowered before anything is left out.
	c, many := wordEngine(400), int64(390)
	if _, errOut, err := talk(t, c, Conversation{Params: schemas.GenerationParams{MaxTokens: &many}}, "a\nb\nc\nd\n"); err != nil || errOut != "" || len(c.sent[len(c.sent)-1]) != 7 {
		t.Errorf("%v %q, sent %s", err, errOut, c.said())
	}
}
