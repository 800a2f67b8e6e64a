package handover

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/schemas"
)

const (
	offersMax      = 1024             // at once
	offerTimeMax   = 10 * time.Second // until an offer is taken
	serveTimeMax   = 10 * time.Second // for a connection as a whole
	helloTimeMax   = 2 * time.Second  // until it says what it wants
	connectionsMax = 64               // at once; more wait
	addressesMax   = 8                // that are told of one listener
)

// ServerConfig says what a replica hands over, and where.
type ServerConfig struct {
	Listen     string      // host:port for TCP; "none": shared memory alone
	TLS        *tls.Config // for TCP, see bus.Security; nil: in the clear
	Insecure   bool        // listen beyond this machine in the clear
	TCPOnly    bool        // no shared memory, for tests
	BlockBytes int         // of a KV block over all layers
	// Read copies blocks [first, first+count) of what was offered to dst, which has BlockBytes for each.
	Read   func(ctx context.Context, o *Offer, first, count int, dst []byte) error
	Lender Lender // of memory on a device that processes of this machine can map; nil: there is none
	Log    zerolog.Logger
}

// Offer is a prefix of which another replica may fetch blocks.
type Offer struct {
	Tokens []int32 // of all blocks up to the last
	Salt   uint64
	First  int // block
	Blocks int // from First on
	until  time.Time
}

// Server hands out blocks to those that know a token.
type Server struct {
	cfg       ServerConfig
	tcp       net.Listener
	local     *localListener
	addresses []string

	mu     sync.Mutex
	offers map[[tokenBytes]byte]*Offer

	ctx     context.Context
	cancel  context.CancelFunc
	places  chan struct{}
	stopped sync.WaitGroup
}

// Serve listens. The caller closes it.
func Serve(cfg ServerConfig) (*Server, error) {
	if cfg.BlockBytes < 1 || cfg.BlockBytes > blockBytesLimit {
		return nil, fmt.Errorf("handover: BlockBytes is %d, want 1..%d", cfg.BlockBytes, blockBytesLimit)
	}
	s := &Server{cfg: cfg, offers: map[[tokenBytes]byte]*Offer{}, places: make(chan struct{}, connectionsMax)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if cfg.Listen != "none" {
		if err := s.listenTCP(); err != nil {
			return nil, err
		}
		s.accept(s.tcp)
	}
	if cfg.TCPOnly {
		return s, nil
	}
	var err error
	if s.local, err = listenLocal(); err == nil {
		s.accept(s.local)
	} else if cfg.Listen == "none" {
		return nil, schemas.Errorf(schemas.KindUnsupported, "listen", "kv_listen is none, and there is no shared memory: %v", err).WithParam("kv_listen")
	} else {
		cfg.Log.Info().Err(err).Msg("KV is handed over by TCP alone")
	}
	return s, nil
}

func (s *Server) listenTCP() error {
	bad := func(format string, args ...any) *schemas.Error {
		return schemas.Errorf(schemas.KindInvalid, "listen", "kv_listen: "+format, args...).WithParam("kv_listen")
	}
	host, _, err := net.SplitHostPort(s.cfg.Listen)
	if err != nil {
		return bad("%v", err).WithHint("give host:port, or none")
	}
	if ip := net.ParseIP(host); s.cfg.TLS == nil && !s.cfg.Insecure && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return bad("%s is reached from other machines, and there is no TLS", s.cfg.Listen).
			WithHint("set tls_ca, tls_cert and tls_key (`troupe keys`); --insecure-network listens all the same")
	}
	if s.tcp, err = net.Listen("tcp", s.cfg.Listen); err != nil {
		return bad("%v", err)
	}
	s.addresses = addressesOf(s.tcp.Addr().(*net.TCPAddr))
	if s.cfg.TLS != nil {
		s.tcp = tls.NewListener(s.tcp, s.cfg.TLS)
	}
	return nil
}

// addressesOf are those by which others reach a listener: its own, or, of one that listens on all, the machine's.
func addressesOf(at *net.TCPAddr) (list []string) {
	port := fmt.Sprint(at.Port)
	if !at.IP.IsUnspecified() {
		return []string{net.JoinHostPort(at.IP.String(), port)}
	}
	found, _ := net.InterfaceAddrs() // none: then nobody reaches it, and blocks are computed again
	for _, a := range found {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() && len(list) < addressesMax {
			list = append(list, net.JoinHostPort(ip.IP.String(), port))
		}
	}
	return list
}

// Offer makes a token for an offer, and says how to use it.
func (s *Server) Offer(o *Offer) (*schemas.KVOfferReply, error) {
	var token [tokenBytes]byte
	_, _ = rand.Read(token[:]) // never fails (crypto/rand)
	now := time.Now()
	o.until = now.Add(offerTimeMax)
	s.mu.Lock()
	defer s.mu.Unlock()
	for t, old := range s.offers {
		if now.After(old.until) {
			delete(s.offers, t)
		}
	}
	if len(s.offers) >= offersMax {
		return nil, schemas.Errorf(schemas.KindOverloaded, "offer", "%d offers wait to be taken", len(s.offers))
	}
	s.offers[token] = o
	reply := &schemas.KVOfferReply{Blocks: int32(o.Blocks), Token: token[:], TCP: s.addresses, Machine: machine()}
	if s.local != nil {
		reply.Socket = s.local.path
	}
	return reply, nil
}

// take returns what a token is for, once.
func (s *Server) take(token [tokenBytes]byte) *Offer {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := s.offers[token]
	delete(s.offers, token)
	if o == nil || time.Now().After(o.until) {
		return nil
	}
	return o
}

// Close ends what goes on.
func (s *Server) Close() {
	s.cancel()
	if s.tcp != nil {
		_ = s.tcp.Close() // nothing can be done about it
	}
	if s.local != nil {
		s.local.Close()
	}
	s.stopped.Wait()
}

func (s *Server) accept(l net.Listener) {
	s.stopped.Go(func() {
		for {
			select {
			case s.places <- struct{}{}:
			case <-s.ctx.Done():
				return
			}
			conn, err := l.Accept()
			if err != nil {
				<-s.places
				if errors.Is(err, net.ErrClosed) || s.ctx.Err() != nil {
					return
				}
				time.Sleep(10 * time.Millisecond) // out of descriptors, perhaps
				continue
			}
			s.stopped.Go(func() {
				defer func() { <-s.places }()
				if err := s.serve(conn); err != nil && s.ctx.Err() == nil {
					s.cfg.Log.Warn().Err(err).Stringer("from", conn.RemoteAddr()).Msg("KV was not handed over")
				}
			})
		}
	})
}

// serve sends what the other side's token is for.
func (s *Server) serve(conn net.Conn) error {
	defer conn.Close()
	ctx, cancel := context.WithTimeout(s.ctx, serveTimeMax)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })() // ends reads and writes
	_ = conn.SetReadDeadline(time.Now().Add(helloTimeMax))
	var hello [helloBytes]byte
	if _, err := io.ReadFull(conn, hello[:]); err != nil {
		return fmt.Errorf("handover: no hello: %w", err)
	}
	said := string(hello[:len(magic)])
	if said != magic && said != deviceMagic {
		return errors.New("handover: somebody speaks another protocol")
	}
	o := s.take([tokenBytes]byte(hello[len(magic):]))
	if o == nil {
		err := errors.New("handover: a token that is not known, not any more, or was used before")
		if said == deviceMagic { // whom a sender of an older version hangs up on
			_, _ = readPlaces(conn) // else the reset for what was not read could overtake the answer
			_ = writeFrame(conn, header{kind: kindSorry}, []byte(err.Error()))
		}
		return err
	}
	_ = conn.SetReadDeadline(time.Time{})
	if ctx.Err() != nil { // the deadline that ends reads may have been taken back just now
		return ctx.Err()
	}
	send := sender{s: s, conn: conn, offer: o}
	defer send.close()
	var err error
	if _, local := conn.(*net.UnixConn); local && said == deviceMagic {
		err = send.lend()
	}
	if err == nil {
		err = send.all(ctx)
	}
	last, text := header{kind: kindEnd}, ""
	if err != nil {
		last.kind, text = kindSorry, err.Error()
	}
	if writeFrame(conn, last, []byte(text[:min(len(text), sorryBytesMax)])) == nil {
		// The other side closes: if we did, what it has not read yet would be lost with the acknowledgements that we have not read.
		_, _ = io.Copy(io.Discard, conn) // until then, or ctx ends
	}
	return err
}

// sender is one connection's.
type sender struct {
	s      *Server
	conn   net.Conn
	offer  *Offer
	lent   Lent     // on the device, or …
	shared *segment // … on the host, or …
	buffer []byte   // … neither
}

func (d *sender) close() {
	if d.lent != nil {
		d.lent.Return()
	}
	if d.shared != nil {
		d.shared.close()
	}
}

func (d *sender) all(ctx context.Context) error {
	size := d.s.cfg.BlockBytes
	most := min(frameBlocks(size), d.offer.Blocks)
	if d.lent != nil {
		most = d.lent.Loan().SlotBlocks
	} else if local, ok := d.conn.(*net.UnixConn); ok {
		var err error
		if d.shared, err = newSegment(most * size); err != nil {
			return err
		}
		if err := d.shared.send(local); err != nil {
			return err
		}
	} else {
		d.buffer = make([]byte, most*size)
	}
	for at, sent := 0, 0; at < d.offer.Blocks; sent++ {
		n := min(most, d.offer.Blocks-at)
		if err := d.frame(ctx, sent, at, n); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// frame sends n blocks.
func (d *sender) frame(ctx context.Context, number, at, n int) error {
	h := header{kind: kindBlocks, first: uint32(at), count: uint32(n)}
	bytes := n * d.s.cfg.BlockBytes
	if d.shared == nil && d.lent == nil {
		if err := d.s.cfg.Read(ctx, d.offer, d.offer.First+at, n, d.buffer[:bytes]); err != nil {
			return err
		}
		return writeFrame(d.conn, h, d.buffer[:bytes])
	}
	if number >= segmentSlots { // both kinds of segments have as many: the slot must have been taken
		if _, err := io.ReadFull(d.conn, make([]byte, 1)); err != nil {
			return err
		}
	}
	if d.lent != nil {
		return d.frameOnDevice(ctx, number%DeviceSlots, at, n)
	}
	if err := d.s.cfg.Read(ctx, d.offer, d.offer.First+at, n, d.shared.slot(number)[:bytes]); err != nil {
		return err
	}
	h.kind, h.length = kindSlot, uint32(bytes)
	return writeFrame(d.conn, h, nil)
}
