package tokenizer

import (
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/internal/toolcalls"
	"github.com/troupe-engine/troupe/schemas"
)

func load(t testing.TB) *Text {
	t.Helper()
	text, err := LoadText(defaultmodel.Files())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestChatMessagesGoThroughTheTemplate(t *testing.T) {
	reply, err := load(t).Encode(&schemas.EncodeRequest{Messages: json.RawMessage(`[{"role":"user","content":"Hello!"}]`)})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(reply.Text, "<|user|>Hello!<|end|>") || !strings.HasSuffix(reply.Text, "<|assistant|>") || len(reply.Tokens) < 4 {
		t.Errorf("rendered %q as %v", reply.Text, reply.Tokens)
	}
}

func TestPromptRoundTrip(t *testing.T) {
	text := load(t)
	reply, err := text.Encode(&schemas.EncodeRequest{Prompt: "Once upon a time — naïve 🐋"})
	if err != nil {
		t.Fatal(err)
	}
	back, err := text.Decode(&schemas.DecodeRequest{Tokens: reply.Tokens})
	if err != nil || back.Text != "Once upon a time — naïve 🐋" {
		t.Errorf("got %q, %v", back.Text, err)
	}
}

func TestRefusalsNameTheField(t *testing.T) {
	text := load(t)
	for name, c := range map[string]struct {
		req   schemas.EncodeRequest
		param string
	}{
		"token outside the vocabulary": {schemas.EncodeRequest{Tokens: schemas.I32{1 << 30}}, "prompt"},
		"negative token":               {schemas.EncodeRequest{Tokens: schemas.I32{-1}}, "prompt"},
		"messages are no JSON":         {schemas.EncodeRequest{Messages: json.RawMessage(`[{`)}, "messages"},
		"arguments are no object":      {schemas.EncodeRequest{Messages: json.RawMessage(`[]`), TemplateArgs: json.RawMessage(`3`)}, "chat_template_kwargs"},
	} {
		_, err := text.Encode(&c.req)
		var e *schemas.Error
		if !errors.As(err, &e) || e.Param != c.param || e.Kind != schemas.KindInvalid {
			t.Errorf("%s: got %v; want invalid_argument naming %s", name, err, c.param)
		}
	}
	if _, err := text.Decode(&schemas.DecodeRequest{Tokens: schemas.I32{99999}}); err == nil {
		t.Error("decoding a foreign token was not refused")
	}
}

func TestHostileFilesAreNamed(t *testing.T) {
	good, err := fs.ReadFile(defaultmodel.Files(), "tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		files fstest.MapFS
		want  string
	}{
		"no tokenizer":    {fstest.MapFS{}, "no tokenizer.json; where there is only a tokenizer.model"},
		"truncated":       {fstest.MapFS{"tokenizer.json": {Data: good[:len(good)/2]}}, "tokenizer.json"},
		"config no JSON":  {fstest.MapFS{"tokenizer.json": {Data: good}, "tokenizer_config.json": {Data: []byte("[")}}, "tokenizer_config.json"},
		"broken template": {fstest.MapFS{"tokenizer.json": {Data: good}, "chat_template.jinja": {Data: []byte("{% for %}")}}, "chat_template"},
		"template a number": {fstest.MapFS{"tokenizer.json": {Data: good},
			"tokenizer_config.json": {Data: []byte(`{"chat_template": 3}`)}}, "chat_template"},
		"no default": {fstest.MapFS{"tokenizer.json": {Data: good},
			"tokenizer_config.json": {Data: []byte(`{"chat_template": [{"name":"rag","template":"x"}]}`)}}, "default"},
		"special tokens no JSON": {fstest.MapFS{"tokenizer.json": {Data: good}, "special_tokens_map.json": {Data: []byte("[")}}, "special_tokens_map.json"},
	} {
		if _, err := LoadText(c.files); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v; want an error naming %s", name, err, c.want)
		}
	}
}

func TestModelWithoutTemplateSaysSo(t *testing.T) {
	good, err := fs.ReadFile(defaultmodel.Files(), "tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	text, err := LoadText(fstest.MapFS{"tokenizer.json": {Data: good}})
	if err != nil {
		t.Fatal(err)
	}
	_, err = text.Encode(&schemas.EncodeRequest{Messages: json.RawMessage(`[{"role":"user","content":"x"}]`)})
	var e *schemas.Error
	if text.ChatReady() || !errors.As(err, &e) || e.Kind != schemas.KindUnsupported || e.Hint == "" {
		t.Errorf("got %v; want unsupported, with a hint", err)
	}
}

// As transformers: a template of its own for requests with tools, in either layout; and special tokens from both files.
func TestTemplatesForTools(t *testing.T) {
	good, err := fs.ReadFile(defaultmodel.Files(), "tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	file := func(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }
	for layout, files := range map[string]fstest.MapFS{
		"a list": {"tokenizer_config.json": file(`{"bos_token":"<b>","chat_template":[{"name":"default","template":"plain{{ bos_token }}{{ eos_token }}"},{"name":"tool_use","template":"{{ tools[0] }}<tool_call>"}]}`),
			"special_tokens_map.json": file(`{"bos_token":"<other>","eos_token":{"content":"<e>"}}`)},
		"files": {"tokenizer_config.json": file(`{"bos_token":"<b>","eos_token":"<e>","chat_template":"old"}`), "chat_template.jinja": file("plain{{ bos_token }}{{ eos_token }}"),
			"additional_chat_templates/tool_use.jinja": file("{{ tools[0] }}<tool_call>")},
	} {
		files["tokenizer.json"] = &fstest.MapFile{Data: good}
		text, err := LoadText(files)
		if err != nil {
			t.Errorf("%s: %v", layout, err)
			continue
		}
		messages := json.RawMessage(`[{"role":"user","content":"x"}]`)
		for want, tools := range map[string]string{"plain<b><e>": "", "7<tool_call>": "[7]"} {
			reply, err := text.Encode(&schemas.EncodeRequest{Messages: messages, Tools: json.RawMessage(tools)})
			if err != nil || reply.Text != want {
				t.Errorf("%s: with tools %q: %+v, %v; want %q", layout, tools, reply, err, want)
			}
		}
		if text.ToolFormat() != toolcalls.Hermes {
			t.Errorf("%s: the format of calls is %q", layout, text.ToolFormat())
		}
	}
}
