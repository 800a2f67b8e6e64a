package bus

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/schemas"
)

// HeaderError carries a whole schemas.Error as JSON where the payload must stay empty: in the end marker
// of a stream.
const HeaderError = "Troupe-Error"

// headerBytesMax bounds the text of one header.
const headerBytesMax = 4096

// errorOf returns the error a reply carries, or nil.
func errorOf(m *nats.Msg) error {
	code := m.Header.Get(micro.ErrorCodeHeader)
	if code == "" {
		return nil
	}
	e := &schemas.Error{}
	if text := m.Header.Get(HeaderError); text != "" {
		if err := json.Unmarshal([]byte(text), e); err == nil && e.Kind != "" {
			return e
		}
	}
	if err := encodingOf(m.Header.Get(headerContentType), m.Data).decode(m.Data, e); err == nil && e.Kind != "" {
		return e
	}
	// A service that is not ours: the headers say all there is.
	status, _ := strconv.Atoi(code)
	return schemas.Errorf(schemas.KindOfStatus(status), "call "+m.Subject, "%s", m.Header.Get(micro.ErrorHeader))
}

// natsError gives an error of the NATS client the kind it deserves.
func natsError(err error, op string) *schemas.Error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, nats.ErrNoResponders):
		return schemas.Errorf(schemas.KindUnavailable, op, "no actor serves it").WithHint("`nats micro ls` lists the actors that run")
	case errors.Is(err, nats.ErrMaxPayload):
		return schemas.Errorf(schemas.KindTooLarge, op, "%v", err).WithHint(payloadHint)
	case errors.Is(err, nats.ErrSlowConsumer):
		return schemas.Errorf(schemas.KindOverloaded, op, "messages were dropped: the receiver does not keep up")
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return schemas.AsError(err, op)
	case errors.Is(err, nats.ErrTimeout):
		return schemas.Errorf(schemas.KindTimeout, op, "%v", err)
	}
	return schemas.Errorf(schemas.KindUnavailable, op, "%v", err)
}

const payloadHint = "split it, or raise max_payload in nats.conf on every node"

func tooLarge(what string, size int, limit int64) *schemas.Error {
	return schemas.Errorf(schemas.KindTooLarge, "send "+what, "the %s is %d bytes; the bus carries at most %d (max_payload)", what, size, limit).
		WithHint(payloadHint)
}

// headerSafe makes s fit for a NATS header: one line of bounded length.
func headerSafe(s string) string {
	if len(s) > headerBytesMax {
		s = strings.ToValidUTF8(s[:headerBytesMax], "") + "…"
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
}
