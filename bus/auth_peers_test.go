package bus

import (
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"
)

// pair is a connection's two ends.
func pair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if near, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if far, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// Nodes beside the bus know each other by the authority and the role, on both sides.
func TestPeers(t *testing.T) {
	_, dir := secured(t, 0)
	_, foreign := secured(t, 0)
	if c, err := (&Security{}).Peers("replica"); c != nil || err != nil {
		t.Errorf("without certificates: %v, %v", c, err)
	}
	if _, err := (&Security{CA: dir + "/ca.pem"}).Peers("replica"); err == nil {
		t.Error("an authority alone is enough")
	}
	for _, c := range []struct {
		server, client, serverDir, clientDir string
		works                                bool
	}{
		{"replica", "replica", dir, dir, true},
		{"hub", "replica", dir, dir, true},
		{"replica", "hub", dir, dir, true},
		{"replica", "client", dir, dir, false},
		{"client", "replica", dir, dir, false},
		{"tenant-a", "replica", dir, dir, false},
		{"replica", "replica", dir, foreign, false},
	} {
		files := func(role, dir string) *tls.Config {
			s := security(dir, role)
			config, err := s.Peers("hub", "replica")
			if err != nil {
				t.Fatal(err)
			}
			return config
		}
		server, client := files(c.server, c.serverDir), files(c.client, c.clientDir)
		near, far := pair(t)
		said := make(chan bool)
		go func() {
			conn := tls.Server(far, server)
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			_, err := conn.Write([]byte("x"))
			_ = far.Close()
			said <- err == nil
		}()
		conn := tls.Client(near, client)
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, err := io.ReadFull(conn, make([]byte, 1))
		_ = near.Close()
		if got := <-said && err == nil; got != c.works {
			t.Errorf("a %s serves a %s: %v (%v), want %v", c.server, c.client, got, err, c.works)
		}
	}
	plain := security(dir, "replica")
	config, err := plain.Peers("replica")
	if err != nil {
		t.Fatal(err)
	}
	near, far := pair(t)
	go func() {
		conn := tls.Client(near, &tls.Config{InsecureSkipVerify: true})
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		_, _ = conn.Read(make([]byte, 1))
		_ = near.Close()
	}()
	conn := tls.Server(far, config)
	_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
	if err := conn.Handshake(); err == nil {
		t.Error("somebody without a certificate is served")
	}
	_ = far.Close()
}
