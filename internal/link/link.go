// Package link is a bad network on demand: a TCP forwarder that delays what passes, with jitter from a seed, stops
// passing it, and breaks connections. Tests of several nodes and scripts/cluster run over it, since not every kernel
// can disturb its own network.
//
// Beside the path. In: connections. Out: the same, late or not at all. Next: nothing.
package link

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	chunkBytes  = 32 << 10
	chunksMax   = 256 // on their way in one direction of one connection; beyond it the sender waits, as with TCP
	frozenSleep = 5 * time.Millisecond
)

// Link forwards TCP connections to a target.
type Link struct {
	target   string
	listener net.Listener
	delay    atomic.Int64 // one way, nanoseconds
	jitter   atomic.Int64 // up to so much more, nanoseconds
	frozen   atomic.Bool

	mu    sync.Mutex
	rng   *rand.Rand
	conns map[net.Conn]struct{}
	done  bool
	group sync.WaitGroup
}

// Listen forwards connections to listen ("127.0.0.1:0" picks a port) to target. Seed decides the jitter.
func Listen(listen, target string, seed uint64) (*Link, error) {
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	k := &Link{target: target, listener: l, rng: rand.New(rand.NewPCG(seed, 0)), conns: map[net.Conn]struct{}{}}
	k.group.Go(k.accept)
	return k, nil
}

// Addr is where the link listens.
func (k *Link) Addr() string { return k.listener.Addr().String() }

// SetDelay delays each direction by delay and, at random, up to jitter more. Order stays.
func (k *Link) SetDelay(delay, jitter time.Duration) {
	k.delay.Store(int64(delay))
	k.jitter.Store(int64(jitter))
}

// Freeze stops or resumes passing anything on: a partition that the ends do not see.
func (k *Link) Freeze(frozen bool) { k.frozen.Store(frozen) }

// Cut breaks all connections. New ones are taken.
func (k *Link) Cut() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c := range k.conns {
		_ = c.Close() // it breaks either way
	}
}

// Close ends the link.
func (k *Link) Close() {
	k.mu.Lock()
	k.done = true
	k.mu.Unlock()
	k.frozen.Store(false)
	_ = k.listener.Close() // an error means that it is closed
	k.Cut()
	k.group.Wait()
}

func (k *Link) accept() {
	for {
		near, err := k.listener.Accept()
		if err != nil {
			return
		}
		k.group.Go(func() { k.join(near) })
	}
}

// join carries one connection.
func (k *Link) join(near net.Conn) {
	far, err := net.Dial("tcp", k.target)
	if err != nil || !k.own(near, far) {
		_ = near.Close() // as the target does
		return
	}
	var both sync.WaitGroup
	both.Go(func() { k.carry(near, far) })
	both.Go(func() { k.carry(far, near) })
	both.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.conns, near)
	delete(k.conns, far)
}

func (k *Link) own(conns ...net.Conn) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, c := range conns {
		if k.done {
			_ = c.Close()
			continue
		}
		k.conns[c] = struct{}{}
	}
	return !k.done
}

type chunk struct {
	bytes []byte
	due   time.Time
}

// carry passes bytes on until either end closes, and then closes both.
func (k *Link) carry(from, to net.Conn) {
	queue := make(chan chunk, chunksMax)
	var writer sync.WaitGroup
	writer.Go(func() {
		for c := range queue {
			time.Sleep(time.Until(c.due))
			for k.frozen.Load() {
				time.Sleep(frozenSleep)
			}
			if _, err := to.Write(c.bytes); err != nil {
				_ = from.Close() // ends the reader
			}
		}
		_ = to.Close()
	})
	for {
		b := make([]byte, chunkBytes)
		n, err := from.Read(b)
		if n > 0 {
			queue <- chunk{b[:n], time.Now().Add(k.late())}
		}
		if err != nil {
			if err != io.EOF {
				_ = to.Close()
			}
			break
		}
	}
	close(queue)
	writer.Wait()
}

func (k *Link) late() time.Duration {
	d, jitter := time.Duration(k.delay.Load()), k.jitter.Load()
	if jitter > 0 {
		k.mu.Lock()
		d += time.Duration(k.rng.Int64N(jitter))
		k.mu.Unlock()
	}
	return d
}
