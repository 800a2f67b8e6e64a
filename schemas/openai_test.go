package schemas

import (
	"encoding/json"
	"reflect"
	"testing"
)

// Clients copy the examples: each must survive JSON and describe itself by its schema.
func TestClientExamples(t *testing.T) {
	for _, e := range ClientEndpoints() {
		for _, example := range []any{e.RequestExample, e.ReplyExample, e.EventExample} {
			if example == nil {
				continue
			}
			body, err := json.Marshal(example)
			if err != nil {
				t.Fatalf("%T: %v", example, err)
			}
			again := reflect.New(reflect.TypeOf(example).Elem()).Interface()
			if err := json.Unmarshal(body, again); err != nil {
				t.Fatalf("%T: %v in %s", example, err, body)
			}
			twice, err := json.Marshal(again)
			if err != nil || string(twice) != string(body) {
				t.Errorf("%T: %s became %s, %v", example, body, twice, err)
			}
		}
		var schema struct{ Properties map[string]any }
		if err := json.Unmarshal([]byte(JSONSchema(e.Request)), &schema); err != nil {
			t.Errorf("%s: schema: %v", e.Verb, err)
		}
		body, _ := json.Marshal(e.RequestExample)
		var fields map[string]any
		_ = json.Unmarshal(body, &fields) // it was marshalled above
		for name := range fields {
			if _, ok := schema.Properties[name]; !ok {
				t.Errorf("%s: the schema lacks %s", e.Verb, name)
			}
		}
	}
}

func TestPromptForms(t *testing.T) {
	for body, want := range map[string]Prompts{
		`"a"`:         {Texts: []string{"a"}},
		`["a","b"]`:   {Texts: []string{"a", "b"}},
		`[1,2]`:       {Tokens: []I32{{1, 2}}},
		`[[1],[2,3]]`: {Tokens: []I32{{1}, {2, 3}}},
	} {
		var p Prompts
		if err := json.Unmarshal([]byte(body), &p); err != nil || !reflect.DeepEqual(p, want) {
			t.Errorf("%s: %+v, %v", body, p, err)
		}
		if again, err := json.Marshal(p); err != nil || string(again) != body {
			t.Errorf("%s became %s, %v", body, again, err)
		}
	}
	for _, body := range []string{`{}`, `1`, `[]`, `[[]]`, `[1,"a"]`, `["a",1]`, `[null]`, `[[1],2]`, `[-1]`, `[1.5]`} {
		if err := json.Unmarshal([]byte(body), &Prompts{}); err == nil {
			t.Errorf("%s was accepted", body)
		}
	}
}

func TestSeedsOfEitherSign(t *testing.T) {
	for body, want := range map[string]Seed{"0": 0, "42": 42, "-1": 1<<64 - 1, "18446744073709551615": 1<<64 - 1} {
		var s Seed
		if err := json.Unmarshal([]byte(body), &s); err != nil || s != want {
			t.Errorf("%s: %d, %v", body, s, err)
		}
	}
	for _, body := range []string{`1.5`, `"1"`, `18446744073709551616`, `[]`} {
		if err := json.Unmarshal([]byte(body), new(Seed)); err == nil {
			t.Errorf("%s was accepted", body)
		}
	}
}

func TestErrorsInOpenAIsShape(t *testing.T) {
	for kind, want := range map[Kind]string{KindInvalid: "invalid_request_error", KindNotFound: "invalid_request_error",
		KindUnauthorized: "invalid_request_error", KindOverloaded: "rate_limit_error", KindUnavailable: "service_unavailable_error",
		KindTimeout: "timeout_error", KindInternal: "server_error", KindNoMemory: "server_error", KindDeviceLost: "service_unavailable_error"} {
		e := NewErrorReply(Errorf(kind, "op", "what happened").WithHint("what to do")).Error
		if e.Type != want || *e.Code != string(kind) || e.Param != nil || e.Message != "what happened; what to do" {
			t.Errorf("%s: %+v", kind, e)
		}
	}
	deep := Errorf(KindInvalid, "chat template", "the model has none").WithParam("messages")
	deep.Actor = "tokenizer.tokenizer0"
	if e := NewErrorReply(deep).Error; e.Message != "chat template: the model has none" || *e.Param != "messages" {
		t.Errorf("%+v", e)
	}
}
