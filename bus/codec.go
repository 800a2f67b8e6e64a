package bus

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

const headerContentType = "Content-Type"

// encoding is how a message is written: msgpack between actors, JSON for people who ask for it.
type encoding uint8

const (
	msgpackEncoding encoding = iota
	jsonEncoding
)

func (e encoding) contentType() string {
	if e == jsonEncoding {
		return "application/json"
	}
	return "application/msgpack"
}

// encodingOf reads a Content-Type. Without one, an empty payload or one that starts like a JSON object
// is JSON: no message starts with the msgpack integer 0x7b, and people forget headers.
func encodingOf(contentType string, payload []byte) encoding {
	if contentType != "" {
		if strings.Contains(contentType, "json") {
			return jsonEncoding
		}
		return msgpackEncoding
	}
	if p := bytes.TrimLeft(payload, " \t\r\n"); len(p) == 0 || p[0] == '{' {
		return jsonEncoding
	}
	return msgpackEncoding
}

func (e encoding) encode(v any) ([]byte, error) {
	if e == jsonEncoding {
		return json.Marshal(v)
	}
	return schemas.Marshal(v)
}

// decode reads one message into v, a pointer. The payload is checked for length and depth first.
func (e encoding) decode(payload []byte, v any) (err error) {
	// A guard for decoder bugs on hostile input; none is known.
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%s: %v", e.contentType(), r)
		}
	}()
	if e == jsonEncoding {
		return decodeJSON(payload, v)
	}
	if err := Prescan(payload); err != nil {
		return err
	}
	return schemas.Unmarshal(payload, v)
}

func decodeJSON(payload []byte, v any) error {
	if len(bytes.TrimSpace(payload)) == 0 {
		return nil // an empty request is the zero request
	}
	if err := prescanJSON(payload); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("JSON: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return fmt.Errorf("JSON: data after the message, at byte %d", d.InputOffset())
	}
	return nil
}

// Marshal encodes a message as msgpack, as it travels between actors.
func Marshal(v any) ([]byte, error) { return msgpackEncoding.encode(v) }

// Unmarshal decodes a message from msgpack after checking it for hostile lengths and depth. Columns of v
// may share memory with the payload, so neither may change afterwards.
func Unmarshal(payload []byte, v any) error { return msgpackEncoding.decode(payload, v) }
