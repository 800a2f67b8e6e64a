package tokenizer

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/troupe-engine/troupe/internal/jinja"
	"github.com/troupe-engine/troupe/internal/tokenizers"
	"github.com/troupe-engine/troupe/internal/toolcalls"
	"github.com/troupe-engine/troupe/schemas"
)

// fileBytesMax bounds tokenizer files; the largest in use are around 35 MB.
const fileBytesMax = 256 << 20

// Text is a model's vocabulary and chat template. It is immutable and safe for concurrent use.
type Text struct {
	vocabulary *tokenizers.Tokenizer
	template   *jinja.Template // nil: the model has none
	withTools  *jinja.Template // for requests with tools; nil: template is
	toolFormat toolcalls.Format
	special    map[string]any // bos_token and its like, for the template

	allBytes func() [][]byte // by token, made when first asked for
}

// LoadText reads tokenizer.json, the chat templates from chat_template.jinja and additional_chat_templates/tool_use.jinja
// or tokenizer_config.json, and special tokens that the latter does not name from special_tokens_map.json, all from a
// model's files, as transformers does.
func LoadText(files fs.FS) (*Text, error) {
	raw, err := readFile(files, "tokenizer.json")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, schemas.Errorf(schemas.KindNotFound, "load tokenizer", "the model has no tokenizer.json").
			WithHint("where there is only a tokenizer.model, transformers' AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR) makes one")
	}
	if err != nil {
		return nil, err
	}
	t := &Text{special: map[string]any{}}
	if t.vocabulary, err = tokenizers.Load(raw); err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	t.allBytes = sync.OnceValue(func() [][]byte { return t.vocabulary.Bytes(false) })
	sources := map[string]string{}
	for _, f := range []struct {
		name string
		read func(raw []byte) error
	}{
		{"special_tokens_map.json", t.readSpecial},
		{"tokenizer_config.json", func(raw []byte) error { return t.readConfig(raw, sources) }},
		{"chat_template.jinja", func(raw []byte) error { sources[templateDefault] = string(raw); return nil }},
		{"additional_chat_templates/tool_use.jinja", func(raw []byte) error { sources[templateTools] = string(raw); return nil }},
	} {
		raw, err := readFile(files, f.name)
		if err == nil {
			err = f.read(raw)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s: %w", f.name, err)
		}
	}
	if t.template, err = parseTemplate(sources[templateDefault]); err != nil {
		return nil, fmt.Errorf("chat_template: %w", err)
	}
	if t.withTools, err = parseTemplate(sources[templateTools]); err != nil {
		return nil, fmt.Errorf("chat_template %s: %w", templateTools, err)
	}
	t.toolFormat = toolcalls.Detect(cmp.Or(sources[templateTools], sources[templateDefault]))
	return t, nil
}

// Names of templates, where a model has several.
const (
	templateDefault = "default"
	templateTools   = "tool_use"
)

// parseTemplate returns nil for no template.
func parseTemplate(source string) (*jinja.Template, error) {
	if source == "" {
		return nil, nil
	}
	return jinja.Parse(source)
}

func readFile(files fs.FS, name string) ([]byte, error) {
	f, err := files.Open(name)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, fileBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %s: %w", name, err)
	}
	if len(raw) > fileBytesMax {
		return nil, fmt.Errorf("tokenizer: %s is larger than %d bytes", name, fileBytesMax)
	}
	return raw, nil
}

// readConfig takes the special tokens, and the chat templates by name.
func (t *Text) readConfig(raw []byte, sources map[string]string) error {
	var config map[string]json.RawMessage
	if err := json.Unmarshal(raw, &config); err != nil {
		return err
	}
	if err := t.readSpecial(raw); err != nil {
		return err
	}
	return chatTemplates(config["chat_template"], sources)
}

// readSpecial takes the special tokens.
func (t *Text) readSpecial(raw []byte) error {
	var config map[string]json.RawMessage
	if err := json.Unmarshal(raw, &config); err != nil {
		return err
	}
	for _, name := range []string{"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"} {
		if text, ok := specialToken(config[name]); ok {
			t.special[name] = text
		}
	}
	return nil
}

// specialToken reads "<s>" or {"content": "<s>", …}.
func specialToken(raw json.RawMessage) (string, bool) {
	var text string
	if json.Unmarshal(raw, &text) == nil && len(raw) > 0 && raw[0] == '"' {
		return text, true
	}
	var added struct {
		Content *string `json:"content"`
	}
	if json.Unmarshal(raw, &added) == nil && added.Content != nil {
		return *added.Content, true
	}
	return "", false
}

// chatTemplates reads one template, or a list of named ones.
func chatTemplates(raw json.RawMessage, sources map[string]string) error {
	if len(raw) == 0 || string(raw) == "null" {
		return nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		sources[templateDefault] = one
		return nil
	}
	var named []struct {
		Name     string `json:"name"`
		Template string `json:"template"`
	}
	if err := json.Unmarshal(raw, &named); err != nil {
		return fmt.Errorf("chat_template: want a string or a list of named templates: %w", err)
	}
	for _, n := range named {
		sources[n.Name] = n.Template
	}
	if len(named) > 0 && sources[templateDefault] == "" {
		return fmt.Errorf("chat_template: none of the %d templates is named %q", len(named), templateDefault)
	}
	return nil
}

// VocabSize is one more than the largest token id.
func (t *Text) VocabSize() int { return t.vocabulary.IDsMax() }

// bytes is what a token adds to a text, nil for what is no token.
func (t *Text) bytes(id int32) []byte {
	if all := t.allBytes(); id >= 0 && int(id) < len(all) {
		return all[id]
	}
	return nil
}

// TokenBytes returns what each token adds to a text, by id; nil for special tokens.
func (t *Text) TokenBytes() [][]byte { return t.vocabulary.Bytes(true) }

// ToolFormat is how the chat template has function calls; "" for none.
func (t *Text) ToolFormat() toolcalls.Format { return t.toolFormat }

// ChatReady reports whether the model has a chat template.
func (t *Text) ChatReady() bool { return t.template != nil }

// Encode answers an EncodeRequest, apart from its session.
func (t *Text) Encode(req *schemas.EncodeRequest) (*schemas.EncodeReply, error) {
	switch {
	case len(req.Tokens) > 0:
		for i, id := range req.Tokens {
			if id < 0 || int(id) >= t.VocabSize() {
				return nil, schemas.Errorf(schemas.KindInvalid, "encode", "token %d is %d; the vocabulary has 0 to %d", i, id, t.VocabSize()-1).WithParam("prompt")
			}
		}
		return &schemas.EncodeReply{Tokens: req.Tokens}, nil
	case len(req.Messages) > 0:
		text, err := t.render(req)
		if err != nil {
			return nil, err
		}
		tokens, err := t.encode(text, false) // the template writes the special tokens itself
		return &schemas.EncodeReply{Tokens: tokens, Text: text}, err
	}
	tokens, err := t.encode(req.Prompt, !req.Raw)
	return &schemas.EncodeReply{Tokens: tokens}, err
}

func (t *Text) encode(text string, special bool) (schemas.I32, error) {
	tokens, err := t.vocabulary.Encode(text, special)
	if err != nil {
		return nil, schemas.Errorf(schemas.KindInvalid, "encode", "%v", err).WithParam("prompt")
	}
	return tokens, nil
}

// render applies the chat template to a request's messages, as transformers' apply_chat_template does.
func (t *Text) render(req *schemas.EncodeRequest) (string, error) {
	if t.template == nil {
		return "", schemas.Errorf(schemas.KindUnsupported, "chat template", "the model has none").WithParam("messages").
			WithHint("use /v1/completions, or put a chat_template.jinja beside the model's tokenizer.json")
	}
	context := map[string]any{}
	for name, token := range t.special {
		context[name] = token
	}
	context["add_generation_prompt"] = !req.Continue
	context["tools"], context["documents"] = nil, nil
	if err := addArguments(context, req.TemplateArgs); err != nil {
		return "", err
	}
	for name, raw := range map[string]json.RawMessage{"messages": req.Messages, "tools": req.Tools} {
		if len(raw) == 0 {
			continue
		}
		value, err := jinja.FromJSON(raw)
		if err != nil {
			return "", schemas.Errorf(schemas.KindInvalid, "chat template", "%s: %v", name, err).WithParam(name)
		}
		context[name] = value
	}
	template := t.template
	if len(req.Tools) > 0 && t.withTools != nil {
		template = t.withTools
	}
	text, err := template.Render(context)
	if err != nil {
		return "", schemas.Errorf(schemas.KindInvalid, "chat template", "%v", err).WithParam("messages").
			WithHint("the model's chat template does not take these messages")
	}
	return text, nil
}

// addArguments puts chat_template_kwargs into the template's context.
func addArguments(context map[string]any, raw json.RawMessage) error {
	if len(raw) == 0 {
		return nil
	}
	var names map[string]json.RawMessage
	if err := json.Unmarshal(raw, &names); err != nil {
		return schemas.Errorf(schemas.KindInvalid, "chat template", "chat_template_kwargs: want a JSON object: %v", err).WithParam("chat_template_kwargs")
	}
	for name, arg := range names {
		value, err := jinja.FromJSON(arg)
		if err != nil {
			return schemas.Errorf(schemas.KindInvalid, "chat template", "chat_template_kwargs.%.40s: %v", name, err).WithParam("chat_template_kwargs")
		}
		context[name] = value
	}
	return nil
}

// Decode returns the text of tokens.
func (t *Text) Decode(req *schemas.DecodeRequest) (*schemas.DecodeReply, error) {
	for i, id := range req.Tokens {
		if id < 0 || int(id) >= t.VocabSize() {
			return nil, schemas.Errorf(schemas.KindInvalid, "decode", "token %d is %d; the vocabulary has 0 to %d", i, id, t.VocabSize()-1).WithParam("tokens")
		}
	}
	return &schemas.DecodeReply{Text: t.vocabulary.Decode(req.Tokens, !req.KeepSpecial)}, nil
}
