package chat

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

const (
	eventBytesMax  = 1 << 20 // of one event of a stream
	replyBytesMax  = 1 << 20 // of a refusal or a list of models
	modelsTimeMax  = 5 * time.Second
	opChat         = "chat"
	streamEnd      = "[DONE]"
	eventBufferMin = 64 << 10
)

// httpClient streams answers from an OpenAI-compatible server.
type httpClient struct {
	base  string // without a slash and without /v1
	model string
	key   string // "" if none is needed
	http  *http.Client
}

// NewHTTPClient asks the server at a base URL, as http://127.0.0.1:8000 with or without /v1, with an API
// key or "". An empty model is the first one that it serves.
func NewHTTPClient(base, model, key string) (Client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, schemas.Errorf(schemas.KindInvalid, opChat, "server is %q; expected a URL such as http://127.0.0.1:8000", base).WithParam("server")
	}
	return &httpClient{base: strings.TrimSuffix(strings.TrimRight(base, "/"), "/v1"), model: model, key: key, http: &http.Client{}}, nil
}

// ContextMax also finds the model's name, which other servers than ours insist on.
func (c *httpClient) ContextMax(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, modelsTimeMax)
	defer cancel()
	resp, err := c.send(ctx, http.MethodGet, "/v1/models", nil)
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var list schemas.ModelList
	if json.NewDecoder(io.LimitReader(resp.Body, replyBytesMax)).Decode(&list) != nil {
		return 0
	}
	for _, m := range list.Data {
		if c.model == "" || c.model == m.ID {
			c.model = m.ID
			return int(m.MaxModelLen)
		}
	}
	return 0
}

func (c *httpClient) Answer(ctx context.Context, messages []Message, p schemas.GenerationParams, text func(string)) (*Reply, error) {
	raw, err := json.Marshal(messages)
	if err != nil {
		return nil, err
	}
	p.Stream, p.StreamOptions = true, &schemas.StreamOptions{IncludeUsage: true}
	if p.Model == "" {
		p.Model = c.model
	}
	body, err := json.Marshal(schemas.ChatRequest{Messages: raw, GenerationParams: p})
	if err != nil {
		return nil, err
	}
	resp, err := c.send(ctx, http.MethodPost, "/v1/chat/completions", body)
	if err != nil {
		return nil, c.unavailable(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		refusal, _ := io.ReadAll(io.LimitReader(resp.Body, replyBytesMax)) // whatever there is of the reason
		if e := errorIn(refusal); e != nil {
			return nil, e
		}
		return nil, schemas.Errorf(schemas.KindOfStatus(resp.StatusCode), opChat, "%s answered %s", c.base, resp.Status)
	}
	reply, err := readEvents(resp.Body, text)
	if err != nil {
		return nil, c.unavailable(ctx, err)
	}
	return reply, nil
}

func (c *httpClient) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	if c.key != "" {
		req.Header.Set("Authorization", "Bearer "+c.key)
	}
	return c.http.Do(req)
}

func (c *httpClient) unavailable(ctx context.Context, err error) error {
	var ours *schemas.Error
	if ctx.Err() != nil || errors.As(err, &ours) {
		return err
	}
	return schemas.Errorf(schemas.KindUnavailable, opChat, "%v", err).WithHint("is the server running?")
}

// readEvents reads server-sent events up to the end of the stream.
func readEvents(r io.Reader, text func(string)) (*Reply, error) {
	reply := &Reply{}
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, eventBufferMin), eventBytesMax)
	for lines.Scan() {
		data, ok := bytes.CutPrefix(lines.Bytes(), []byte("data:"))
		if !ok {
			continue // a comment, or the end of an event
		}
		if data = bytes.TrimSpace(data); string(data) == streamEnd {
			return reply, nil
		}
		if err := reply.read(data, text); err != nil {
			return nil, err
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("the answer broke off: %w", err)
	}
	return nil, errors.New("the answer broke off")
}

// read takes one event.
func (r *Reply) read(data []byte, text func(string)) error {
	if e := errorIn(data); e != nil {
		return e
	}
	var event schemas.ChatChunk
	if err := json.Unmarshal(data, &event); err != nil {
		return schemas.Errorf(schemas.KindInternal, opChat, "the server sent an event that is no JSON: %v", err)
	}
	for _, c := range event.Choices {
		if c.Index != 0 {
			continue // one answer was asked for
		}
		if c.Delta.Content != nil && *c.Delta.Content != "" {
			text(*c.Delta.Content)
		}
		if c.FinishReason != nil {
			r.Finish = *c.FinishReason
		}
	}
	if event.Usage != nil && event.Usage.Usage != nil {
		r.Usage = event.Usage.Usage
	}
	return nil
}

// errorIn reads an error in OpenAI's shape, or returns nil.
func errorIn(body []byte) *schemas.Error {
	var reply struct {
		Error *schemas.ErrorDetail `json:"error"`
	}
	_ = json.Unmarshal(body, &reply) // what is not JSON has no error in it
	if reply.Error == nil {
		return nil
	}
	e := schemas.Errorf(schemas.KindInvalid, opChat, "%s", reply.Error.Message)
	if code := reply.Error.Code; code != nil && *code == schemas.OpContext {
		e.Op = schemas.OpContext
	}
	return e
}
