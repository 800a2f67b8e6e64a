package batch

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// Result is one line of the output. Either Response or Error is set. A request that the engine refused has
// a Response with the status and the body of its error.
type Result struct {
	ID       string          `json:"id"` // batch_req_<line>_<hash of that line>
	CustomID json.RawMessage `json:"custom_id"`
	Response *ResultResponse `json:"response"`
	Error    *LineError      `json:"error"`
}

// ResultResponse is what the engine answered.
type ResultResponse struct {
	StatusCode int             `json:"status_code"`
	RequestID  string          `json:"request_id"`
	Body       json.RawMessage `json:"body"`
}

const idPrefix = "batch_req_"

func resultID(line int64, hash uint64) string { return fmt.Sprintf("%s%d_%016x", idPrefix, line, hash) }

func parseResultID(id string) (line int64, hash uint64, ok bool) {
	rest, isOurs := strings.CutPrefix(id, idPrefix)
	number, digits, found := strings.Cut(rest, "_")
	if !isOurs || !found || len(digits) != 16 {
		return 0, 0, false
	}
	line, err := strconv.ParseInt(number, 10, 64)
	if err != nil || line < 1 {
		return 0, 0, false
	}
	hash, err = strconv.ParseUint(digits, 16, 64)
	return line, hash, err == nil
}

func succeeded(status int) bool { return status >= 200 && status < 300 }

// outcome is what became of a task.
type outcome struct {
	position int64 // among the lines of this run, from 0
	size     int   // bytes of the request
	encoded  []byte
	reason   string // "" or the code or status of what failed
	message  string
	line     int64
	usage    schemas.Usage
}

// newOutcome encodes the result of a task, which has a response or an error.
func newOutcome(t *task, position int64, resp *Response, failed *LineError) *outcome {
	o := &outcome{position: position, size: len(t.body), line: t.line}
	r := Result{ID: resultID(t.line, t.hash), CustomID: t.customID, Error: failed}
	if r.CustomID == nil {
		r.CustomID = json.RawMessage("null")
	}
	if failed != nil {
		o.reason, o.message = failed.Code, failed.Message
	} else {
		body, isJSON := oneLine(resp.Body)
		r.Response = &ResultResponse{StatusCode: resp.Status, RequestID: resp.RequestID, Body: body}
		if o.judge(resp.Status, body); !isJSON {
			o.reason = fmt.Sprintf("HTTP %d, not JSON", resp.Status)
		}
	}
	o.encoded = append(mustMarshal(r), '\n')
	return o
}

// judge reads from a response what reports say of it.
func (o *outcome) judge(status int, body json.RawMessage) {
	var read struct {
		Usage *schemas.Usage `json:"usage"`
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	_ = json.Unmarshal(body, &read) // whatever is there
	if read.Usage != nil {
		o.usage = *read.Usage
	}
	if !succeeded(status) {
		o.reason, o.message = fmt.Sprintf("HTTP %d", status), fmt.Sprintf("line %d: %s", o.line, read.Error.Message)
	}
}

// oneLine returns a body without line breaks. One that is no JSON, as from a proxy, becomes an error object.
func oneLine(body []byte) (_ json.RawMessage, isJSON bool) {
	var b bytes.Buffer
	if json.Compact(&b, body) == nil {
		return b.Bytes(), true
	}
	return mustMarshal(map[string]any{"error": map[string]string{"type": "server_error", "code": CodeInvalidResponse,
		"message": "the body is not JSON: " + strings.ToValidUTF8(clip(body), "\ufffd")}}), false
}
