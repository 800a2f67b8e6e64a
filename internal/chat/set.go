package chat

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// parameter is what /set can change: its name is that of the HTTP API.
type parameter struct {
	name string
	// set reads a value; "" is the model's default.
	set func(p *schemas.GenerationParams, value string) error
	get func(p *schemas.GenerationParams) string // "" if it is the default
}

// pointer makes a parameter of a field that is nil by default.
func pointer[T any](name, want string, field func(*schemas.GenerationParams) **T, parse func(string) (T, error)) parameter {
	return parameter{name,
		func(p *schemas.GenerationParams, value string) error {
			if value == "" {
				*field(p) = nil
				return nil
			}
			v, err := parse(value)
			if err != nil {
				return fmt.Errorf("%s is %q; expected %s", name, value, want)
			}
			*field(p) = &v
			return nil
		},
		func(p *schemas.GenerationParams) string {
			if *field(p) == nil {
				return ""
			}
			return fmt.Sprint(**field(p))
		}}
}

func parseNumber(s string) (float64, error) { return strconv.ParseFloat(s, 64) }
func parseCount(s string) (int64, error)    { return strconv.ParseInt(s, 10, 64) }
func parseSeed(s string) (schemas.Seed, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	return schemas.Seed(n), err
}

var parameters = []parameter{
	pointer("temperature", "a number", func(p *schemas.GenerationParams) **float64 { return &p.Temperature }, parseNumber),
	pointer("top_p", "a number", func(p *schemas.GenerationParams) **float64 { return &p.TopP }, parseNumber),
	pointer("top_k", "an integer", func(p *schemas.GenerationParams) **int64 { return &p.TopK }, parseCount),
	pointer("min_p", "a number", func(p *schemas.GenerationParams) **float64 { return &p.MinP }, parseNumber),
	pointer("seed", "an integer", func(p *schemas.GenerationParams) **schemas.Seed { return &p.Seed }, parseSeed),
	pointer("max_tokens", "an integer", func(p *schemas.GenerationParams) **int64 { return &p.MaxTokens }, parseCount),
	{"stop", setStop, func(p *schemas.GenerationParams) string {
		if len(p.Stop) == 0 {
			return ""
		}
		raw, err := json.Marshal([]string(p.Stop))
		if err != nil {
			return "" // strings always marshal
		}
		return string(raw)
	}},
}

// setStop takes a text, or several as a JSON array of strings.
func setStop(p *schemas.GenerationParams, value string) error {
	var list []string
	switch {
	case value == "":
	case value[0] != '[':
		list = []string{value}
	case json.Unmarshal([]byte(value), &list) != nil:
		return fmt.Errorf(`stop is %q; expected a text, or an array such as ["\n", "User:"]`, value)
	}
	p.Stop = list
	return nil
}

// set changes one parameter, as in temperature=0.7.
func set(p *schemas.GenerationParams, assignment string) error {
	name, value, found := strings.Cut(assignment, "=")
	name, value = strings.ReplaceAll(strings.TrimSpace(name), "-", "_"), strings.TrimSpace(value)
	if !found {
		return fmt.Errorf("expected /set name=value, as in /set temperature=0.7")
	}
	for _, known := range parameters {
		if known.name != name {
			continue
		}
		changed := *p
		if err := known.set(&changed, value); err != nil {
			return err
		}
		if err := check(&changed); err != nil {
			return err
		}
		*p = changed
		return nil
	}
	return fmt.Errorf("there is no %q; expected one of %s", name, strings.Join(parameterNames(), ", "))
}

// Check finds parameters that the engine would refuse.
func (c *Conversation) Check() error { return check(&c.Params) }

// check applies the rules of the HTTP API.
func check(p *schemas.GenerationParams) error {
	r := schemas.ChatRequest{Messages: json.RawMessage("[]"), GenerationParams: *p}
	if err := r.Validate(); err != nil {
		return err
	}
	if _, err := p.Apply(schemas.SamplingParams{Temperature: 1, TopP: 1}); err != nil {
		return err
	}
	return nil
}

func parameterNames() []string {
	names := make([]string, len(parameters))
	for i, p := range parameters {
		names[i] = p.name
	}
	return names
}

// describe lists what differs from the model's defaults.
func describe(p *schemas.GenerationParams) string {
	var parts []string
	for _, known := range parameters {
		if value := known.get(p); value != "" {
			parts = append(parts, known.name+"="+value)
		}
	}
	if parts == nil {
		return "all parameters are the model's defaults"
	}
	return strings.Join(parts, " ")
}
