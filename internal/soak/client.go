package soak

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
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// Client asks one engine. It is safe for concurrent use.
type Client struct {
	HTTPURL string
	Conn    *nats.Conn
	HTTP    *http.Client
	// Linger is how long to listen for a second ending of a stream over NATS.
	Linger time.Duration

	broken atomic.Int64 // how often the NATS connection broke: what was under way over it is lost
}

// NewClient connects to an engine. Close it.
func NewClient(httpURL, natsURL string) (*Client, error) {
	c := &Client{HTTPURL: httpURL, HTTP: &http.Client{Transport: &http.Transport{MaxIdleConns: 64, MaxIdleConnsPerHost: 64}}}
	var err error
	c.Conn, err = nats.Connect(natsURL, nats.Name("soak"), nats.DisconnectErrHandler(func(*nats.Conn, error) { c.broken.Add(1) }))
	if err != nil {
		return nil, fmt.Errorf("soak: connect to %s: %w", natsURL, err)
	}
	return c, nil
}

// Broken counts how often the connection to NATS was lost. Requests that were under way over it get no ending.
func (c *Client) Broken() int { return int(c.broken.Load()) }

// Close ends the client's connections.
func (c *Client) Close() {
	c.Conn.Close()
	c.HTTP.CloseIdleConnections()
}

// Ending is how a request ended.
type Ending struct {
	ID         string // of the request, once the engine has said it
	Status     int    // 200 for a complete answer, else the error's HTTP status
	Detail     string // of the error
	RetryAfter string
	Texts      []string // by choice
	Finishes   []string
	Endings    int // how often the engine said that it is over; anything but 1 is a bug
}

// OK reports a complete answer.
func (e *Ending) OK() bool { return e.Status == http.StatusOK }

func (e *Ending) String() string {
	if e.OK() {
		return fmt.Sprintf("%s %q %q", e.ID, e.Texts, e.Finishes)
	}
	return fmt.Sprintf("%s %d %s", e.ID, e.Status, e.Detail)
}

// grow makes room for choice i. The count is bounded: it comes from outside.
func (e *Ending) grow(i int) bool {
	if i < 0 || i >= schemas.ChoicesMax {
		return false
	}
	for len(e.Texts) <= i {
		e.Texts, e.Finishes = append(e.Texts, ""), append(e.Finishes, "")
	}
	return true
}

// piece is what a completion or chat object says, whole or as an event of a stream.
type piece struct {
	ID      string `json:"id"`
	Choices []struct {
		Index   int                      `json:"index"`
		Text    string                   `json:"text"`
		Message schemas.ChatMessage      `json:"message"`
		Delta   struct{ Content string } `json:"delta"`
		Finish  string                   `json:"finish_reason"`
	} `json:"choices"`
	Error *schemas.ErrorDetail `json:"error"`
}

// take adds an object to the answer.
func (e *Ending) take(body []byte) error {
	var p piece
	if err := json.Unmarshal(body, &p); err != nil {
		return fmt.Errorf("soak: %.200q is no answer: %w", body, err)
	}
	if p.ID != "" {
		e.ID = p.ID
	}
	if p.Error != nil {
		e.Detail = p.Error.Message
		e.Status = http.StatusInternalServerError // unless a header says more
		if p.Error.Code != nil {
			e.Status = schemas.Kind(*p.Error.Code).HTTPStatus()
		}
	}
	for _, c := range p.Choices {
		if !e.grow(c.Index) {
			return fmt.Errorf("soak: choice %d", c.Index)
		}
		if e.Finishes[c.Index] != "" && c.Finish != "" {
			return fmt.Errorf("soak: choice %d finished twice: %s", c.Index, body)
		}
		e.Texts[c.Index] += c.Text + c.Message.Content + c.Delta.Content
		e.Finishes[c.Index] += c.Finish
	}
	return nil
}

// Watch hears of every event of a stream; a request that is to be given up ends its context there.
type Watch func(e *Ending, events int)

// Post asks over HTTP. The error is a failure of the transport, or that ctx has ended.
func (c *Client) Post(ctx context.Context, path string, body []byte, watch Watch) (*Ending, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.HTTPURL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.HTTP.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	e := &Ending{Status: resp.StatusCode, RetryAfter: resp.Header.Get("Retry-After")}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		return e, e.readEvents(resp.Body, watch)
	}
	whole, err := io.ReadAll(io.LimitReader(resp.Body, bus.PayloadBytesMax))
	if err != nil {
		return e, err
	}
	e.Endings = 1
	err = e.take(whole)
	e.Status = resp.StatusCode
	return e, err
}

const doneEvent = "[DONE]"

func (e *Ending) readEvents(r io.Reader, watch Watch) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, bus.PayloadBytesMax)
	for events := 0; lines.Scan(); {
		data, isData := strings.CutPrefix(lines.Text(), "data: ")
		switch {
		case !isData:
		case data == doneEvent:
			e.Endings++
		default:
			if err := e.take([]byte(data)); err != nil {
				return err
			}
			if events++; watch != nil {
				watch(e, events)
			}
		}
	}
	return lines.Err()
}

// Request asks over NATS, for one answer or a stream.
func (c *Client) Request(ctx context.Context, subject string, body []byte, stream bool, watch Watch) (*Ending, error) {
	m := nats.NewMsg(subject)
	m.Header.Set("Content-Type", "application/json")
	m.Reply, m.Data = c.Conn.NewInbox(), body
	sub, err := c.Conn.SubscribeSync(m.Reply)
	if err != nil {
		return nil, err
	}
	defer func() { _ = sub.Unsubscribe() }() // an error means that the connection is gone
	if err := c.Conn.PublishMsg(m); err != nil {
		return nil, err
	}
	e := &Ending{Status: http.StatusOK}
	for events := 0; ; {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return e, err
		}
		if m.Header.Get("Status") == "503" {
			return e, nats.ErrNoResponders
		}
		if id := m.Header.Get(bus.HeaderRequestID); id != "" {
			e.ID = id
		}
		if err := e.takeMessage(m); err != nil {
			return e, err
		}
		if over := len(m.Data) == 0 || !stream; over {
			e.Endings++
			return e, c.linger(ctx, sub, e)
		}
		if events++; watch != nil && e.OK() {
			watch(e, events)
		}
	}
}

func (e *Ending) takeMessage(m *nats.Msg) error {
	if len(m.Data) > 0 {
		if err := e.take(m.Data); err != nil {
			return err
		}
	}
	if code := m.Header.Get(micro.ErrorCodeHeader); code != "" {
		status, err := strconv.Atoi(code)
		if err != nil {
			return fmt.Errorf("soak: error code %q", code)
		}
		e.Status = status
		if e.Detail == "" {
			e.Detail = m.Header.Get(micro.ErrorHeader)
		}
		if after := m.Header.Get("Retry-After"); after != "" {
			e.RetryAfter = after
		}
	}
	return nil
}

// linger counts endings after the first.
func (c *Client) linger(ctx context.Context, sub *nats.Subscription, e *Ending) error {
	if c.Linger == 0 || !e.OK() { // a refusal may be followed by an end marker, for clients that wait for a stream
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.Linger)
	defer cancel()
	m, err := sub.NextMsgWithContext(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	if err == nil {
		e.Endings++
		return fmt.Errorf("soak: after its end the stream of %s went on: %v %q", e.ID, m.Header, m.Data)
	}
	return err
}

// Cancel asks the engine to end a request; it says whether the request was running.
func (c *Client) Cancel(ctx context.Context, id string) (bool, error) {
	body, err := json.Marshal(schemas.CancelClientRequest{ID: id})
	if err != nil {
		return false, err
	}
	var reply schemas.CancelClientReply
	if err := c.ask(ctx, schemas.SubjectPrefix+"cancel", body, &reply); err != nil {
		return false, err
	}
	return reply.Cancelled, nil
}

// ask exchanges JSON with one subject.
func (c *Client) ask(ctx context.Context, subject string, body []byte, reply any) error {
	m := nats.NewMsg(subject)
	m.Header.Set("Content-Type", "application/json")
	m.Data = body
	answer, err := c.Conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return fmt.Errorf("soak: %s: %w", subject, err)
	}
	if text := answer.Header.Get(micro.ErrorHeader); text != "" {
		return fmt.Errorf("soak: %s: %s", subject, text)
	}
	return json.Unmarshal(answer.Data, reply)
}
