package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// httpClient reads server-sent events.
type httpClient struct {
	base   string
	client *http.Client
}

const (
	lineBytesMax    = 1 << 20 // of one event
	errorBytesMax   = 4 << 10 // of a refusal
	metricsBytesMax = 16 << 20
	idleConnsMax    = 1 << 12
)

func newHTTPClient(base string) *httpClient {
	return &httpClient{base: strings.TrimRight(base, "/"), client: &http.Client{Transport: &http.Transport{
		MaxIdleConns: idleConnsMax, MaxIdleConnsPerHost: idleConnsMax, DisableCompression: true}}}
}

func (c *httpClient) close() { c.client.CloseIdleConnections() }

func (c *httpClient) ask(ctx context.Context, service, verb string, reply any) error {
	path := "/debug/" + service + "/" + verb
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+path, nil)
	if err != nil {
		return err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, lineBytesMax))
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("GET %s: %s", path, resp.Status)
	}
	if err := json.Unmarshal(body, reply); err != nil {
		return fmt.Errorf("GET %s: %w", path, err)
	}
	return nil
}

// cpuSecondsMetric is what Prometheus's client libraries, vLLM's among them, call a process's time on processors.
const cpuSecondsMetric = "process_cpu_seconds_total"

// cpuSeconds is what the server's process has used of all processors.
func (c *httpClient) cpuSeconds(ctx context.Context) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(io.LimitReader(resp.Body, metricsBytesMax))
	for lines.Scan() {
		if value, ok := strings.CutPrefix(lines.Text(), cpuSecondsMetric+" "); ok {
			return strconv.ParseFloat(value, 64)
		}
	}
	return 0, fmt.Errorf("GET /metrics: %s and no %s", resp.Status, cpuSecondsMetric)
}

func (c *httpClient) send(ctx context.Context, o *outcome) {
	began := time.Now()
	if o.err = c.stream(ctx, o, began); o.err == nil {
		o.complete()
	}
}

func (c *httpClient) stream(ctx context.Context, o *outcome, began time.Time) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.base+"/v1/completions", bytes.NewReader(o.request.body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, errorBytesMax)) // whatever there is of the reason
		if resp.StatusCode == http.StatusTooManyRequests {
			o.refusal, o.retryAfter = time.Since(began), resp.Header.Get("Retry-After") != ""
		}
		return fmt.Errorf("%s: %s", resp.Status, bytes.TrimSpace(body))
	}
	r := bufio.NewReader(resp.Body)
	var long []byte // a line that does not fit in the buffer
	for {
		line, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) && len(long) < lineBytesMax {
			long = append(long, line...)
			continue
		}
		if err != nil {
			return fmt.Errorf("the stream broke off: %w", err)
		}
		at := time.Since(began)
		if len(long) > 0 {
			line = append(long, line...)
			long = nil
		}
		data, ok := bytes.CutPrefix(line, []byte("data:"))
		if !ok {
			continue // a comment, or the end of an event
		}
		data = bytes.TrimSpace(data)
		if string(data) == "[DONE]" {
			_, err := io.Copy(io.Discard, r) // so that the connection can be used again
			return errors.Join(o.err, err)
		}
		o.event(at, data)
	}
}
