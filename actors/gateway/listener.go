package gateway

import (
	"container/list"
	"context"
	"net"
	"net/http"
	"sync"
)

// Listener bounds how many connections l has at once: each takes memory for as long as its client pleases. One that
// comes when the house is full takes the place of the connection that has been without a request longest; if all are
// being served, it is closed. So clients that connect and stay silent do not keep others out.
func (g *Gateway) Listener(l net.Listener) net.Listener {
	return &boundedListener{Listener: l, limit: g.cfg.ConnectionsMax, refused: g.metrics.connectionsRefused.Inc}
}

type boundedListener struct {
	net.Listener
	limit   int
	refused func() // counts a connection that was closed for want of room

	mu     sync.Mutex
	open   int
	silent list.List // of *boundedConn without a request, longest first
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		c := &boundedConn{Conn: conn, listener: l}
		if leaves, ok := l.admit(c); leaves != nil {
			l.refused()
			_ = leaves.Close() // its client sees that it is not wanted
		} else if !ok {
			l.refused()
			_ = conn.Close()
			continue
		}
		return c, nil
	}
}

// admit takes a connection in, if there is room or one that leaves for it.
func (l *boundedListener) admit(c *boundedConn) (leaves *boundedConn, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.limit {
		longest := l.silent.Front()
		if longest == nil {
			return nil, false
		}
		leaves = longest.Value.(*boundedConn)
		leaves.forget()
	}
	l.open++
	c.place = l.silent.PushBack(c)
	return leaves, true
}

// boundedConn is a connection of a boundedListener. Its fields are guarded by the listener's mu.
type boundedConn struct {
	net.Conn
	listener *boundedListener
	gone     bool
	requests int           // being served
	place    *list.Element // among the silent, nil if it is not
}

// forget makes room for another.
func (c *boundedConn) forget() {
	if c.gone {
		return
	}
	c.gone = true
	c.listener.open--
	c.unlist()
}

func (c *boundedConn) unlist() {
	if c.place != nil {
		c.listener.silent.Remove(c.place)
		c.place = nil
	}
}

func (c *boundedConn) Close() error {
	c.listener.mu.Lock()
	c.forget()
	c.listener.mu.Unlock()
	return c.Conn.Close()
}

// serving counts a request that begins (1) or ends (-1). HTTP/2 has several at once.
func (c *boundedConn) serving(change int) {
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	c.requests += change
	c.unlist()
	if c.requests == 0 && !c.gone {
		c.place = c.listener.silent.PushBack(c)
	}
}

type connKey struct{} // of a context's value: the *boundedConn of its requests

// withConn is an http.Server's ConnContext.
func withConn(ctx context.Context, conn net.Conn) context.Context {
	if c, ok := conn.(*boundedConn); ok {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

// whileServing tells the listener that a connection has a request.
func whileServing(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(connKey{}).(*boundedConn); ok {
			c.serving(1)
			defer c.serving(-1)
		}
		next.ServeHTTP(w, r)
	})
}
