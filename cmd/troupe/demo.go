package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/schemas"
)

// demoTokens is how long the answer to a demo prompt may get.
const demoTokens = 80

// demo is a prompt that the engine answers as soon as it serves, to show that it does.
type demo struct {
	prompt string
	once   bool
}

// show sends the prompt over NATS, and tells how to send more.
func (d demo) show(ctx context.Context, w io.Writer, engine *troupe.Engine) error {
	conn, err := engine.Node().Connection("demo")
	if err != nil {
		return err
	}
	defer conn.Close()
	fmt.Fprintf(w, "\n%s", dim(w, d.prompt))
	tokens := int64(demoTokens)
	text := &folder{w: w, column: utf8.RuneCountInString(d.prompt)}
	a, err := stream(ctx, troupe.NewClient(conn), troupe.GenerateRequest{Prompt: d.prompt,
		GenerationParams: schemas.GenerationParams{MaxTokens: &tokens}}, text)
	if endErr := text.end(); err == nil {
		err = endErr
	}
	if err != nil {
		fmt.Fprintln(w)
		return err
	}
	fmt.Fprintf(w, "\n%s\n", dim(w, a.summary()+", over NATS"))
	if !d.once {
		_, err = io.WriteString(w, tryLines(engine.Model().Name, engine.HTTPURL(), engine.NATSURL())+"\nCtrl-C stops.\n")
	}
	return err
}

// tryLines are commands to paste into another terminal.
func tryLines(model, httpURL, natsURL string) string {
	var b strings.Builder
	if httpURL != "" {
		fmt.Fprintf(&b, `
curl, streaming server-sent events:
  curl -N %[2]s/v1/completions -H 'Content-Type: application/json' \
    -d '{"prompt": "Once upon a time", "max_tokens": 50, "stream": true}'

openai for Python:
  python3 -c 'from openai import OpenAI
  for c in OpenAI(base_url="%[2]s/v1", api_key="-").chat.completions.create(
      model="%[1]s", stream=True,
      messages=[{"role": "user", "content": "Tell me a story."}]):
    print(c.choices[0].delta.content or "", end="")'
`, model, httpURL)
	}
	if natsURL != "" {
		server := ""
		if natsURL != "nats://127.0.0.1:4222" { // the default of the nats CLI
			server = "-s " + natsURL + " "
		}
		fmt.Fprintf(&b, `
nats, the NATS command line:
  nats %[1]sreq inf.v1.chat --wait-for-empty -H Content-Type:application/json \
    '{"messages":[{"role":"user","content":"Tell me a story."}],"stream":true}'
  nats %[1]smicro ls          # the actors
  nats %[1]ssub 'peek.>'      # what they say to each other, as JSON
  nats %[1]ssub 'tap.>' --raw # the same as msgpack
`, server)
	}
	return b.String()
}
