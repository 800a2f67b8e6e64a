package hub

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// ErrRestart says that a file cannot be continued: what the server has now is not what the first part came from.
var ErrRestart = errors.New("hub: the file on the server is not the one that was begun")

// Body is a file's bytes from Offset to its end.
type Body struct {
	Offset int64  // 0 if the server would not continue where it was asked to
	ETag   string // identifies the representation; "" if the server gives none
	r      *watched
	close  func()
	what   string
	client *Client
	ctx    context.Context
}

// Open asks for a file's bytes from offset on. size is what the listing says of the whole file; etag is that of the
// bytes before offset, "" if unknown. A server that has another representation by now is noticed: it either
// sends the whole file, or the error is ErrRestart.
func (c *Client) Open(ctx context.Context, id, commit, path string, offset, size int64, etag string) (*Body, error) {
	what := path
	header := http.Header{}
	if offset > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", offset))
		if strings.HasPrefix(etag, `"`) { // a weak one must not stand there: RFC 9110, 13.1.5
			header.Set("If-Range", etag)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	u := c.endpoint.JoinPath(id, "resolve", commit)
	u = u.JoinPath(escapeSegments(path)...)
	a, err := c.do(ctx, http.MethodGet, u, header, what)
	if err != nil {
		cancel()
		return nil, err
	}
	b := &Body{ETag: a.Header.Get("ETag"), what: what, client: c, ctx: ctx}
	if err := c.checkFile(a, b, id, offset, size, etag); err != nil {
		_ = a.Body.Close()
		cancel()
		return nil, err
	}
	b.r = watch(a.Body, c.stall, cancel)
	b.close = func() { b.r.stop(); _ = a.Body.Close(); cancel() }
	return b, nil
}

// checkFile judges the answer's head and sets b.Offset.
func (c *Client) checkFile(a *answer, b *Body, id string, offset, size int64, etag string) error {
	switch a.StatusCode {
	case http.StatusOK:
		offset = 0
	case http.StatusPartialContent:
		from, total, err := contentRange(a.Header.Get("Content-Range"))
		if err != nil || offset == 0 || from != offset || (total >= 0 && total != size) || (etag != "" && b.ETag != "" && b.ETag != etag) {
			return ErrRestart
		}
	case http.StatusRequestedRangeNotSatisfiable:
		return ErrRestart
	default:
		return c.statusError(a, id, b.what)
	}
	b.Offset = offset
	if err := plain(a, b.what); err != nil {
		return err
	}
	if a.ContentLength >= 0 && a.ContentLength != size-offset {
		return Transient(schemas.Errorf(schemas.KindUnavailable, "pull", "%s: %s announces %d bytes, the list of files %d", b.what, a.from, a.ContentLength, size-offset).
			WithHint("a proxy may have answered instead; try again, or check --endpoint"))
	}
	return nil
}

// Read is io.Reader's. An error is worth another try.
func (b *Body) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case b.r.stalled():
		return n, Transient(stallError(b.what, b.client.stall))
	case b.ctx.Err() != nil:
		return n, schemas.AsError(context.Canceled, "pull")
	}
	return n, Transient(schemas.Errorf(schemas.KindUnavailable, "pull", "%s: the connection broke: %s", b.what, clip(err.Error())).
		WithHint("try again; what was downloaded is kept"))
}

// Close ends the transfer.
func (b *Body) Close() { b.close() }

// Head asks for what the listing did not say: a file's size (-1 if the server does not tell) and its hash, the
// 64 digits of a SHA-256 or the 40 of a git blob, "" if there is none.
func (c *Client) Head(ctx context.Context, id, commit, path string) (size int64, hash string, err error) {
	err = c.Do(ctx, c.note, func() (bool, error) {
		u := c.endpoint.JoinPath(id, "resolve", commit)
		a, err := c.do(ctx, http.MethodHead, u.JoinPath(escapeSegments(path)...), nil, path)
		if err != nil {
			return false, err
		}
		if a.StatusCode != http.StatusOK {
			return false, c.statusError(a, id, path)
		}
		discard(a.Body)
		size, hash = a.ContentLength, ""
		if n, err := strconv.ParseInt(a.linked.Get("X-Linked-Size"), 10, 64); err == nil {
			size = n
		}
		for _, name := range []string{"X-Linked-Etag", "ETag"} {
			tag := strings.Trim(strings.TrimPrefix(a.linked.Get(name), "W/"), `"`)
			if isHex(tag, 64) || isHex(tag, 40) {
				hash = tag
				break
			}
		}
		return true, nil
	})
	return size, hash, err
}

// contentRange reads "bytes from-to/total"; total is -1 if it is "*".
func contentRange(s string) (from, total int64, err error) {
	s, ok := strings.CutPrefix(s, "bytes ")
	span, all, ok2 := strings.Cut(s, "/")
	first, _, ok3 := strings.Cut(span, "-")
	if !ok || !ok2 || !ok3 {
		return 0, 0, errors.New("hub: no Content-Range")
	}
	if from, err = strconv.ParseInt(first, 10, 64); err != nil {
		return 0, 0, err
	}
	if all == "*" {
		return from, -1, nil
	}
	total, err = strconv.ParseInt(all, 10, 64)
	return from, total, err
}
