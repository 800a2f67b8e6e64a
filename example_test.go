package troupe_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/schemas"
)

// open starts an engine within the program, with the model in the binary and no ports.
func open() *troupe.Engine {
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen = "none", "none"
	engine, err := troupe.Open(context.Background(), opts, zerolog.Nop(), nil)
	if err != nil {
		log.Fatal(err)
	}
	return engine
}

// An engine within a program: no ports, one answer as it is made.
func ExampleEngine_Generate() {
	engine := open()
	defer engine.Close()

	request := troupe.GenerateRequest{Prompt: "Once upon a time there was", Logprobs: new(2),
		GenerationParams: schemas.GenerationParams{Temperature: new(0.0), MaxTokens: new(int64(16))}}
	var answer strings.Builder
	tokens := 0
	for delta, err := range engine.Generate(context.Background(), request) {
		if err != nil {
			log.Fatal(err)
		}
		answer.WriteString(delta.Text)
		tokens += len(delta.Logprobs) // each with its text and the two likeliest at its place
		if delta.Usage != nil {
			fmt.Println(delta.Usage.CompletionTokens, "tokens,", tokens, "with their log-probabilities")
		}
	}
	fmt.Println("an answer:", answer.Len() > 0)
	// Output:
	// 16 tokens, 16 with their log-probabilities
	// an answer: true
}

// An answer that is JSON of a given shape.
func ExampleEngine_Chat() {
	engine := open()
	defer engine.Close()

	request := troupe.GenerateRequest{Messages: []troupe.Message{{Role: "user", Content: "Describe a cat."}}}
	request.MaxTokens = new(int64(200))
	request.GuidedJSON = `{"type": "object", "required": ["name", "lives"], "additionalProperties": false,
		"properties": {"name": {"type": "string", "maxLength": 20}, "lives": {"type": "integer", "minimum": 1, "maximum": 9}}}`
	answer, err := engine.Chat(context.Background(), request)
	if err != nil {
		log.Fatal(err)
	}
	var cat struct {
		Name  string `json:"name"`
		Lives int    `json:"lives"`
	}
	if err := json.Unmarshal([]byte(answer.Choices[0].Message.Content), &cat); err != nil {
		log.Fatal(err)
	}
	fmt.Println("between one and nine lives:", cat.Lives >= 1 && cat.Lives <= 9)
	// Output:
	// between one and nine lives: true
}

// A function that the model must call.
func ExampleEngine_Generate_tools() {
	engine := open()
	defer engine.Close()

	request := troupe.GenerateRequest{
		Messages:   []troupe.Message{{Role: "user", Content: "How warm is it?"}},
		Tools:      []troupe.Tool{{Name: "thermometer", Parameters: json.RawMessage(`{"type": "object", "required": ["unit"], "additionalProperties": false, "properties": {"unit": {"enum": ["C", "F"]}}}`)}},
		ToolChoice: "required",
	}
	var name, arguments string
	for delta, err := range engine.Generate(context.Background(), request) {
		if err != nil {
			log.Fatal(err)
		}
		for _, call := range delta.ToolCalls {
			name += call.Function.Name
			arguments += call.Function.Arguments
		}
		if delta.Finish != "" {
			fmt.Println("ended with", delta.Finish)
		}
	}
	var wanted struct{ Unit string }
	if err := json.Unmarshal([]byte(arguments), &wanted); err != nil {
		log.Fatal(err)
	}
	fmt.Println(name, "in C or F:", wanted.Unit == "C" || wanted.Unit == "F")
	// Output:
	// ended with tool_calls
	// thermometer in C or F: true
}

// How near two texts are: their vectors have length 1.
func ExampleEngine_Embed() {
	engine := open()
	defer engine.Close()

	vectors, err := engine.Embed(context.Background(), "a king and a queen", "a king and a queen", "it rained all day")
	if err != nil {
		log.Fatal(err)
	}
	cosine := func(a, b []float32) (sum float64) {
		for i := range a {
			sum += float64(a[i] * b[i])
		}
		return sum
	}
	same, other := cosine(vectors[0], vectors[1]), cosine(vectors[0], vectors[2])
	fmt.Printf("the same text: %.2f; another is further away: %v\n", math.Abs(same), other < same)
	// Output:
	// the same text: 1.00; another is further away: true
}

// The HTTP API within a server that has other work, too.
func ExampleEngine_Handler() {
	engine := open()
	defer engine.Close()

	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "something else") })
	mux.Handle("/llm/", http.StripPrefix("/llm", engine.Handler()))
	server := httptest.NewServer(mux)
	defer server.Close()

	for _, path := range []string{"/", "/llm/health/ready"} {
		resp, err := http.Get(server.URL + path)
		if err != nil {
			log.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(resp.StatusCode, strings.TrimSpace(string(body)))
	}
	// Output:
	// 200 something else
	// 200 {"model":"troupe-tiny","status":"ready"}
}
