package traces

import (
	"bytes"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

func load(t *testing.T, name string) *Trace {
	t.Helper()
	trace, err := Load(filepath.Join("testdata", name), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return trace
}

func TestFormats(t *testing.T) {
	for name, want := range map[string]struct {
		format   string
		requests int
		skipped  int
		second   Request
	}{
		"azure.csv":      {FormatAzure, 11, 0, Request{ArrivalNs: 4314579000, Input: 396, Output: 109}},
		"mooncake.jsonl": {FormatMooncake, 8, 0, Request{Input: 7322, Output: 490}},
		"burstgpt.csv":   {FormatBurstGPT, 3, 1, Request{ArrivalNs: 40e9, Input: 1087, Output: 230, User: "7"}},
		"sharegpt.json":  {FormatShareGPT, 2, 2, Request{Input: 7 + 4 + 14 + 4, Output: 5}},
	} {
		trace := load(t, name)
		if trace.Format != want.format || len(trace.Requests) != want.requests || trace.Skipped != want.skipped {
			t.Errorf("%s: %s with %d requests, %d skipped; want %+v", name, trace.Format, len(trace.Requests), trace.Skipped, want)
			continue
		}
		got := trace.Requests[1]
		if got.ArrivalNs != want.second.ArrivalNs || got.Input != want.second.Input || got.Output != want.second.Output || got.User != want.second.User {
			t.Errorf("%s: second request %+v, want %+v", name, got, want.second)
		}
	}
}

// TestPromptsShareWhatTheTraceSays: equal identities are equal tokens, different ones differ at once.
func TestPromptsShareWhatTheTraceSays(t *testing.T) {
	trace := load(t, "mooncake.jsonl")
	a := trace.Requests[0].PromptTokens(nil, 32000, 0)
	b := trace.Requests[1].PromptTokens(nil, 32000, 1)
	if len(a) != 6758 || len(b) != 7322 {
		t.Fatalf("%d and %d tokens", len(a), len(b))
	}
	same := 0
	for same < len(a) && a[same] == b[same] {
		same++
	}
	if same < MooncakeBlock || same > MooncakeBlock+2 {
		t.Errorf("the prompts share %d tokens, the trace says %d", same, MooncakeBlock)
	}
	for i, token := range a[:MooncakeBlock] {
		if token != TokenAt(trace.Requests[0].Prompt[0].ID, int32(i), 32000) || token < 0 || token >= 32000 {
			t.Fatalf("token %d is %d", i, token)
		}
	}
}

// TestAnAnswerIsPartOfTheNextPrompt holds for conversations.
func TestAnAnswerIsPartOfTheNextPrompt(t *testing.T) {
	trace := load(t, "sharegpt.json")
	first, second := trace.Requests[0], trace.Requests[1]
	tokens := first.PromptTokens(nil, 500, 0)
	for i := range first.Output {
		tokens = append(tokens, TokenAt(first.ReplyTokens(0), i, 500))
	}
	if next := second.PromptTokens(nil, 500, 1); !slices.Equal(next[:len(tokens)], tokens) {
		t.Errorf("the second prompt begins %v, the first exchange is %v", next, tokens)
	}
}

func TestErrorsNameLineAndField(t *testing.T) {
	azure, moon, burst := "TIMESTAMP,ContextTokens,GeneratedTokens\n", `{"timestamp": 0, "input_length": 600, "output_length": 5}`+"\n", "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
	for name, c := range map[string]struct{ text, want, param string }{
		"empty":            {"", "empty", ""},
		"unknown":          {"a,b,c\n1,2,3\n", "line 1", ""},
		"no requests":      {azure, "no requests", ""},
		"azure column":     {"TIMESTAMP,ContextTokens\n", "line 1: GeneratedTokens", "GeneratedTokens"},
		"azure time":       {azure + "yesterday,1,2\n", "line 2: TIMESTAMP", "TIMESTAMP"},
		"azure centuries":  {azure + "2023-11-16 18:15:46.68,1,2\n9023-11-16 18:15:46.68,1,2", "line 3: TIMESTAMP", "TIMESTAMP"},
		"azure zero":       {azure + "2023-11-16 18:15:46.68,0,2\n", "line 2: ContextTokens", "ContextTokens"},
		"azure huge":       {azure + "2023-11-16 18:15:46.68,1,99999999999999999999\n", "line 2: GeneratedTokens", "GeneratedTokens"},
		"azure fields":     {azure + "\n2023-11-16 18:15:46.68,1\n", "line 3: 2 fields", ""},
		"mooncake json":    {moon + "{\n", "line 2", ""},
		"mooncake type":    {moon + `{"timestamp": "x", "input_length": 6}`, "line 2: timestamp", "timestamp"},
		"mooncake missing": {moon + `{"timestamp": 3, "input_length": 6}`, "line 2: output_length", "output_length"},
		"mooncake time":    {moon + `{"timestamp": 9e300, "input_length": 6, "output_length": 1}`, "line 2: timestamp", "timestamp"},
		"mooncake length":  {moon + `{"timestamp": 3, "input_length": -6, "output_length": 1}`, "line 2: input_length", "input_length"},
		"mooncake hashes":  {`{"timestamp": 3, "input_length": 600, "output_length": 1, "hash_ids": [1]}`, "line 1: hash_ids", "hash_ids"},
		"long line":        {moon + strings.Repeat("x", lineBytesMax+1), "line 2: longer", ""},
		"burst time":       {burst + "-1,m,1,2,3,l\n", "line 2: Timestamp", "Timestamp"},
		"burst not a time": {burst + "NaN,m,1,2,3,l\n", "line 2: Timestamp", "Timestamp"},
		"burst tokens":     {burst + "1,m,1.5,2,3,l\n", "line 2: Request tokens", "Request tokens"},
		"sharegpt type":    {`[{"conversations": [{"from": "gpt", "value": 3}]}]`, "conversation 1: conversations.value", "conversations.value"},
		"sharegpt cut":     {`[{"conversations": [`, "conversation 1: unexpected EOF", ""},
		"sharegpt open":    {`[{"messages": []}`, "unexpected EOF", ""},
		"sharegpt turns":   {`[{"messages": [` + strings.Repeat("{},", turnsMax) + `{}]}]`, "conversation 1: messages", "messages"},
	} {
		_, err := Read(strings.NewReader(c.text), Options{})
		var e *schemas.Error
		if !errors.As(err, &e) || !strings.Contains(e.Detail, c.want) || e.Param != c.param {
			t.Errorf("%s: %v (param %q); want %q about %q", name, err, e.Param, c.want, c.param)
		}
	}
}

// endless yields one byte for ever.
type endless byte

func (e endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = byte(e)
	}
	return len(p), nil
}

func TestAConversationWithoutEndIsRefused(t *testing.T) {
	_, err := Read(io.MultiReader(strings.NewReader(`[{"conversations": [{"from": "gpt", "value": "`), endless('x')), Options{})
	if err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("got %v", err)
	}
}

func TestSynthetic(t *testing.T) {
	lengths := func(text string) Lengths {
		d, err := ParseLengths(text)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	s := Synthetic{Requests: 2000, Rate: 10, Burstiness: 0.5, Input: lengths("lognormal:512,700"), Output: lengths("uniform:10,30"),
		Prefixes: 4, Prefix: lengths("64"), Seed: 3}
	a, err := s.Trace()
	if err != nil {
		t.Fatal(err)
	}
	b, _ := s.Trace()
	input, output := 0, 0
	for i := range a.Requests {
		q, again := &a.Requests[i], &b.Requests[i]
		if q.ArrivalNs != again.ArrivalNs || q.Input != again.Input || q.Output != again.Output || !slices.Equal(q.Prompt, again.Prompt) {
			t.Fatal("the same seed gives another workload")
		}
		if n := len(q.PromptTokens(nil, 100, i)); n != int(q.Input) {
			t.Fatalf("%d tokens for an input of %d", n, q.Input)
		}
		if q.Output < 10 || q.Output > 30 {
			t.Fatalf("output of %d", q.Output)
		}
		input, output = input+int(q.Input), output+int(q.Output)
	}
	if last := a.Requests[1999].ArrivalNs; math.Abs(float64(last)-199.9e9) > 1e6 {
		t.Errorf("the last request comes at %d ns, want 199.9 s", last)
	}
	if mean := float64(input) / 2000; math.Abs(mean-576) > 60 {
		t.Errorf("mean input %g, want 64 + 512", mean)
	}
	if mean := float64(output) / 2000; math.Abs(mean-20) > 0.6 {
		t.Errorf("mean output %g, want 20", mean)
	}
}

func TestLengths(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 1))
	for text, want := range map[string]float64{"512": 512, "fixed:7": 7, "uniform:0.6,9": 5, "normal:100,5": 100, "lognormal:100,50": 100, "exponential:300": 300} {
		d, err := ParseLengths(text)
		if (err != nil) != (text == "uniform:0.6,9") {
			t.Errorf("%s: %v", text, err)
		}
		if err != nil {
			continue
		}
		sum := 0.0
		for range 4000 {
			sum += float64(d.Draw(random))
		}
		if mean := sum / 4000; math.Abs(mean-want) > 0.06*want {
			t.Errorf("%s: mean %g, want %g", text, mean, want)
		}
		if again, err := ParseLengths(d.String()); err != nil || again != d {
			t.Errorf("%s is written %s: %v", text, d, err)
		}
	}
	for _, text := range []string{"", "x", "uniform:1", "uniform:5,1", "normal:inf,1", "512,3", "zipf:3", "fixed:0", "lognormal:NaN,1", "-4"} {
		if _, err := ParseLengths(text); err == nil {
			t.Errorf("%q is taken", text)
		}
	}
}

// FuzzRead holds every reader to its promise: an error or requests within the limits, whatever the bytes.
func FuzzRead(f *testing.F) {
	files, err := filepath.Glob("testdata/*.*")
	if err != nil || len(files) < 4 {
		f.Fatal(files, err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, "")
	}
	f.Fuzz(func(t *testing.T, text []byte, format string) {
		for _, format := range append(Formats(), format) {
			trace, err := Read(bytes.NewReader(text), Options{Format: format})
			if err != nil {
				continue
			}
			last := int64(0)
			for i := range trace.Requests {
				q := &trace.Requests[i]
				sum := int32(0)
				for _, s := range q.Prompt {
					sum += s.Tokens
				}
				if field, err := q.check(); err != nil || q.ArrivalNs < last || len(q.Prompt) > 0 && sum != q.Input {
					t.Fatalf("request %d: %s: %v: %+v", i, field, err, q)
				}
				last = q.ArrivalNs
			}
		}
	})
}
