package batch

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// httpTransport asks an engine over HTTP.
type httpTransport struct {
	base   string // without a slash and without /v1
	client *http.Client
	key    string // "" if none is needed
}

const (
	idleConnsMax       = 1 << 10
	infoBytesMax       = 1 << 20
	retryAfterMax      = time.Minute // more is not believed
	requestIDBytesMax  = 256
	headerRequestID    = "X-Request-Id"
	contentTypeOfLines = "application/json"
	infoPath           = "/debug/scheduler/info"
)

// NewHTTP asks the engine at a base URL, as http://127.0.0.1:8000 with or without /v1, with an API key or "".
func NewHTTP(base, key string) (Transport, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, invalid("server", "server is %q; expected a URL such as http://127.0.0.1:8000", base)
	}
	base = strings.TrimSuffix(strings.TrimRight(base, "/"), "/v1")
	t := http.DefaultTransport.(*http.Transport).Clone() // for proxies and TLS as everywhere
	t.MaxIdleConns, t.MaxIdleConnsPerHost = idleConnsMax, idleConnsMax
	return &httpTransport{base: base, client: &http.Client{Transport: t}, key: key}, nil
}

func (t *httpTransport) Close() { t.client.CloseIdleConnections() }

func (t *httpTransport) Ask(ctx context.Context, path string, body []byte) (*Response, error) {
	resp, err := t.send(ctx, http.MethodPost, path, body)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, responseBytesMax+1))
	if err != nil {
		return nil, fmt.Errorf("the answer broke off: %w", err)
	}
	if len(text) > responseBytesMax {
		return nil, errTooLarge
	}
	id := resp.Header.Get(headerRequestID)
	return &Response{Status: resp.StatusCode, RequestID: id[:min(len(id), requestIDBytesMax)], Body: text,
		RetryAfter: retryAfter(resp.Header.Get("Retry-After"))}, nil
}

func (t *httpTransport) send(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, t.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", contentTypeOfLines)
	if t.key != "" {
		req.Header.Set("Authorization", "Bearer "+t.key)
	}
	return t.client.Do(req)
}

// retryAfter reads the header of that name: seconds, or 0 for anything else.
func retryAfter(header string) time.Duration {
	seconds, err := strconv.ParseInt(header, 10, 32)
	if err != nil || seconds < 0 {
		return 0
	}
	return min(time.Duration(seconds)*time.Second, retryAfterMax)
}

// Info asks the scheduler behind the server. Other servers than ours do not have it: they tell nothing.
func (t *httpTransport) Info(ctx context.Context) (*schemas.EngineInfo, error) {
	resp, err := t.send(ctx, http.MethodGet, infoPath, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	info := &schemas.EngineInfo{}
	switch {
	case resp.StatusCode == http.StatusUnauthorized:
		return nil, schemas.Errorf(schemas.KindUnauthorized, opPlan, "%s wants an API key, or another one", t.base).WithParam("api-key").
			WithHint("name it with --api-key @FILE")
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusForbidden:
		return info, nil
	case resp.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("GET %s: %s", infoPath, resp.Status)
	}
	return info, json.NewDecoder(io.LimitReader(resp.Body, infoBytesMax)).Decode(info)
}
