package gateway

import (
	"net"
	"sync"
	"sync/atomic"
)

// Listener bounds how many connections l has at once. More are closed as they come: each would take memory for as
// long as its client pleases.
func (g *Gateway) Listener(l net.Listener) net.Listener {
	return &boundedListener{Listener: l, limit: int64(g.cfg.ConnectionsMax), refused: g.metrics.connectionsRefused.Inc}
}

type boundedListener struct {
	net.Listener
	limit   int64
	open    atomic.Int64
	refused func()
}

func (l *boundedListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if l.open.Add(1) <= l.limit {
			return &boundedConn{Conn: conn, listener: l}, nil
		}
		l.open.Add(-1)
		l.refused()
		_ = conn.Close() // the client sees that it is not wanted
	}
}

type boundedConn struct {
	net.Conn
	listener *boundedListener
	once     sync.Once
}

func (c *boundedConn) Close() error {
	c.once.Do(func() { c.listener.open.Add(-1) })
	return c.Conn.Close()
}
