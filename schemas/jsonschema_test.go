package schemas

import (
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// matches checks value against the part of JSON Schema that our schemas use.
func matches(root, schema map[string]any, value any, path string) error {
	if ref, ok := schema["$ref"].(string); ok {
		definition, ok := root["$defs"].(map[string]any)[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)
		if !ok {
			return fmt.Errorf("%s: dangling %s", path, ref)
		}
		return matches(root, definition, value, path)
	}
	for key := range schema {
		if !slices.Contains([]string{"$schema", "$id", "$defs", "type", "properties", "required", "additionalProperties", "items", "pattern", "description", "title",
			"format", "contentEncoding", "anyOf", "oneOf", "enum", "minimum", "maximum"}, key) {
			return fmt.Errorf("%s: the test does not know %q", path, key)
		}
	}
	for _, word := range []string{"anyOf", "oneOf"} {
		if choices, ok := schema[word].([]any); ok {
			if !slices.ContainsFunc(choices, func(c any) bool { return matches(root, c.(map[string]any), value, path) == nil }) {
				return fmt.Errorf("%s: %v matches none of %v", path, value, choices)
			}
		}
	}
	fits := true
	switch schema["type"] {
	case nil:
	case "object":
		object, ok := value.(map[string]any)
		if !ok {
			return fmt.Errorf("%s: want an object, got %v", path, value)
		}
		return matchesObject(root, schema, object, path)
	case "array":
		list, ok := value.([]any)
		if !ok {
			return fmt.Errorf("%s: want an array, got %v", path, value)
		}
		if items, ok := schema["items"].(map[string]any); ok {
			for i, v := range list {
				if err := matches(root, items, v, fmt.Sprintf("%s[%d]", path, i)); err != nil {
					return err
				}
			}
		}
	case "string":
		var text string
		text, fits = value.(string)
		if pattern, ok := schema["pattern"].(string); ok && fits {
			fits = regexp.MustCompile(pattern).MatchString(text)
		}
	case "integer":
		var n float64
		n, fits = value.(float64)
		fits = fits && n == float64(int64(n))
	case "number":
		_, fits = value.(float64)
	case "null":
		fits = value == nil
	case "boolean":
		_, fits = value.(bool)
	default:
		return fmt.Errorf("%s: the test does not know type %v", path, schema["type"])
	}
	if !fits {
		return fmt.Errorf("%s: %v does not fit %v", path, value, schema)
	}
	return nil
}

func matchesObject(root, schema, object map[string]any, path string) error {
	properties, _ := schema["properties"].(map[string]any)
	required, _ := schema["required"].([]any)
	for _, name := range required {
		if _, ok := object[name.(string)]; !ok {
			return fmt.Errorf("%s: %v is required", path, name)
		}
	}
	for name, v := range object {
		property, ok := properties[name]
		if !ok {
			if schema["additionalProperties"] == false {
				return fmt.Errorf("%s: %s is not allowed", path, name)
			}
			continue
		}
		if p, ok := property.(map[string]any); ok { // otherwise true: anything
			if err := matches(root, p, v, path+"."+name); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestSchemasFitTheirExamples(t *testing.T) {
	check := func(name string, example any) {
		text, err := json.Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		var value, schema map[string]any
		if err := json.Unmarshal(text, &value); err != nil {
			t.Fatal(err)
		}
		described := JSONSchema(reflect.TypeOf(example).Elem())
		if err := json.Unmarshal([]byte(described), &schema); err != nil {
			t.Fatal(err)
		}
		if schema["type"] != "object" {
			t.Errorf("%s: the schema is %s", name, described)
		}
		if err := matches(schema, schema, value, name); err != nil {
			t.Errorf("%v\nexample %s\nschema %s", err, text, described)
		}
		value["no_such_field"] = 1
		if schema["additionalProperties"] == false && matches(schema, schema, value, name) == nil {
			t.Errorf("%s: an unknown field fits", name)
		}
	}
	for name, example := range messages(t) {
		check(name, example)
	}
	for _, e := range ClientEndpoints() {
		for _, example := range []any{e.RequestExample, e.ReplyExample, e.EventExample} {
			if example != nil {
				check(e.Verb, example)
			}
		}
	}
}

// Every field of every message has a snake_case JSON name: it is also the key in msgpack maps.
func TestFieldNames(t *testing.T) {
	snake := regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	for name, example := range messages(t) {
		typ, seen := reflect.TypeOf(example).Elem(), map[string]bool{}
		for i := range typ.NumField() {
			if f := typ.Field(i); f.IsExported() {
				key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
				if !snake.MatchString(key) || seen[key] {
					t.Errorf("%s.%s has the JSON name %q", name, f.Name, key)
				}
				seen[key] = true
			}
		}
	}
}

func TestEndpointsAreComplete(t *testing.T) {
	subjects := map[string]bool{}
	for _, e := range Endpoints() {
		if subjects[e.Subject()] || e.Doc == "" || !strings.HasPrefix(e.Subject(), SubjectPrefix) {
			t.Errorf("endpoint %s: %q", e.Subject(), e.Doc)
		}
		subjects[e.Subject()] = true
	}
	if got := (Topic[Error]{Service: "scheduler", Verb: "load"}); got.Subject("r0") != "inf.v1.scheduler.load.r0" || got.Subject("") != "inf.v1.scheduler.load.*" {
		t.Errorf("got %s and %s", got.Subject("r0"), got.Subject(""))
	}
}
