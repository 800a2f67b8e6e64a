package hub

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// Limits on a listing.
const (
	PagesMax   = 200
	EntriesMax = 50_000
)

// Entry is one line of a tree, as the server says it: nothing is checked.
type Entry struct {
	Type string `json:"type"` // "file" or "directory"
	Path string `json:"path"`
	Size int64  `json:"size"` // bytes
	OID  string `json:"oid"`  // git object: SHA-1 of the blob, or of the pointer if LFS is set
	LFS  *struct {
		OID  string `json:"oid"` // SHA-256 of the content
		Size int64  `json:"size"`
	} `json:"lfs"`
}

// Commit resolves a branch, tag or commit of a model to the full hash of its commit.
func (c *Client) Commit(ctx context.Context, id, revision string) (string, error) {
	what := id + "@" + revision
	var info struct {
		SHA string `json:"sha"`
	}
	if _, err := c.json(ctx, c.endpoint.JoinPath("api", "models", id, "revision", url.PathEscape(revision)), id, what, &info); err != nil {
		return "", err
	}
	if !isHex(info.SHA, 40) && !isHex(info.SHA, 64) {
		return "", schemas.Errorf(schemas.KindUnavailable, "pull", "%s: the server names no commit (sha is %q)", what, clip(info.SHA)).
			WithHint("is %s compatible with the Hugging Face Hub?", c.Endpoint())
	}
	return info.SHA, nil
}

// Tree lists all files of a model at a commit.
func (c *Client) Tree(ctx context.Context, id, commit string) ([]Entry, error) {
	var all []Entry
	u := c.endpoint.JoinPath("api", "models", id, "tree", url.PathEscape(commit))
	u.RawQuery = "recursive=true"
	for range PagesMax {
		var page []Entry
		header, err := c.json(ctx, u, id, "the file list of "+id, &page)
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if len(all) > EntriesMax {
			return nil, tooLong(id, fmt.Sprintf("more than %d entries", EntriesMax))
		}
		query := nextPage(header)
		if query == "" {
			return all, nil
		}
		// Only the query is the server's to choose: neither the token nor the listing leaves the endpoint, and a
		// mirror may hand on the original's links.
		next := *u
		next.RawQuery = query
		u = &next
	}
	return nil, tooLong(id, fmt.Sprintf("more than %d pages", PagesMax))
}

func tooLong(id, what string) error {
	return schemas.Errorf(schemas.KindTooLarge, "pull", "the file list of %s has %s", id, what).
		WithHint("this is no ordinary model; check the name and --endpoint")
}

// nextPage is the query of the Link header's rel="next" (RFC 8288), or "".
func nextPage(h http.Header) string {
	for _, line := range h.Values("Link") {
		for _, link := range strings.Split(line, ",") {
			target, params, ok := strings.Cut(strings.TrimSpace(link), ">")
			if !ok || !strings.HasPrefix(target, "<") || !strings.Contains(strings.ReplaceAll(params, `"`, ""), "rel=next") {
				continue
			}
			if u, err := url.Parse(target[1:]); err == nil {
				return u.RawQuery
			}
		}
	}
	return ""
}

// json gets a document, with retries, and returns the answer's header.
func (c *Client) json(ctx context.Context, u *url.URL, id, what string, into any) (http.Header, error) {
	var header http.Header
	err := c.Do(ctx, c.note, func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, pageTimeMax)
		defer cancel()
		a, err := c.do(ctx, http.MethodGet, u, nil, what)
		if err != nil {
			return false, err
		}
		if a.StatusCode != http.StatusOK {
			return false, c.statusError(a, id, what)
		}
		defer a.Body.Close()
		if err := plain(a, what); err != nil {
			return false, err
		}
		data, err := c.readAll(ctx, cancel, a.Body, what)
		if err != nil {
			return false, err
		}
		header = a.linked
		if err := json.Unmarshal(data, into); err != nil {
			return false, schemas.Errorf(schemas.KindUnavailable, "pull", "%s: the answer of %s is not the JSON that is due: %s", what, a.from, clip(err.Error())).
				WithHint("is %s compatible with the Hugging Face Hub?", c.Endpoint())
		}
		return true, nil
	})
	return header, err
}

// readAll reads a bounded body that must not stall.
func (c *Client) readAll(ctx context.Context, cancel func(), body io.Reader, what string) ([]byte, error) {
	w := watch(body, c.stall, cancel)
	defer w.stop()
	data, err := io.ReadAll(io.LimitReader(w, jsonBytesMax+1))
	switch {
	case w.stalled():
		return nil, Transient(stallError(what, c.stall))
	case err != nil && ctx.Err() == nil:
		return nil, Transient(schemas.Errorf(schemas.KindUnavailable, "pull", "%s: the connection broke: %s", what, clip(err.Error())))
	case err != nil:
		return nil, c.networkError(ctx, err, c.endpoint, what)
	case len(data) > jsonBytesMax:
		return nil, schemas.Errorf(schemas.KindTooLarge, "pull", "%s: the answer exceeds %d MiB", what, jsonBytesMax>>20).
			WithHint("is %s compatible with the Hugging Face Hub?", c.Endpoint())
	}
	return data, nil
}

// plain refuses what is compressed, and pages for people, such as a proxy's login.
func plain(a *answer, what string) error {
	if e := a.Header.Get("Content-Encoding"); e != "" && !strings.EqualFold(e, "identity") {
		return schemas.Errorf(schemas.KindUnavailable, "pull", "%s: %s sends it compressed (%s), which was not asked for", what, a.from, clip(e)).
			WithHint("a proxy on the way may do this; check --endpoint and the proxy variables")
	}
	if t := a.Header.Get("Content-Type"); strings.HasPrefix(strings.ToLower(t), "text/html") && !strings.HasSuffix(what, ".html") {
		return schemas.Errorf(schemas.KindUnavailable, "pull", "%s: %s answers with a web page instead", what, a.from).
			WithHint("a proxy or a login page may be in the way; check --endpoint and open %s in a browser", schemeAndHost(a.Request.URL))
	}
	return nil
}

func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}

func plural(n int, one, many string) string {
	if n == 1 {
		many = one
	}
	return fmt.Sprintf("%d %s", n, many)
}
