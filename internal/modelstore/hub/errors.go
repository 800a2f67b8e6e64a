package hub

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// transient is an error that may be gone when the same is tried again.
type transient struct {
	err   *schemas.Error
	after time.Duration // what the server asks to wait; 0 if it does not say
}

func (t *transient) Error() string { return t.err.Error() }
func (t *transient) Unwrap() error { return t.err }

// Transient marks err as worth another try.
func Transient(err *schemas.Error) error { return &transient{err: err} }

// IsTransient says whether err is worth another try.
func IsTransient(err error) bool {
	var t *transient
	return errors.As(err, &t)
}

// statusError words an answer that is not the wanted one. Its body is closed.
func (c *Client) statusError(a *answer, id, what string) error {
	discard(a.Body)
	code, said := a.Header.Get("X-Error-Code"), a.Header.Get("X-Error-Message")
	detail := fmt.Sprintf("%s: %s answers %d %s", what, a.from, a.StatusCode, http.StatusText(a.StatusCode))
	if said != "" {
		detail += fmt.Sprintf(" (%q)", clip(said))
	}
	kind := schemas.KindOfStatus(a.StatusCode)
	if a.StatusCode >= 500 {
		kind = schemas.KindUnavailable
	}
	err := schemas.Errorf(kind, "pull", "%s", detail).WithHint("%s", c.statusHint(a.StatusCode, code, id))
	switch a.StatusCode {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		after := retryAfter(a.Header.Get("Retry-After"), time.Now())
		err.RetryAfterMs = after.Milliseconds()
		return &transient{err: err, after: after}
	}
	return err
}

// statusHint is what to try after a status. code is the Hub's X-Error-Code.
func (c *Client) statusHint(status int, code, id string) string {
	page := c.Endpoint() + "/" + id
	switch {
	case code == "GatedRepo":
		return "access must be granted: accept the conditions at " + page + ", then set HF_TOKEN to a token that may read it"
	case code == "RevisionNotFound":
		return "the branches, tags and commits are at " + page + "/tree/main"
	case status == http.StatusUnauthorized && c.token == "":
		return "check the name; a private or gated model needs a token in HF_TOKEN"
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return "the token in HF_TOKEN may not read this; check it, and the conditions at " + page
	case status == http.StatusNotFound:
		return "check the name and revision; they are as in " + page
	case status == http.StatusTooManyRequests:
		return "wait, or set HF_TOKEN: anonymous downloads are limited more strictly"
	}
	return "try again later; what was downloaded is kept"
}

// retryAfter reads the header (RFC 9110, 10.2.3): seconds or a date. 0 is none.
func retryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil {
		return time.Duration(max(seconds, 0)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}
