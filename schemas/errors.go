package schemas

import (
	"context"
	"errors"
	"fmt"
	"strings"
)

// Kind classifies an error. Kinds are append-only: the strings travel between versions.
type Kind string

// Error kinds and the HTTP status each one becomes.
const (
	KindInvalid      Kind = "invalid_argument"  // 400: the caller must change the request
	KindUnauthorized Kind = "unauthorized"      // 401
	KindNotFound     Kind = "not_found"         // 404: no such model, request, subject
	KindTooLarge     Kind = "too_large"         // 413: over a named limit
	KindUnsupported  Kind = "unsupported"       // 422: well-formed, but this engine cannot do it
	KindOverloaded   Kind = "overloaded"        // 429: try again after RetryAfterMs
	KindCanceled     Kind = "canceled"          // 499: the caller went away or cancelled
	KindInternal     Kind = "internal"          // 500: a bug or a broken device
	KindUnavailable  Kind = "unavailable"       // 503: draining, not ready, peer gone
	KindTimeout      Kind = "deadline_exceeded" // 504
	KindReentrant    Kind = "reentrant_call"    // 500: an actor waited for itself
	KindNoMemory     Kind = "out_of_memory"     // 507: names sizes and the setting to change
	KindDeviceLost   Kind = "device_lost"       // 503: the device is gone until its process is restarted; Step names the one that lost it
	KindOutOfOrder   Kind = "out_of_order"      // 409: a message before this one is missing; it is to be sent again, and then this one
)

var kindStatus = map[Kind]int{
	KindInvalid: 400, KindUnauthorized: 401, KindNotFound: 404, KindTooLarge: 413,
	KindUnsupported: 422, KindOverloaded: 429, KindCanceled: 499, KindInternal: 500,
	KindUnavailable: 503, KindTimeout: 504, KindReentrant: 500, KindNoMemory: 507, KindDeviceLost: 503, KindOutOfOrder: 409,
}

// HTTPStatus is the status code an error of this kind has over HTTP and in the
// Nats-Service-Error-Code header.
func (k Kind) HTTPStatus() int {
	if s, ok := kindStatus[k]; ok {
		return s
	}
	return 500
}

// KindOfStatus is the kind that best fits an HTTP status, for errors of which only that is known.
func KindOfStatus(status int) Kind {
	switch status {
	case 401, 403:
		return KindUnauthorized
	case 404:
		return KindNotFound
	case 409:
		return KindOutOfOrder
	case 413:
		return KindTooLarge
	case 422:
		return KindUnsupported
	case 429:
		return KindOverloaded
	case 499:
		return KindCanceled
	case 503:
		return KindUnavailable
	case 504:
		return KindTimeout
	case 507:
		return KindNoMemory
	}
	if status >= 400 && status < 500 {
		return KindInvalid
	}
	return KindInternal
}

// Error is the one error shape of the engine: the same over HTTP, NATS and in logs.
type Error struct {
	_msgpack struct{} `msgpack:",as_array"`

	Kind         Kind      `json:"kind"`
	Op           string    `json:"op,omitempty"`             // what was being done: "submit", "load model.safetensors"
	Actor        string    `json:"actor,omitempty"`          // who reports it: "scheduler.replica0"
	Request      RequestID `json:"request,omitempty"`        // zero when none is concerned
	Step         StepID    `json:"step,omitempty"`           // zero when none is concerned
	Param        string    `json:"param,omitempty"`          // the offending field: "temperature"
	Detail       string    `json:"detail"`                   // what was found and what was expected
	Hint         string    `json:"hint,omitempty"`           // what to try
	RetryAfterMs int64     `json:"retry_after_ms,omitempty"` // for KindOverloaded and KindUnavailable
}

// Errorf makes an Error of a kind with a formatted detail.
func Errorf(kind Kind, op, format string, args ...any) *Error {
	return &Error{Kind: kind, Op: op, Detail: fmt.Sprintf(format, args...)}
}

// WithHint returns e with what to try.
func (e *Error) WithHint(format string, args ...any) *Error {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// WithParam returns e naming the offending field.
func (e *Error) WithParam(name string) *Error {
	c := *e
	c.Param = name
	return &c
}

// Error reads "actor: op: kind: detail (request …, step …); hint".
func (e *Error) Error() string {
	var b strings.Builder
	for _, part := range []string{e.Actor, e.Op, string(e.Kind)} {
		if part != "" {
			b.WriteString(part)
			b.WriteString(": ")
		}
	}
	b.WriteString(e.Detail)
	if e.Request != 0 {
		fmt.Fprintf(&b, " (request %s)", e.Request)
	}
	if e.Step != 0 {
		fmt.Fprintf(&b, " (step %d)", e.Step)
	}
	if e.Hint != "" {
		b.WriteString("; ")
		b.WriteString(e.Hint)
	}
	return b.String()
}

// Is makes errors.Is(err, &Error{Kind: k}) match on kind, and maps the context errors.
func (e *Error) Is(target error) bool {
	switch target {
	case context.Canceled:
		return e.Kind == KindCanceled
	case context.DeadlineExceeded:
		return e.Kind == KindTimeout
	}
	t, ok := target.(*Error)
	return ok && t.Kind == e.Kind
}

// AsError returns err as an *Error, giving foreign errors the kind they deserve.
func AsError(err error, op string) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	kind := KindInternal
	switch {
	case errors.Is(err, context.Canceled):
		kind = KindCanceled
	case errors.Is(err, context.DeadlineExceeded):
		kind = KindTimeout
	}
	return &Error{Kind: kind, Op: op, Detail: err.Error()}
}
