// Embed runs an engine inside a program and prints an answer as it is made.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/schemas"
)

func main() {
	ctx := context.Background()
	opts := troupe.DefaultOptions() // the model in the binary; opts.Model takes a directory
	opts.HTTP, opts.NATSListen = "none", "none"
	engine, err := troupe.Open(ctx, opts, zerolog.Nop(), nil)
	if err != nil {
		log.Fatal(err)
	}
	defer engine.Close()

	tokens := int64(40)
	request := troupe.GenerateRequest{Prompt: "Once upon a time",
		GenerationParams: schemas.GenerationParams{MaxTokens: &tokens}}
	for delta, err := range engine.Generate(ctx, request) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(delta.Text)
	}
	fmt.Println()
}
