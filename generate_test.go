package troupe

import (
	"context"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// The streamed and the whole answer to the same request are the same, with everything that comes beside the text.
func TestGenerateIsTheWholeAnswer(t *testing.T) {
	e := openEngine(t, nil)
	ctx := t.Context()
	params := schemas.GenerationParams{Temperature: new(0.7), Seed: new(schemas.Seed(5)), MaxTokens: new(int64(12)), N: new(int64(2))}
	r := GenerateRequest{Prompt: "Once upon a time", GenerationParams: params, Logprobs: new(3), Echo: true}
	whole, err := e.Complete(ctx, r)
	if err == nil && len(whole.Choices) != 2 {
		t.Fatalf("%d choices", len(whole.Choices))
	}
	r.Echo = false // with log-probabilities it cannot be streamed
	text, logprobs, _, usage := gather(t, e, r)
	for i, c := range whole.Choices {
		if c.Text != r.Prompt+text[i] || len(logprobs[i]) != 12 {
			t.Errorf("choice %d: %q and %d log-probabilities; want %q and 12", i, text[i], len(logprobs[i]), c.Text)
		}
		from := len(c.Logprobs.Tokens) - 12 // of the answer
		for k, l := range logprobs[i] {
			want := *c.Logprobs.TokenLogprobs[from+k]
			if l.Token != c.Logprobs.Tokens[from+k] || math.Abs(float64(l.Logprob-want)) > 1e-5 || len(l.TopLogprobs) != 3 || l.TopLogprobs[0].Logprob < l.TopLogprobs[2].Logprob {
				t.Errorf("choice %d, token %d: %+v; want %q with %g", i, k, l, c.Logprobs.Tokens[from+k], want)
			}
		}
	}
	if usage.CompletionTokens != 24 || whole.Usage.CompletionTokens != 24 {
		t.Errorf("usage %+v and %+v; want 24 tokens", usage, whole.Usage)
	}

	r = GenerateRequest{Messages: []Message{{Role: "system", Content: "Be kind."}, {Role: "user", Content: "Hello!"}}, GenerationParams: params, Logprobs: new(0)}
	chat, err := e.Chat(ctx, r)
	if err != nil {
		t.Fatal(err)
	}
	text, logprobs, _, _ = gather(t, e, r)
	for i, c := range chat.Choices {
		if c.Message.Content != text[i] || !reflect.DeepEqual(c.Logprobs.Content, logprobs[i]) {
			t.Errorf("choice %d: %q %+v; want %q %+v", i, text[i], logprobs[i], c.Message.Content, c.Logprobs.Content)
		}
	}
}

// gather joins the deltas of each choice.
func gather(t *testing.T, e *Engine, r GenerateRequest) (text map[int]string, logprobs map[int][]schemas.ChatLogprob, calls []schemas.ToolCall, usage *schemas.Usage) {
	t.Helper()
	text, logprobs = map[int]string{}, map[int][]schemas.ChatLogprob{}
	for d, err := range e.Generate(t.Context(), r) {
		if err != nil {
			t.Fatal(err)
		}
		text[d.Index] += d.Text
		logprobs[d.Index] = append(logprobs[d.Index], d.Logprobs...)
		for _, c := range d.ToolCalls {
			if *c.Index == len(calls) {
				calls = append(calls, c)
			} else {
				calls[*c.Index].Function.Arguments += c.Function.Arguments
			}
		}
		usage = d.Usage
	}
	return text, logprobs, calls, usage
}

func TestGenerateTools(t *testing.T) {
	for _, format := range []string{"auto", "hermes", "llama3", "mistral", "mistral-args"} {
		t.Run(format, func(t *testing.T) { testGenerateTools(t, format) })
	}
}

func testGenerateTools(t *testing.T, format string) {
	e := openEngine(t, func(o *Options) { o.ToolFormat = format })
	r := GenerateRequest{Messages: []Message{{Role: "user", Content: "Go."}}, ToolChoice: "walk", TemplateArgs: map[string]any{"unknown": 1},
		Tools: []Tool{{Name: "stop"}, {Name: "walk", Description: "Walk.", Parameters: map[string]any{"type": "object", "additionalProperties": false,
			"required": []string{"steps"}, "properties": map[string]any{"steps": map[string]any{"type": "integer", "minimum": 0, "maximum": 99}}}}},
		GenerationParams: schemas.GenerationParams{Seed: new(schemas.Seed(1))}}
	_, _, calls, _ := gather(t, e, r)
	whole, err := e.Chat(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	if len(calls) != 1 || len(whole.Choices[0].Message.ToolCalls) != 1 || calls[0].Function != whole.Choices[0].Message.ToolCalls[0].Function {
		t.Fatalf("calls %+v, whole %+v", calls, whole.Choices[0].Message)
	}
	var arguments struct{ Steps *int }
	if err := json.Unmarshal([]byte(calls[0].Function.Arguments), &arguments); err != nil || arguments.Steps == nil || calls[0].Function.Name != "walk" {
		t.Errorf("%+v: %v", calls[0], err)
	}
	if short := strings.HasPrefix(format, "mistral"); short != (len(calls[0].ID) == 9) { // as Mistral's templates want them
		t.Errorf("%s: the call's id is %s", format, calls[0].ID)
	}
}

func TestGenerateTokensAndEmbed(t *testing.T) {
	e := openEngine(t, nil)
	greedy := schemas.GenerationParams{Temperature: new(0.0), MaxTokens: new(int64(4))}
	answer, err := e.Complete(t.Context(), GenerateRequest{Tokens: []int32{10, 11, 12}, GenerationParams: greedy})
	if err != nil || answer.Usage.PromptTokens != 3 || answer.Usage.CompletionTokens != 4 {
		t.Errorf("%+v, %v", answer, err)
	}
	texts := make([]string, 2*embedBatch+1)
	for i := range texts {
		texts[i] = strings.Repeat("a ", i+1)
	}
	vectors, err := e.Embed(t.Context(), texts...)
	if err != nil || len(vectors) != len(texts) {
		t.Fatalf("%d vectors, %v", len(vectors), err)
	}
	again, err := e.Embed(t.Context(), texts[embedBatch+1])
	if err != nil || !reflect.DeepEqual(again[0], vectors[embedBatch+1]) {
		t.Errorf("a text's vector depends on its place: %v", err)
	}
	if none, err := e.Embed(t.Context()); err != nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
}

// Errors are those of the engine and name the field; what makes no sense together is refused here.
func TestGenerateRefuses(t *testing.T) {
	e := openEngine(t, nil)
	chat := []Message{{Role: "user", Content: "a"}}
	for param, r := range map[string]GenerateRequest{
		"Messages":               {Messages: chat, Prompt: "a"},
		"Tokens":                 {Tokens: []int32{1}, Prompt: "a"},
		"Tools":                  {Prompt: "a", Tools: []Tool{{Name: "b"}}},
		"TemplateArgs":           {Prompt: "a", TemplateArgs: map[string]any{}},
		"Continue":               {Prompt: "a", Continue: true},
		"prompt":                 {Tokens: []int32{}},
		"temperature":            {Prompt: "a", GenerationParams: schemas.GenerationParams{Temperature: new(-1.0)}},
		"logprobs":               {Prompt: "a", Logprobs: new(99)},
		"guided_json":            {Prompt: "a", GenerationParams: schemas.GenerationParams{GuideParams: schemas.GuideParams{GuidedJSON: `{"type": 3}`}}},
		"tools[0].function.name": {Messages: chat, Tools: []Tool{{Name: "no spaces"}}},
	} {
		_, err := e.Complete(t.Context(), r)
		if r.Prompt == "" && r.Tokens == nil {
			_, err = e.Chat(t.Context(), r)
		}
		if s, ok := err.(*schemas.Error); !ok || s.Param != param || s.Kind != schemas.KindInvalid {
			t.Errorf("%s: %v", param, err)
		}
	}
	for param, r := range map[string]GenerateRequest{
		"Prompt":           {Messages: chat, Prompt: "a"},
		"Echo":             {Messages: chat, Echo: true},
		"AddSpecialTokens": {Messages: chat, AddSpecialTokens: new(true)},
	} {
		for _, err := range e.Generate(t.Context(), r) {
			if s, ok := err.(*schemas.Error); !ok || s.Param != param {
				t.Errorf("%s: %v", param, err)
			}
		}
	}
	_, err := e.Chat(t.Context(), GenerateRequest{Messages: chat, Tools: []Tool{{Name: "a", Parameters: make(chan int)}}})
	if s, ok := err.(*schemas.Error); !ok || s.Kind != schemas.KindInvalid {
		t.Errorf("parameters that are no JSON: %v", err)
	}
}

// Ending the context of a whole answer frees its sequence.
func TestChatIsCancelled(t *testing.T) {
	e := openEngine(t, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	r := GenerateRequest{Prompt: "a", GenerationParams: schemas.GenerationParams{N: new(int64(64)), IgnoreEOS: true, MaxTokens: new(int64(2000))}}
	if _, err := e.Complete(ctx, r); err == nil {
		t.Fatal("64 answers of 2000 tokens took less than 50 ms")
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := e.Client().conn.Request("inf.v1.gateway.state.gateway0", []byte("{}"), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		var state schemas.GatewayState
		if err := json.Unmarshal(resp.Data, &state); err != nil {
			t.Fatalf("%s: %v", resp.Data, err)
		}
		if state.Running == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the request still runs although nobody waits for it")
		}
	}
}

// A guided answer that is complete with the last token that max_tokens allows has ended, not been cut.
func TestGuidedAnswerThatFits(t *testing.T) {
	e := openEngine(t, nil)
	for _, c := range []struct {
		regex  string
		tokens int64
		finish string
	}{{"[ab]", 1, "stop"}, {"[ab]{3}", 3, "stop"}, {"[ab]+", 2, "length"}} {
		r := GenerateRequest{Messages: []Message{{Role: "user", Content: "a"}}}
		r.Regex, r.MaxTokens = c.regex, new(c.tokens)
		whole, err := e.Chat(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		if got := whole.Choices[0]; got.FinishReason != c.finish && int64(len(got.Message.Content)) == c.tokens {
			t.Errorf("%s with %d tokens: %q ended with %s, want %s", c.regex, c.tokens, got.Message.Content, got.FinishReason, c.finish)
		}
		for d, err := range e.Generate(t.Context(), r) {
			if err != nil {
				t.Fatal(err)
			}
			if d.Finish != "" && d.Finish != c.finish && c.tokens == 1 {
				t.Errorf("%s with %d tokens, streamed: it ended with %s, want %s", c.regex, c.tokens, d.Finish, c.finish)
			}
		}
	}
}
