package jinja_test

import (
	"errors"
	"fmt"

	"github.com/troupe-engine/troupe/internal/jinja"
)

func Example() {
	tmpl, err := jinja.Parse(`{% for m in messages %}
<|{{ m.role }}|>{{ m.content | trim }}
{% endfor %}
{% if add_generation_prompt %}<|assistant|>{% endif %}`)
	if err != nil {
		panic(err)
	}
	messages, err := jinja.FromJSON([]byte(`[{"role": "user", "content": " Hello "}]`))
	if err != nil {
		panic(err)
	}
	prompt, err := tmpl.Render(map[string]any{"messages": messages, "add_generation_prompt": true})
	fmt.Println(prompt, err)
	// Output:
	// <|user|>Hello
	// <|assistant|> <nil>
}

// A template that refuses a conversation is the requester's problem, any other error
// the operator's.
func ExampleError() {
	tmpl, err := jinja.Parse("{% if messages[0].role != 'user' %}\n  {{ raise_exception('The first message must be from the user') }}{% endif %}")
	if err != nil {
		panic(err)
	}
	_, err = tmpl.Render(map[string]any{"messages": []any{map[string]any{"role": "system"}}})
	var e *jinja.Error
	if errors.As(err, &e) && e.Kind == jinja.RaisedError {
		fmt.Printf("line %d, column %d: %s\n", e.Line, e.Column, e.Message)
	}
	// Output: line 2, column 21: The first message must be from the user
}
