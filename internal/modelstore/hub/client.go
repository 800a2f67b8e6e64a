package hub

import (
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// DefaultEndpoint is the public Hub.
const DefaultEndpoint = "https://huggingface.co"

// Limits on what a server may do.
const (
	redirectsMax  = 10
	jsonBytesMax  = 16 << 20         // one page of a listing
	pageTimeMax   = 2 * time.Minute  // one page of a listing
	StallTimeMax  = 30 * time.Second // default of Options.StallTimeMax
	stallBytesMin = 1 << 10          // fewer bytes than this within StallTimeMax is a stall
)

// Options say which server to ask and how patiently. Zero values are the defaults.
type Options struct {
	Endpoint     string        // http or https; DefaultEndpoint
	Token        string        // sent to Endpoint's origin only, never after a redirect to another
	StallTimeMax time.Duration // how long a server may send (almost) nothing
	Retry        Retry
	Note         func(err error, wait time.Duration) // hears of each wait in looking things up; may be nil
}

// Client asks one server. It is safe for concurrent use.
type Client struct {
	endpoint *url.URL
	token    string
	stall    time.Duration
	retry    Retry
	note     func(err error, wait time.Duration)
	http     *http.Client
}

// New checks the options; an error names the variable and flag to change.
func New(o Options) (*Client, error) {
	raw := strings.TrimRight(cmp.Or(o.Endpoint, DefaultEndpoint), "/")
	u, err := url.Parse(raw)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, schemas.Errorf(schemas.KindInvalid, "pull", "endpoint %q is not an http or https address", clip(raw)).
			WithParam("endpoint").WithHint("--endpoint and HF_ENDPOINT take an address like %s", DefaultEndpoint)
	}
	token := strings.TrimSpace(o.Token)
	for _, r := range token {
		if r <= ' ' || r > '~' {
			return nil, schemas.Errorf(schemas.KindInvalid, "pull", "HF_TOKEN holds a character that no token has").
				WithParam("HF_TOKEN").WithHint("copy the token again; it is one word, like hf_…")
		}
	}
	stall := cmp.Or(o.StallTimeMax, StallTimeMax)
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 20 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:    20 * time.Second,
		ResponseHeaderTimeout:  stall,
		MaxResponseHeaderBytes: 64 << 10,
		IdleConnTimeout:        time.Minute,
		MaxIdleConnsPerHost:    16,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // sizes and checksums are of the bytes as sent
	}
	return &Client{endpoint: u, token: token, stall: stall, retry: o.Retry.withDefaults(), note: o.Note, http: &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Endpoint is the server's address, without a slash at the end.
func (c *Client) Endpoint() string { return c.endpoint.String() }

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// answer is a response that is no redirect.
type answer struct {
	*http.Response
	linked http.Header // of the endpoint's own answer: X-Linked-Etag and the like stand on its redirect
	from   string      // the host that answered
}

// do sends a request and follows redirects by hand: net/http would hand the token to other ports of the same
// host and to its subdomains. what is for messages.
func (c *Client) do(ctx context.Context, method string, u *url.URL, header http.Header, what string) (*answer, error) {
	var linked http.Header
	for range redirectsMax + 1 {
		req, err := http.NewRequestWithContext(ctx, method, u.String(), nil)
		if err != nil {
			return nil, schemas.Errorf(schemas.KindInvalid, "pull", "%s: no request can be made for this name", what)
		}
		req.Header = header.Clone()
		if req.Header == nil {
			req.Header = http.Header{}
		}
		req.Header.Set("User-Agent", "troupe")
		req.Header.Set("Accept-Encoding", "identity")
		if c.token != "" && sameOrigin(u, c.endpoint) {
			req.Header.Set("Authorization", "Bearer "+c.token)
		}
		resp, err := c.http.Do(req) //nolint:bodyclose // the answer that is returned closes it
		if err != nil {
			return nil, c.networkError(ctx, err, u, what)
		}
		if linked == nil || sameOrigin(u, c.endpoint) {
			linked = resp.Header
		}
		location := resp.Header.Get("Location")
		switch resp.StatusCode {
		case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		default:
			return &answer{resp, linked, u.Host}, nil
		}
		discard(resp.Body)
		next, err := u.Parse(location)
		if err != nil || location == "" || next.Host == "" || (next.Scheme != "https" && next.Scheme != u.Scheme) {
			return nil, schemas.Errorf(schemas.KindUnavailable, "pull", "%s: %s redirects to an address that is not followed: %q", what, u.Host, clip(schemeAndHost(next))).
				WithHint("only http and https are followed, and never from https to http; check --endpoint")
		}
		u = next
	}
	return nil, schemas.Errorf(schemas.KindUnavailable, "pull", "%s: more than %d redirects, the last one to %s", what, redirectsMax, u.Host).
		WithHint("the server redirects in a circle; check --endpoint")
}

// networkError words what net/http says without the address, whose query may hold a signature.
func (c *Client) networkError(ctx context.Context, err error, u *url.URL, what string) error {
	if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
		return schemas.AsError(context.Canceled, "pull")
	}
	var wrapped *url.Error
	if errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	kind := schemas.KindUnavailable
	if errors.Is(err, context.DeadlineExceeded) {
		kind = schemas.KindTimeout
	}
	return &transient{err: schemas.Errorf(kind, "pull", "%s: %s: %s", what, u.Host, clip(err.Error())).
		WithHint("check the network, the proxy variables and --endpoint")}
}

// sameOrigin says whether two addresses share scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	return map[string]string{"http": "80", "https": "443"}[u.Scheme]
}

func schemeAndHost(u *url.URL) string {
	if u == nil {
		return ""
	}
	return u.Scheme + "://" + u.Host
}

// discard lets a small body's connection be used again.
func discard(body io.ReadCloser) {
	_, _ = io.CopyN(io.Discard, body, 4<<10)
	_ = body.Close()
}

// clip shortens what a server said for a message.
func clip(s string) string {
	const runesMax = 160
	if r := []rune(s); len(r) > runesMax {
		return string(r[:runesMax]) + "…"
	}
	return s
}
