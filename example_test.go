package troupe_test

import (
	"context"
	"fmt"
	"log"
	"strings"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/schemas"
)

// An engine within a program: no ports, one answer as it is made.
func ExampleEngine_Generate() {
	ctx := context.Background()
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen = "none", "none"
	engine, err := troupe.Open(ctx, opts, zerolog.Nop(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	greedy, tokens := 0.0, int64(16)
	request := troupe.GenerateRequest{Prompt: "Once upon a time there was",
		GenerationParams: schemas.GenerationParams{Temperature: &greedy, MaxTokens: &tokens}}
	var answer strings.Builder
	for delta, err := range engine.Generate(ctx, request) {
		if err != nil {
			log.Fatal(err)
		}
		answer.WriteString(delta.Text)
		if delta.Usage != nil {
			fmt.Println(delta.Usage.CompletionTokens, "tokens")
		}
	}
	fmt.Println("an answer:", answer.Len() > 0)
	// Output:
	// 16 tokens
	// an answer: true
}
