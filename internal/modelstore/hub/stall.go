package hub

import (
	"io"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// watched cancels a transfer of which almost nothing arrives: a body may be slow, but not for ever.
type watched struct {
	r     io.Reader
	bytes atomic.Int64
	fired atomic.Bool
	done  chan struct{}
}

// watch reads r and calls cancel if fewer than stallBytesMin bytes arrive within limit.
func watch(r io.Reader, limit time.Duration, cancel func()) *watched {
	w := &watched{r: r, done: make(chan struct{})}
	go func() {
		tick := time.NewTicker(limit)
		defer tick.Stop()
		for before := int64(0); ; {
			select {
			case <-w.done:
				return
			case <-tick.C:
			}
			now := w.bytes.Load()
			if now-before < stallBytesMin {
				w.fired.Store(true)
				cancel()
				return
			}
			before = now
		}
	}()
	return w
}

func (w *watched) Read(p []byte) (int, error) {
	n, err := w.r.Read(p)
	w.bytes.Add(int64(n))
	return n, err
}

func (w *watched) stalled() bool { return w.fired.Load() }

// stop ends the watch. It must be called exactly once.
func (w *watched) stop() { close(w.done) }

func stallError(what string, limit time.Duration) *schemas.Error {
	return schemas.Errorf(schemas.KindTimeout, "pull", "%s: fewer than %d bytes arrived in %s", what, stallBytesMin, limit).
		WithHint("the server or the network stalls; try again, what was downloaded is kept")
}

// escapeSegments makes a path's elements safe to join to an address.
func escapeSegments(path string) []string {
	parts := strings.Split(path, "/")
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return parts
}
