// Embed runs an engine inside a program: an answer as it is made, one of a given form, vectors, and the HTTP API
// under a path of the program's own server.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"net/http"
	"net/http/httptest"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/schemas"
)

func main() {
	if err := run(context.Background()); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context) error {
	opts := troupe.DefaultOptions() // the model in the binary; opts.Model takes a name or a directory
	opts.HTTP, opts.NATSListen = "none", "none"
	engine, err := troupe.Open(ctx, opts, zerolog.Nop(), nil)
	if err != nil {
		return err
	}
	defer engine.Close()
	for _, show := range []func(context.Context, *troupe.Engine) error{story, form, vectors, server} {
		if err := show(ctx, engine); err != nil {
			return err
		}
	}
	return nil
}

// story prints an answer as it is made. Leaving the loop would cancel it.
func story(ctx context.Context, engine *troupe.Engine) error {
	request := troupe.GenerateRequest{Prompt: "Once upon a time", GenerationParams: schemas.GenerationParams{MaxTokens: new(int64(40))}}
	fmt.Print("story: ", request.Prompt)
	for delta, err := range engine.Generate(ctx, request) {
		if err != nil {
			return err
		}
		fmt.Print(delta.Text)
	}
	fmt.Println()
	return nil
}

// form gets an answer that fits a Go type.
func form(ctx context.Context, engine *troupe.Engine) error {
	type animal struct {
		Kind string `json:"kind" jsonschema:"enum=cat,enum=dog,enum=bird"`
		Legs int    `json:"legs" jsonschema:"minimum=0,maximum=4"`
	}
	request := troupe.GenerateRequest{Messages: []troupe.Message{{Role: "user", Content: "Name an animal."}}}
	request.GuidedJSON = schemas.Text(schemas.JSONSchemaOf[animal]())
	answer, err := engine.Chat(ctx, request)
	if err != nil {
		return err
	}
	var a animal
	if err := json.Unmarshal([]byte(answer.Choices[0].Message.Content), &a); err != nil {
		return err
	}
	fmt.Printf("form: %+v\n", a)
	return nil
}

// vectors tells how near texts are: their vectors have length 1.
func vectors(ctx context.Context, engine *troupe.Engine) error {
	v, err := engine.Embed(ctx, "a king and a queen", "a king and a prince", "it rained all day")
	if err != nil {
		return err
	}
	for _, other := range v[1:] {
		cosine := float32(0)
		for i := range other {
			cosine += v[0][i] * other[i]
		}
		fmt.Printf("vectors: cosine %.2f\n", cosine)
	}
	return nil
}

// server mounts the HTTP API in a server that has other work, too.
func server(_ context.Context, engine *troupe.Engine) error {
	mux := http.NewServeMux()
	mux.Handle("/llm/", http.StripPrefix("/llm", engine.Handler()))
	s := httptest.NewServer(mux)
	defer s.Close()
	resp, err := http.Get(s.URL + "/llm/v1/models")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var list schemas.ModelList
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return err
	}
	fmt.Println("server: /llm/v1/models has", list.Data[0].ID)
	return nil
}
