package gateway

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/troupe-engine/troupe/schemas"
)

// refusals are chat requests (chat) or completion requests that must be refused: status, code's param, and a part of
// the message.
var refusals = []struct {
	chat         bool
	body         string
	status       int
	param, about string
}{
	{true, ``, 400, "", "the body is empty"},
	{true, `[]`, 400, "", "expected a JSON object"},
	{true, `null`, 400, "", "expected a JSON object"},
	{true, `{"messages":`, 400, "", "not JSON"},
	{true, `{} {}`, 400, "", "not JSON"},
	{true, "{\"user\":\"\xff\"}", 400, "", "not UTF-8: byte 9 is 0xff"},
	{true, `{"messages":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, 400, "", "nests deeper than 64"},
	{true, `{}`, 400, "messages", "messages is missing"},
	{true, `{"messages":null}`, 400, "messages", "messages is missing"},
	{true, `{"messages":[]}`, 400, "messages", "0 elements"},
	{true, `{"messages":"hi"}`, 400, "messages", "expected an array of objects"},
	{true, `{"messages":[null]}`, 400, "messages[0].role", "missing"},
	{true, `{"messages":[{"content":"x"}]}`, 400, "messages[0].role", "missing"},
	{true, `{"messages":[{"role":"robot","content":"x"}]}`, 400, "messages[0].role", "expected one of system"},
	{true, `{"messages":[{"role":"user"}]}`, 400, "messages[0].content", "missing"},
	{true, `{"messages":[{"role":"user","content":5}]}`, 400, "messages[0].content", "expected a string"},
	{true, `{"messages":[{"role":"user","content":[]}]}`, 400, "messages[0].content", "non-empty array"},
	{true, `{"messages":[{"role":"user","content":[{"type":"text"}]}]}`, 400, "messages[0].content[0].text", "missing"},
	{true, `{"messages":[{"role":"user","content":[{"type":"image_url","image_url":{}}]}]}`, 422, "messages[0].content[0].type", "not supported yet"},
	{true, `{` + hello + `,"model":"other"}`, 404, "model", `there is no model "other"`},
	{true, `{` + hello + `,"model":5}`, 400, "model", "expected a string"},
	{true, `{` + hello + `,"temperature":"hot"}`, 400, "temperature", "expected a number"},
	{true, `{` + hello + `,"temperature":-0.1}`, 400, "temperature", "expected 0 to 100"},
	{true, `{` + hello + `,"temperature":1e39}`, 400, "temperature", "expected 0 to 100"},
	{true, `{` + hello + `,"temperature":1e999}`, 400, "temperature", "expected a number"},
	{true, `{` + hello + `,"temperature":NaN}`, 400, "", "not JSON"},
	{true, `{` + hello + `,"top_p":0}`, 400, "top_p", "more than 0"},
	{true, `{` + hello + `,"top_p":1.5}`, 400, "top_p", "at most 1"},
	{true, `{` + hello + `,"top_k":-2}`, 400, "top_k", "0 or -1"},
	{true, `{` + hello + `,"top_k":1.5}`, 400, "top_k", "expected an integer"},
	{true, `{` + hello + `,"min_p":2}`, 400, "min_p", "0 to 1"},
	{true, `{` + hello + `,"seed":1.5}`, 400, "seed", "expected an integer"},
	{true, `{` + hello + `,"seed":99999999999999999999}`, 400, "seed", "expected an integer"},
	{true, `{` + hello + `,"max_tokens":0}`, 400, "max_tokens", "1 to 2147483647"},
	{true, `{` + hello + `,"max_tokens":1e3}`, 400, "max_tokens", "expected an integer"},
	{true, `{` + hello + `,"max_tokens":99999999999}`, 400, "max_tokens", "1 to 2147483647"},
	{true, `{` + hello + `,"max_completion_tokens":-1}`, 400, "max_completion_tokens", "1 to 2147483647"},
	{true, `{` + hello + `,"max_tokens":1,"max_completion_tokens":2}`, 400, "max_tokens", "the same as max_completion_tokens"},
	{true, `{` + hello + `,"max_tokens":62}`, 400, "max_tokens", "3 tokens and max_tokens asks for 62 more; the context holds 64"},
	{true, `{` + hello + `,"min_tokens":62}`, 400, "min_tokens", "the context holds 64"},
	{true, `{` + hello + `,"min_tokens":5,"max_tokens":4}`, 400, "min_tokens", "at most max_tokens (4)"},
	{true, `{` + hello + `,"n":0}`, 400, "n", "1 to 128"},
	{true, `{` + hello + `,"n":129}`, 400, "n", "1 to 128"},
	{true, `{` + hello + `,"n":"2"}`, 400, "n", "expected an integer"},
	{true, `{` + hello + `,"stop":5}`, 400, "stop", "a string or an array of strings"},
	{true, `{` + hello + `,"stop":[""]}`, 400, "stop[0]", "0 bytes"},
	{true, `{` + hello + `,"stop":["a",null]}`, 400, "stop", "element 1 is null"},
	{true, `{` + hello + `,"stop":[` + strings.Repeat(`"x",`, 16) + `"x"]}`, 400, "stop", "at most 16"},
	{true, `{` + hello + `,"stop_token_ids":[-1]}`, 400, "stop_token_ids[0]", "a token id"},
	{true, `{` + hello + `,"stop_token_ids":[1,null]}`, 400, "stop_token_ids[1]", "null; expected an integer"},
	{true, `{` + hello + `,"guided_choice":[null]}`, 400, "guided_choice[0]", "null; expected a string"},
	{true, `{` + hello + `,"stop_token_ids":[9999]}`, 400, "stop_token_ids", "the vocabulary has 0 to 4095"},
	{true, `{` + hello + `,"stream":"yes"}`, 400, "stream", "true or false"},
	{true, `{` + hello + `,"stream_options":{}}`, 400, "stream_options", "without stream"},
	{true, `{` + hello + `,"stream":true,"stream_options":{"include_usage":1}}`, 400, "stream_options.include_usage", "true or false"},
	{true, `{` + hello + `,"stream":true,"stream_options":{"x":1}}`, 400, "stream_options", "unknown field"},
	{true, `{` + hello + `,"user":"` + strings.Repeat("x", 513) + `"}`, 400, "user", "at most 512"},
	{true, `{` + hello + `,"priority":99999999}`, 400, "priority", "expected an integer"},
	{true, `{` + hello + `,"chat_template_kwargs":[]}`, 400, "chat_template_kwargs", "an object"},
	{true, `{` + hello + `,"tools":{}}`, 400, "tools", "an array of objects"},
	{true, `{` + hello + `,"tools":[{"type":"function"}]}`, 400, "tools[0].function", "missing"},
	{true, `{` + hello + `,"tools":[{"type":"custom"}]}`, 422, "tools[0].type", "not supported"},
	{true, `{` + hello + `,"tools":[{"type":"function","function":{"name":"a b"}}]}`, 400, "tools[0].function.name", "letters"},
	{true, `{` + hello + `,"tools":[` + toolF + `,` + toolF + `]}`, 400, "tools[1].function.name", "each name once"},
	{true, `{` + hello + `,"tools":[{"type":"function","function":{"name":"f","parameters":[]}}]}`, 400, "tools[0].function.parameters", "a JSON schema"},
	{true, `{` + hello + `,"tools":[` + toolF + `],"tool_choice":"always"}`, 400, "tool_choice", "expected none, auto"},
	{true, `{` + hello + `,"tools":[` + toolF + `],"tool_choice":{"type":"function","function":{"name":"g"}}}`, 400, "tool_choice", "no such tool"},
	{true, `{` + hello + `,"tools":[` + toolF + `],"tool_choice":{"type":"allowed_tools"}}`, 422, "tool_choice", "not supported"},
	{true, `{` + hello + `,"tools":[` + toolF + `],"tool_choice":"required","regex":"a"}`, 400, "tool_choice", "constrains the answer"},
	{true, `{` + hello + `,"tools":[` + toolF + `],"tool_choice":"required","ignore_eos":true}`, 400, "ignore_eos", "together with tool_choice"},
	{true, `{` + hello + `,"parallel_tool_calls":1}`, 400, "parallel_tool_calls", "true or false"},
	{true, `{"messages":[{"role":"assistant","tool_calls":{}}]}`, 400, "messages[0].tool_calls", "an array of calls"},
	{true, `{"messages":[{"role":"assistant","tool_calls":[{"type":"function"}]}]}`, 400, "messages[0].tool_calls[0].function", "missing"},
	{true, `{` + hello + `,"tool_choice":"required"}`, 400, "tool_choice", "no tools"},
	{true, `{` + hello + `,"logprobs":2}`, 400, "logprobs", "true or false"},
	{true, `{` + hello + `,"top_logprobs":2}`, 400, "top_logprobs", "logprobs: true"},
	{true, `{` + hello + `,"logprobs":true,"top_logprobs":21}`, 400, "top_logprobs", "0 to 20"},
	{true, `{` + hello + `,"logprobs":true,"top_logprobs":-1}`, 400, "top_logprobs", "0 to 20"},
	{true, `{` + hello + `,"prompt_logprobs":21}`, 400, "prompt_logprobs", "0 to 20"},
	{true, `{` + hello + `,"prompt_logprobs":1,"stream":true}`, 422, "prompt_logprobs", "cannot be streamed"},
	{true, `{` + hello + `,"presence_penalty":2.5}`, 400, "presence_penalty", "-2 to 2"},
	{true, `{` + hello + `,"frequency_penalty":-2.5}`, 400, "frequency_penalty", "-2 to 2"},
	{true, `{` + hello + `,"frequency_penalty":"x"}`, 400, "frequency_penalty", "a number"},
	{true, `{` + hello + `,"repetition_penalty":0}`, 400, "repetition_penalty", "more than 0"},
	{true, `{` + hello + `,"repetition_penalty":101}`, 400, "repetition_penalty", "at most 100"},
	{true, `{` + hello + `,"logit_bias":[]}`, 400, "logit_bias", "an object of token ids"},
	{true, `{` + hello + `,"logit_bias":{"a":1}}`, 400, "logit_bias", "no token id"},
	{true, `{` + hello + `,"logit_bias":{"-1":1}}`, 400, "logit_bias", "no token id"},
	{true, `{` + hello + `,"logit_bias":{"1":101}}`, 400, "logit_bias", "-100 to 100"},
	{true, `{` + hello + `,"logit_bias":{"1":null}}`, 400, "logit_bias", "-100 to 100"},
	{true, `{` + hello + `,"logit_bias":{"4096":1}}`, 400, "logit_bias", "the vocabulary has 0 to 4095"},
	{true, `{` + hello + `,"response_format":{"type":"xml"}}`, 400, "response_format.type", "text, json_object or json_schema"},
	{true, `{` + hello + `,"response_format":{"type":"json_schema"}}`, 400, "response_format.json_schema.schema", "missing"},
	{true, `{` + hello + `,"response_format":{"type":"json_object","json_schema":{"schema":{}}}}`, 400, "response_format.json_schema", "only with"},
	{true, `{` + hello + `,"response_format":{"type":"json_schema","json_schema":{"schema":{"bad":1}}}}`, 400, "response_format", "the guide is bad"},
	{true, `{` + hello + `,"response_format":"json"}`, 400, "response_format", "an object"},
	{true, `{` + hello + `,"guided_json":{"bad":1}}`, 400, "guided_json", "the guide is bad"},
	{true, `{` + hello + `,"guided_choice":[]}`, 400, "guided_choice", "empty"},
	{true, `{` + hello + `,"guided_choice":["a",5]}`, 400, "guided_choice", "expected an array, each element a string"},
	{true, `{` + hello + `,"guided_choice":[` + strings.Repeat(`"a",`, 1024) + `"a"]}`, 400, "guided_choice", "1025 choices long; expected 1 to 1024"},
	{true, `{` + hello + `,"guided_regex":"a","regex":"b"}`, 400, "guided_regex", "both set"},
	{true, `{` + hello + `,"regex":"` + strings.Repeat("a", 1<<18+1) + `"}`, 400, "regex", "at most"},
	{true, `{` + hello + `,"structured_outputs":{"json":{},"regex":"a"}}`, 400, "structured_outputs.regex", "both set"},
	{true, `{` + hello + `,"regex":"a","ignore_eos":true}`, 400, "ignore_eos", "together with regex"},
	{true, `{` + hello + `,"grammar":"a","min_tokens":3}`, 400, "min_tokens", "together with grammar"},
	{true, `{` + hello + `,"functions":[{}]}`, 422, "functions", "not supported yet"},
	{true, `{` + hello + `,"temprature":1}`, 400, "temprature", "unknown field"},
	{true, `{` + hello + `,"Temperature":1}`, 400, "Temperature", "unknown field"},
	{true, `{` + hello + `,"":1}`, 400, "", "unknown field"},
	{false, `{}`, 400, "prompt", "prompt is missing"},
	{false, `{"prompt":"  "}`, 400, "prompt", "no tokens"},
	{false, `{"prompt":[]}`, 400, "prompt", "non-empty array"},
	{false, `{"prompt":["a",1]}`, 400, "prompt", "array of strings"},
	{false, `{"prompt":[1,"a"]}`, 400, "prompt", "token ids"},
	{false, `{"prompt":[1,-1]}`, 400, "prompt", "token 1"},
	{false, `{"prompt":[1,null]}`, 400, "prompt", "token 1"},
	{false, `{"prompt":[[1],[]]}`, 400, "prompt", "element 1"},
	{false, `{"prompt":[4294967296]}`, 400, "prompt", "token ids"},
	{false, `{"prompt":{"a":1}}`, 400, "prompt", "expected a string"},
	{false, `{"prompt":"` + strings.Repeat("a ", 64) + `"}`, 400, "prompt", "64 tokens; the context holds 64"},
	{false, `{"prompt":[` + strings.Repeat(`"a",`, 128) + `"a"]}`, 400, "prompt", "at most 128"},
	{false, `{"prompt":["a","b"],"n":128,"best_of":128,"echo":true}`, 422, "best_of", "not supported yet"},
	{false, `{"prompt":"a","logprobs":true}`, 400, "logprobs", "an integer"},
	{false, `{"prompt":"a","logprobs":21}`, 400, "logprobs", "0 to 20"},
	{false, `{"prompt":"a","logprobs":1,"echo":true,"stream":true}`, 422, "echo", "cannot be streamed"},
	{false, `{"prompt":"a","max_tokens":0}`, 400, "max_tokens", "1 to"},
	{false, `{"prompt":"a","top_logprobs":1}`, 400, "top_logprobs", "unknown field"},
	{false, `{"prompt":["a","b","c"],"n":100}`, 400, "n", "at most 85 with 3 prompts"},
	{false, `{"prompt":"a","messages":[]}`, 400, "messages", "unknown field"},
}

const toolF = `{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}`

func TestBadRequestsAreRefusedByName(t *testing.T) {
	e := startEngine(t, recite)
	g, server := startGateway(t, e, nil)
	for _, c := range refusals {
		path := "/v1/completions"
		if c.chat {
			path = "/v1/chat/completions"
		}
		resp, body := post(t, server, path, c.body)
		got := decode[schemas.ErrorReply](t, body).Error
		param := ""
		if got.Param != nil {
			param = *got.Param
		}
		if resp.StatusCode != c.status || (param != c.param && c.param != "") || !strings.Contains(got.Message, c.about) {
			t.Errorf("%.120s\n got %d %s\nwant %d param %q and %q", c.body, resp.StatusCode, body, c.status, c.param, c.about)
		}
		if got.Type != "invalid_request_error" || got.Code == nil {
			t.Errorf("%.120s: %s", c.body, body)
		}
	}
	if n := len(e.submitted); n != 0 {
		t.Errorf("%d of them reached the scheduler", n)
	}
	eventually(t, "every session is closed", func() bool { return e.openSessions() == 0 && g.requests.count() == 0 })
	resp, body := post(t, server, "/v1/completions", `{"prompt":"`+strings.Repeat("a ", 65)+`"}`)
	if code := decode[schemas.ErrorReply](t, body).Error.Code; resp.StatusCode != 400 || *code != "context_length_exceeded" {
		t.Errorf("%d %s", resp.StatusCode, body)
	}
}

func TestHarmlessFieldsAreAccepted(t *testing.T) {
	e := startEngine(t, recite)
	_, server := startGateway(t, e, nil)
	for _, extra := range []string{
		`"logprobs":false,"top_logprobs":null,"presence_penalty":0,"frequency_penalty":0.0,"logit_bias":{},"store":true,"metadata":{"a":"b"}`,
		`"response_format":{"type":"text"},"service_tier":"auto","parallel_tool_calls":true,"modalities":["text"],"user":"u"`,
		`"tools":[],"tool_choice":"auto","prompt_cache_key":"k","safety_identifier":"s","n":null,"stop":null,"seed":18446744073709551615`,
		`"tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"none","chat_template_kwargs":{"a":1}`,
		`"top_k":-1,"min_p":0.1,"stop":["a","b"],"stop_token_ids":[3],"ignore_eos":true,"min_tokens":2,"priority":-5,"skip_special_tokens":false`,
		`"stream_options":null,"add_generation_prompt":false,"max_completion_tokens":2,"max_tokens":2`,
	} {
		resp, body := post(t, server, "/v1/chat/completions", `{`+hello+`,`+extra+`}`)
		if resp.StatusCode != 200 {
			t.Errorf("%s: %d %s", extra, resp.StatusCode, body)
		}
	}
	r, q := e.submits[4], e.encodes[4]
	if r.Sampling.TopK != 0 || len(r.StopTokens) != 1 || r.StopTokens[0] != 3 || r.MinTokens != 2 || r.Priority != -5 || len(q.Detok.Stop) != 2 || !q.Detok.KeepSpecial {
		t.Errorf("%+v %+v", r, q.Detok)
	}
	if q := e.encodes[3]; q.Tools == nil || string(q.TemplateArgs) != `{"a":1}` {
		t.Errorf("%+v", q)
	}
	if r, q := e.submits[5], e.encodes[5]; r.MaxTokens != 2 || !q.Continue {
		t.Errorf("%+v %+v", r, q)
	}
	if e.submits[0].Sampling.Rules != nil {
		t.Errorf("rules that do nothing: %+v", e.submits[0].Sampling.Rules)
	}
	if got := e.submits[0].MaxTokens; got != engineContext-3 {
		t.Errorf("max_tokens defaults to %d; want what the context leaves", got)
	}
}

func TestContentPartsAreJoined(t *testing.T) {
	raw := json.RawMessage(`[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}],"name":"x"},{"role":"assistant","content":null}]`)
	got, err := checkMessages(raw)
	if err != nil || string(got) != `[{"content":"a\nb","name":"x","role":"user"},{"content":null,"role":"assistant"}]` {
		t.Fatalf("%s %v", got, err)
	}
}

// openai-python's message.model_dump() has every field, and templates ask whether a message has tool_calls.
func TestUnsetFieldsOfMessagesAreDropped(t *testing.T) {
	for raw, want := range map[string]string{
		`[{"role":"assistant","content":null,"refusal":null,"annotations":null,"audio":null,"function_call":null,"tool_calls":null}]`: `[{"content":null,"role":"assistant"}]`,
		`[{"role":"assistant","content":"a","tool_calls":[ ]}]`:                                                                       `[{"content":"a","role":"assistant"}]`,
		`[{"role":"user","content":"a","name":"x"}]`:                                                                                  `[{"role":"user","content":"a","name":"x"}]`,
	} {
		if got, err := checkMessages(json.RawMessage(raw)); err != nil || string(got) != want {
			t.Errorf("%s: got %s %v; want %s", raw, got, err, want)
		}
	}
}

func TestMsgpackIsJudgedLikeJSON(t *testing.T) {
	pack := func(v any) []byte {
		b, err := msgpack.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	f, err := fieldsOfMsgpack(pack(map[string]any{"prompt": []any{int64(1), uint64(2)}, "temperature": float32(0.5), "n": int8(2)}))
	if err != nil {
		t.Fatal(err)
	}
	j, err := completionAPI.read(f, &Config{Defaults: schemas.SamplingParams{TopP: 1}})
	if err != nil || j.n != 2 || j.sampling.Temperature != 0.5 || len(j.prompts[0].Tokens) != 2 {
		t.Fatalf("%+v %v", j, err)
	}
	for _, c := range []struct {
		body         []byte
		param, about string
	}{
		{pack(map[string]any{"temperature": math.NaN()}), "temperature", "finite"},
		{pack(map[string]any{"temperature": math.Inf(1)}), "temperature", "finite"},
		{pack(map[string]any{"prompt": []byte{1}}), "prompt", "what JSON can express"},
		{pack(map[string]any{"prompt": "\xff"}), "prompt", "not UTF-8"},
		{pack(map[string]any{"\xff": 1}), "", "not UTF-8"},
		{pack([]int{1}), "", "no msgpack map"},
		{pack(map[int]int{1: 1}), "", "no msgpack map"},
		{nil, "", "truncated"},
		{[]byte{0xdf, 0xff, 0xff, 0xff, 0xff}, "", "claims"},
		{[]byte{0xc0}, "", "no msgpack map"},
		{bytes.Repeat([]byte{0x91}, 50), "", "deeper"},
	} {
		if _, err := fieldsOfMsgpack(c.body); err == nil || err.Param != c.param || !strings.Contains(err.Detail, c.about) {
			t.Errorf("%x: got %v; want param %q and %q", c.body, err, c.param, c.about)
		}
	}
}

// FuzzParse feeds arbitrary bodies to both parsers in both encodings: any outcome but a job or an error
// that blames the client is a bug.
func FuzzParse(f *testing.F) {
	for _, c := range refusals {
		f.Add([]byte(c.body))
	}
	f.Add([]byte("\x81\xa6prompt\xa1a"))
	cfg := (Config{}).withDefaults()
	f.Fuzz(func(t *testing.T, body []byte) {
		for _, split := range []func([]byte) (fields, *schemas.Error){fieldsOfJSON, fieldsOfMsgpack} {
			found, err := split(body)
			if err != nil {
				checkBlame(t, err)
				continue
			}
			for _, a := range []*api{chatAPI, completionAPI, responsesAPI, embeddingAPI} {
				j, err := a.read(found, &cfg)
				if err != nil {
					checkBlame(t, err)
				} else if j.n < 1 || len(j.prompts) < 1 || (len(j.prompts)*j.n > schemas.RequestChoicesMax && j.embed == nil) || j.sampling.Validate() != nil {
					t.Fatalf("accepted %+v", j)
				}
			}
		}
	})
}

func checkBlame(t *testing.T, err *schemas.Error) {
	if status := err.Kind.HTTPStatus(); status < 400 || status > 499 || err.Detail == "" {
		t.Fatalf("%d %v", status, err)
	}
}
