package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// embed answers every prompt with the vector (number of its tokens, 0.5).
func embed(e *engine, r *schemas.SubmitRequest) {
	e.send(delta{seq: r.Request.Seq(0), finish: schemas.FinishStop, id: -1, embedding: schemas.F32{float32(len(r.Tokens)), 0.5}})
}

func TestEmbeddings(t *testing.T) {
	e := startEngine(t, embed)
	g, server := startGateway(t, e, nil)
	for body, want := range map[string]string{
		`{"input":"a b","model":"alias"}`:                             `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[2,0.5]}],"model":"alias","usage":{"prompt_tokens":2,"total_tokens":2}}`,
		`{"input":["a","b c"]}`:                                       `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1,0.5]},{"object":"embedding","index":1,"embedding":[2,0.5]}],"model":"fake","usage":{"prompt_tokens":3,"total_tokens":3}}`,
		`{"input":[1,2,3],"encoding_format":"base64","dimensions":2}`: `{"object":"list","data":[{"object":"embedding","index":0,"embedding":"AABAQAAAAD8="}],"model":"fake","usage":{"prompt_tokens":3,"total_tokens":3}}`,
		`{"input":[[1],[2]],"encoding_format":"float","user":"u"}`:    `{"object":"list","data":[{"object":"embedding","index":0,"embedding":[1,0.5]},{"object":"embedding","index":1,"embedding":[1,0.5]}],"model":"fake","usage":{"prompt_tokens":2,"total_tokens":2}}`,
	} {
		resp, got := post(t, server, "/v1/embeddings", body)
		if resp.StatusCode != 200 || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %d\n got %s\nwant %s", body, resp.StatusCode, got, want)
		}
	}
	if r := <-e.submitted; !r.Embed || r.MaxTokens != 1 || r.Sampling.Rules != nil {
		t.Errorf("%+v", r)
	}
	for _, c := range []struct{ body, param, about string }{
		{`{}`, "input", "missing"},
		{`{"input":""}`, "input", "empty at element 0"},
		{`{"input":" "}`, "input", "no tokens"},
		{`{"input":[]}`, "input", "non-empty"},
		{`{"input":"a","dimensions":3}`, "dimensions", "have 2"},
		{`{"input":"a","dimensions":0}`, "dimensions", "positive"},
		{`{"input":[1,9999]}`, "input", "token 1 is 9999"},
		{`{"input":"a","encoding_format":"int8"}`, "encoding_format", "float or base64"},
		{`{"input":"a","temperature":1}`, "temperature", "unknown field"},
		{`{"input":[` + strings.Repeat(`"a",`, 2048) + `"a"]}`, "input", "at most 2048"},
	} {
		resp, got := post(t, server, "/v1/embeddings", c.body)
		if d := decode[schemas.ErrorReply](t, got).Error; resp.StatusCode != 400 || d.Param == nil || *d.Param != c.param || !strings.Contains(d.Message, c.about) {
			t.Errorf("%.60s: %d %s", c.body, resp.StatusCode, got)
		}
	}
	settled(t, g, e)
	if m, err := client(t, e).Request("inf.v1.embed", []byte(`{"input":"a"}`), 5*time.Second); err != nil || !strings.Contains(string(m.Data), `"embedding":[1,0.5]`) {
		t.Errorf("over NATS: %v %v", m, err)
	}
}

// A batch larger than the scheduler's share of it goes there in parts, and waits while the queue is full.
func TestLargeEmbeddingBatch(t *testing.T) {
	e := startEngine(t, embed)
	busy := 0
	e.refuse = func(r *schemas.SubmitRequest) *schemas.Error {
		if busy++; busy%100 == 99 {
			return schemas.Errorf(schemas.KindOverloaded, "submit", "the queue is full")
		}
		return nil
	}
	g, server := startGateway(t, e, nil)
	resp, body := post(t, server, "/v1/embeddings", `{"input":[`+strings.Repeat(`"a b",`, 1499)+`"a"]}`)
	list := decode[schemas.EmbeddingList](t, body)
	if resp.StatusCode != 200 || len(list.Data) != 1500 || list.Data[1499].Embedding.Values[0] != 1 || list.Usage.PromptTokens != 2999 {
		t.Fatalf("%d %.300s", resp.StatusCode, body)
	}
	settled(t, g, e)
}

// A client that leaves in the middle of a batch takes all of it along.
func TestEmbeddingClientThatLeaves(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, nil)
	ctx, leave := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		req, _ := http.NewRequestWithContext(ctx, "POST", server.URL+"/v1/embeddings", strings.NewReader(`{"input":[`+strings.Repeat(`"a",`, 299)+`"a"]}`))
		if resp, err := server.Client().Do(req); err == nil {
			resp.Body.Close()
		}
	}()
	var seqs []schemas.SeqID
	for range flightChoicesMax {
		seqs = append(seqs, (<-e.submitted).Request.Seq(0))
	}
	e.send(delta{seq: seqs[0], finish: schemas.FinishStop, embedding: schemas.F32{1}})
	leave()
	<-done
	for _, seq := range seqs[1:] {
		eventually(t, "every sequence is cancelled", func() bool { return e.isCancelled(seq) })
	}
	settled(t, g, e)
}

func TestVectorForms(t *testing.T) {
	for _, base64 := range []bool{false, true} {
		body, err := json.Marshal(schemas.VectorValues{Values: schemas.F32{1.5, -0.25}, Base64: base64})
		var v schemas.VectorValues
		if err != nil || json.Unmarshal(body, &v) != nil || v.Base64 != base64 || len(v.Values) != 2 || v.Values[1] != -0.25 {
			t.Errorf("%s became %+v, %v", body, v, err)
		}
	}
	for _, bad := range []string{`"AAA"`, `"!"`, `{}`, `["a"]`} {
		if json.Unmarshal([]byte(bad), &schemas.VectorValues{}) == nil {
			t.Errorf("%s was accepted", bad)
		}
	}
}

func TestTokenizeAndDetokenize(t *testing.T) {
	e := startEngine(t, nil)
	g, server := startGateway(t, e, nil)
	for _, c := range []struct {
		path, body string
		status     int
		want       string
	}{
		{"/tokenize", `{"prompt":"a b c"}`, 200, `{"count":3,"max_model_len":64,"tokens":[0,0,0]}`},
		{"/tokenize", `{"prompt":"","add_special_tokens":false}`, 200, `{"count":0,"max_model_len":64,"tokens":[]}`},
		{"/tokenize", `{` + hello + `,"add_generation_prompt":false}`, 200, `"count":3`},
		{"/tokenize", `{` + hello + `,"prompt":"a"}`, 400, `either prompt or messages`},
		{"/tokenize", `{}`, 400, `either prompt or messages`},
		{"/tokenize", `{"messages":[]}`, 400, `"param":"messages"`},
		{"/tokenize", `{"prompt":"a","model":"x"}`, 404, `model_not_found`},
		{"/tokenize", `{"prompt":"a","return_token_strs":true}`, 422, `not supported`},
		{"/detokenize", `{"tokens":[1,2]}`, 200, `{"prompt":"t1 t2 "}`},
		{"/detokenize", `{"tokens":[]}`, 200, `{"prompt":""}`},
		{"/detokenize", `{}`, 400, `"param":"tokens"`},
		{"/detokenize", `{"tokens":[9999]}`, 400, `"param":"tokens"`},
		{"/detokenize", `{"tokens":[-1]}`, 400, `"param":"tokens"`},
		{"/detokenize", `{"tokens":"1"}`, 400, `"param":"tokens"`},
	} {
		if resp, body := post(t, server, c.path, c.body); resp.StatusCode != c.status || !strings.Contains(string(body), c.want) {
			t.Errorf("%s %s: %d %s; want %d with %s", c.path, c.body, resp.StatusCode, body, c.status, c.want)
		}
	}
	if e.openSessions() != 0 || len(g.readers) != 0 {
		t.Error("something is left open")
	}
	for _, c := range []struct{ subject, body, want string }{
		{"inf.v1.tokenize", `{"prompt":"a b"}`, `"count":2`},
		{"inf.v1.detokenize", `{"tokens":[3]}`, `"prompt":"t3 "`},
		{"inf.v1.detokenize", `{"prompt":"a b"}`, `"param":"prompt"`},
	} {
		if m, err := client(t, e).Request(c.subject, []byte(c.body), 5*time.Second); err != nil || !strings.Contains(string(m.Data), c.want) {
			t.Errorf("%s: %v %v; want %s", c.subject, m, err, c.want)
		}
	}
}
