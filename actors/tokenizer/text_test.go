package tokenizer

import (
	"encoding/json"
	"errors"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/troupe-engine/troupe/internal/defaultmodel"
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
		"no tokenizer":    {fstest.MapFS{}, "tokenizer.json"},
		"truncated":       {fstest.MapFS{"tokenizer.json": {Data: good[:len(good)/2]}}, "tokenizer.json"},
		"config no JSON":  {fstest.MapFS{"tokenizer.json": {Data: good}, "tokenizer_config.json": {Data: []byte("[")}}, "tokenizer_config.json"},
		"broken template": {fstest.MapFS{"tokenizer.json": {Data: good}, "chat_template.jinja": {Data: []byte("{% for %}")}}, "chat_template"},
		"template a number": {fstest.MapFS{"tokenizer.json": {Data: good},
			"tokenizer_config.json": {Data: []byte(`{"chat_template": 3}`)}}, "chat_template"},
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
