package batch

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Codes of lines that were not asked or not answered. They appear as error.code in the output.
const (
	CodeInvalidJSON     = "invalid_json"        // the line is not a JSON object
	CodeTooLarge        = "line_too_large"      // it is over the limit of bytes
	CodeCustomID        = "invalid_custom_id"   // missing, empty, no string or too long
	CodeDuplicate       = "duplicate_custom_id" // an earlier line has this custom_id
	CodeMethod          = "invalid_method"      // not POST
	CodeURL             = "invalid_url"         // not one of URLs
	CodeBody            = "invalid_body"        // missing or no JSON object
	CodeStream          = "stream_unsupported"  // a batch has no one to stream to
	CodeConnection      = "connection_failed"   // again and again, while other lines were answered
	CodeTimeout         = "request_timeout"     // no answer within the request's time
	CodeInvalidResponse = "invalid_response"    // what came is too large
)

// URLs are what a line may ask for.
var URLs = []string{"/v1/chat/completions", "/v1/completions", "/v1/embeddings"}

const customIDBytesMax = 512

// LineError is why a line has no response.
type LineError struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Param   string `json:"param,omitempty"` // the offending field
	Line    int64  `json:"line"`            // of the input, from 1
}

// task is one line to ask.
type task struct {
	line     int64
	hash     uint64
	customID json.RawMessage // a string; nil if the line has no usable one
	url      string
	body     []byte
}

func (t *task) fail(code, param, format string, args ...any) *LineError {
	return &LineError{Code: code, Param: param, Line: t.line, Message: fmt.Sprintf("line %d: %s", t.line, fmt.Sprintf(format, args...))}
}

// parseLine reads a line. The task is complete only without an error; it always has the line's number and,
// where there is one, its custom_id. It keeps nothing of l.
func parseLine(l *line, bytesMax int) (*task, *LineError) {
	t := &task{line: l.number, hash: l.hash}
	if l.tooBig {
		return t, t.fail(CodeTooLarge, "", "it has more than %d bytes; raise --line-bytes-max or ask for less", bytesMax)
	}
	if !utf8.Valid(l.text) {
		return t, t.fail(CodeInvalidJSON, "", "it is not UTF-8; expected a JSON object")
	}
	// A map: a struct would take custom_ID for custom_id.
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(l.text, &fields); err != nil {
		var syntax *json.SyntaxError
		if errors.As(err, &syntax) {
			return t, t.fail(CodeInvalidJSON, "", "it is not JSON: %v at byte %d", syntax, syntax.Offset)
		}
		return t, t.fail(CodeInvalidJSON, "", "it is %s; expected a JSON object", clip(l.text))
	}
	if fields == nil {
		return t, t.fail(CodeInvalidJSON, "", "it is null; expected a JSON object")
	}
	var id string
	switch raw := fields["custom_id"]; {
	case json.Unmarshal(raw, &id) != nil || raw[0] != '"':
		return t, t.fail(CodeCustomID, "custom_id", "custom_id is %s; expected a string", orMissing(raw))
	case id == "" || len(id) > customIDBytesMax:
		return t, t.fail(CodeCustomID, "custom_id", "custom_id has %d bytes; expected 1 to %d", len(id), customIDBytesMax)
	}
	t.customID = mustMarshal(id)
	return t, t.parseRequest(fields)
}

// parseRequest reads the rest of a line that has a custom_id.
func (t *task) parseRequest(fields map[string]json.RawMessage) *LineError {
	var method string
	if raw := fields["method"]; json.Unmarshal(raw, &method) != nil || method != "POST" {
		return t.fail(CodeMethod, "method", `method is %s; expected "POST"`, orMissing(raw))
	}
	raw := fields["url"]
	if json.Unmarshal(raw, &t.url) != nil || !known(t.url) {
		return t.fail(CodeURL, "url", "url is %s; expected one of %s", orMissing(raw), strings.Join(URLs, ", "))
	}
	body := fields["body"]
	var inner map[string]json.RawMessage
	if json.Unmarshal(body, &inner) != nil || inner == nil {
		return t.fail(CodeBody, "body", "body is %s; expected a JSON object", orMissing(body))
	}
	if stream := inner["stream"]; string(stream) == "true" {
		return t.fail(CodeStream, "body.stream", "body.stream is true; a batch gets whole answers, leave it out")
	}
	t.body = bytes.Clone(body)
	return nil
}

func known(url string) bool {
	for _, u := range URLs {
		if u == url {
			return true
		}
	}
	return false
}

const clipBytes = 60

// clip quotes the start of a text in an error.
func clip(raw []byte) string {
	if len(raw) <= clipBytes {
		return string(raw)
	}
	return strings.ToValidUTF8(string(raw[:clipBytes]), "") + "…"
}

func orMissing(raw json.RawMessage) string {
	if raw == nil {
		return "missing"
	}
	return clip(raw)
}

// mustMarshal encodes our own types, which always can be.
func mustMarshal(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // text stays readable
	if err := e.Encode(v); err != nil {
		panic(fmt.Sprintf("batch: %T: %v", v, err))
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
