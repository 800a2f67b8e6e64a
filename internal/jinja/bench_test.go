package jinja

import (
	"strings"
	"testing"
)

func benchmarkRender(b *testing.B, source string, ctx map[string]any) {
	tmpl, err := Parse(source)
	if err != nil {
		b.Fatal(err)
	}
	out, err := tmpl.Render(ctx, WithNow(clock))
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(out)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tmpl.Render(ctx, WithNow(clock)); err != nil {
			b.Fatal(err)
		}
	}
}

// chat returns a context of n messages of about 200 bytes.
func chat(n int) map[string]any {
	messages := []any{map[string]any{"role": "system", "content": "You are a helpful assistant."}}
	for len(messages) < n {
		role := "user"
		if len(messages)%2 == 0 {
			role = "assistant"
		}
		messages = append(messages, map[string]any{"role": role, "content": strings.Repeat("twenty bytes of text", 10)})
	}
	return map[string]any{"messages": messages, "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true}
}

func modelTemplate(b *testing.B, name string) string {
	doc := mustJSON[*Dict](b, sharedFile(b, "chat-templates/hf_jinja_e2e.json"))
	for _, c := range suite(b, field[[]any](b, doc, "cases")) {
		if c.name == name {
			return c.template
		}
	}
	b.Fatalf("no template %s", name)
	return ""
}

func BenchmarkRenderLlama31(b *testing.B) {
	benchmarkRender(b, modelTemplate(b, "meta-llama/Llama-3.1-8B-Instruct"), chat(10))
}

func BenchmarkRenderQwen3(b *testing.B) {
	benchmarkRender(b, modelTemplate(b, "Qwen/Qwen3-0.6B"), chat(10))
}

func BenchmarkRenderChatML(b *testing.B) {
	benchmarkRender(b, "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}{% endfor %}", chat(10))
}

func BenchmarkParseLlama31(b *testing.B) {
	source := modelTemplate(b, "meta-llama/Llama-3.1-8B-Instruct")
	b.SetBytes(int64(len(source)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(source); err != nil {
			b.Fatal(err)
		}
	}
}
