package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// abortWriteTimeMax is how long a write may still take once its request has been aborted.
const abortWriteTimeMax = time.Second

// eventStream is a sink that writes server-sent events
// (https://html.spec.whatwg.org/multipage/server-sent-events.html): one per object, then what ends the API's streams.
type eventStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	flight  *flight
	buffer  bytes.Buffer
	encode  *json.Encoder // into buffer
	broken  bool          // a write failed: the client cannot be told anything

	mu        sync.Mutex    // orders the write deadlines of writer and abort
	patience  time.Duration // for one write; 0 once the handler is done with the connection
	renewAt   time.Time     // the write deadline is far enough away before: setting it costs as much as encoding an event
	stopWatch func() bool
}

func newEventStream(w http.ResponseWriter, f *flight) *eventStream {
	s := &eventStream{w: w, control: http.NewResponseController(w), flight: f, patience: f.g.cfg.WriteTimeMax}
	s.encode = json.NewEncoder(&s.buffer)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no") // nginx would hold events back
	w.WriteHeader(http.StatusOK)
	_ = s.control.Flush() // the client sees that it is being served, however long the first token takes
	// A write that waits for a client which does not read must not outlive its request.
	s.stopWatch = context.AfterFunc(f.ctx, func() {
		s.setPatience(min(abortWriteTimeMax, f.g.cfg.WriteTimeMax))
		s.setDeadline()
	})
	return s
}

func (s *eventStream) setPatience(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.patience != 0 {
		s.patience = d
	}
}

// setDeadline bounds the write that runs or comes next.
func (s *eventStream) setDeadline() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.patience != 0 {
		now := time.Now()
		s.renewAt = now.Add(s.patience / 4)
		_ = s.control.SetWriteDeadline(now.Add(s.patience)) // not supported by test recorders only
	}
}

// renewDeadline gives the next write at least three quarters of the patience.
func (s *eventStream) renewDeadline() {
	s.mu.Lock()
	due := time.Now().After(s.renewAt)
	s.mu.Unlock()
	if due {
		s.setDeadline()
	}
}

func (s *eventStream) idleEvery() time.Duration { return s.flight.g.cfg.KeepAliveEvery }

// idle keeps proxies from closing a silent connection.
func (s *eventStream) idle() error {
	s.buffer.WriteString(": keep-alive\n\n")
	return s.flush()
}

// send writes events, but the last ones: nothing is waited for between them and close, which writes them with what ends the stream.
func (s *eventStream) send(_ context.Context, events []event) error {
	for _, e := range events {
		s.add(e)
	}
	if s.flight.answer.done() {
		return nil
	}
	return s.flush()
}

func (s *eventStream) add(v any) {
	if named, ok := v.(interface{ EventName() string }); ok {
		s.buffer.WriteString("event: ")
		s.buffer.WriteString(named.EventName())
		s.buffer.WriteByte('\n')
	}
	s.buffer.WriteString("data: ")
	if err := s.encode.Encode(v); err != nil { // ends the line
		panic("gateway: event: " + err.Error()) // our own types always marshal
	}
	s.buffer.WriteByte('\n')
}

// flush writes what was added in one piece.
func (s *eventStream) flush() error {
	s.renewDeadline()
	_, err := s.w.Write(s.buffer.Bytes())
	s.buffer.Reset()
	if err == nil {
		err = s.control.Flush()
	}
	if err != nil {
		s.broken = true
		return schemas.Errorf(schemas.KindCanceled, "send", "the client does not read: %v", err)
	}
	return nil
}

// close ends the stream, with the reason if the answer is incomplete. A client that cannot be told sees
// the connection break.
func (s *eventStream) close(err *schemas.Error) {
	if !s.broken {
		if err != nil {
			s.flight.g.metrics.refused.WithLabelValues(string(err.Kind)).Inc()
			for _, e := range s.flight.answer.shape.failed(err) {
				s.add(e)
			}
		}
		s.buffer.WriteString(s.flight.job.api.done)
		_ = s.flush() // sets broken
	}
	s.stopWatch()
	s.setPatience(0) // the connection may serve another request now
	if s.broken {
		panic(http.ErrAbortHandler)
	}
}
