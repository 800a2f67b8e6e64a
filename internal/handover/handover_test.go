package handover

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fetchTimeMax is more than any hand-over of a test takes, on a machine under whatever load.
const fetchTimeMax = time.Minute

// blockBytesTest makes three frames of 100 blocks.
const blockBytesTest = 200 << 10

// content is what block b of the pool holds.
func content(b, blockBytes int) []byte {
	rng := rand.NewChaCha8([32]byte{byte(b), byte(b >> 8)})
	out := make([]byte, blockBytes)
	_, _ = rng.Read(out) // never fails
	return out
}

// served is a server whose block b holds content(b).
func served(t testing.TB, cfg ServerConfig) *Server {
	t.Helper()
	cfg.BlockBytes, cfg.Log = blockBytesTest, zerolog.Nop()
	if cfg.Listen == "" {
		cfg.Listen = "127.0.0.1:0"
	}
	if cfg.Read == nil {
		cfg.Read = func(_ context.Context, _ *Offer, first, count int, dst []byte) error {
			for i := range count {
				copy(dst[i*blockBytesTest:], content(first+i, blockBytesTest))
			}
			return nil
		}
	}
	s, err := Serve(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func offer(t testing.TB, s *Server, first, blocks int, ways ...string) *schemas.KVOfferReply {
	t.Helper()
	reply, err := s.Offer(&Offer{First: first, Blocks: blocks})
	if err != nil {
		t.Fatal(err)
	}
	o := *reply
	o.TCP, o.Socket = nil, ""
	for _, way := range ways {
		switch way {
		case WayTCP:
			o.TCP = reply.TCP
		case WayShared:
			o.Socket = reply.Socket
		default:
			o.TCP = append(o.TCP, way)
		}
	}
	return &o
}

// fetch checks every block that comes, and counts them.
func fetch(t testing.TB, o *schemas.KVOfferReply, first int) (blocks int, way string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeMax)
	defer cancel()
	return fetchUntil(ctx, t, o, first, func(int) {})
}

// fetchUntil does so until ctx ends, and tells how many blocks have come.
func fetchUntil(ctx context.Context, t testing.TB, o *schemas.KVOfferReply, first int, came func(blocks int)) (blocks int, way string, err error) {
	t.Helper()
	c := Client{BlockBytes: blockBytesTest}
	way, err = c.Fetch(ctx, o, func(at, count int, p Payload) error {
		payload := p.Host
		if at != blocks || len(payload) != count*blockBytesTest {
			t.Errorf("blocks [%d, %d) come in %d bytes after %d blocks", at, at+count, len(payload), blocks)
		}
		for i := range count {
			if !bytes.Equal(payload[i*blockBytesTest:][:blockBytesTest], content(first+at+i, blockBytesTest)) {
				t.Errorf("block %d has other content", first+at+i)
			}
		}
		blocks += count
		came(blocks)
		return nil
	})
	return blocks, way, err
}

func ways() []string {
	if runtime.GOOS == "linux" {
		return []string{WayTCP, WayShared}
	}
	return []string{WayTCP}
}

func TestBlocksCome(t *testing.T) {
	s := served(t, ServerConfig{})
	for _, way := range ways() {
		for _, blocks := range []int{1, 40, 41, 100} {
			got, by, err := fetch(t, offer(t, s, 7, blocks, way), 7)
			if err != nil || got != blocks || by != way {
				t.Errorf("%s: %d of %d blocks by %q: %v", way, got, blocks, by, err)
			}
		}
	}
	// A socket with a name in a file system would outlive a process that is killed.
	if o := offer(t, s, 0, 5, WayShared); runtime.GOOS == "linux" && !strings.HasPrefix(o.Socket, "@") {
		t.Errorf("the socket is %q; expected an abstract one", o.Socket)
	}
	// The socket of another container cannot be seen.
	o := offer(t, s, 0, 5, WayTCP)
	o.Socket = "/nowhere/sock"
	if got, by, err := fetch(t, o, 0); err != nil || got != 5 || by != WayTCP {
		t.Errorf("%d blocks by %q: %v", got, by, err)
	}
}

// An address on the sender's loopback is another program's elsewhere.
func TestOtherMachines(t *testing.T) {
	o := offer(t, served(t, ServerConfig{}), 0, 3, ways()...)
	o.Machine += "-another"
	if got, _, err := fetch(t, o, 0); err == nil || got != 0 || !strings.Contains(err.Error(), "kv_listen") {
		t.Errorf("%d blocks, %v", got, err)
	}
}

// A token is good once, for a while, and nothing comes without.
func TestStrangersGetNothing(t *testing.T) {
	s := served(t, ServerConfig{})
	for _, way := range ways() {
		o := offer(t, s, 0, 3, way)
		guess := *o
		guess.Token = bytes.Clone(o.Token)
		guess.Token[0]++
		for name, o := range map[string]*schemas.KVOfferReply{"guess": &guess, "short": {Blocks: 1, Token: o.Token[:31], TCP: o.TCP, Socket: o.Socket, Machine: o.Machine}} {
			if got, _, err := fetch(t, o, 0); err == nil || got != 0 {
				t.Errorf("%s %s: %d blocks, %v", way, name, got, err)
			}
		}
		if got, _, err := fetch(t, o, 0); err != nil || got != 3 {
			t.Errorf("%s: %d blocks, %v", way, got, err)
		}
		if got, _, err := fetch(t, o, 0); err == nil || got != 0 {
			t.Errorf("%s: a second time: %d blocks, %v", way, got, err)
		}
	}
	late := offer(t, s, 0, 3, WayTCP)
	s.mu.Lock()
	for _, o := range s.offers {
		o.until = time.Now().Add(-time.Second)
	}
	s.mu.Unlock()
	if got, _, err := fetch(t, late, 0); err == nil || got != 0 {
		t.Errorf("too late: %d blocks, %v", got, err)
	}
	for range offersMax {
		offer(t, s, 0, 1)
	}
	if _, err := s.Offer(&Offer{Blocks: 1}); err == nil {
		t.Error("offers have no limit")
	}
}

// through passes a connection on, and lets change what the server says.
func through(t *testing.T, to string, change func(from io.Reader, to io.Writer)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	t.Cleanup(func() { l.Close(); <-done })
	go func() {
		defer close(done)
		in, err := l.Accept()
		if err != nil {
			return
		}
		defer in.Close()
		out, err := net.Dial("tcp", to)
		if err != nil {
			t.Error(err)
			return
		}
		defer out.Close()
		go func() {
			_, _ = io.Copy(out, in) // until either side ends
			_ = out.(*net.TCPConn).CloseWrite()
		}()
		change(out, in)
	}()
	return l.Addr().String()
}

// Whatever happens on the way, what came whole is right and the rest is missed, at the latest when the time is up.
func TestBadWays(t *testing.T) {
	s := served(t, ServerConfig{})
	frame := int64(headerBytes + 40*blockBytesTest)
	cut := func(at int64) func(io.Reader, io.Writer, context.Context) {
		return func(from io.Reader, to io.Writer, _ context.Context) { _, _ = io.CopyN(to, from, at) }
	}
	for name, c := range map[string]struct {
		change func(from io.Reader, to io.Writer, ctx context.Context)
		over   int // the time is up when so many blocks have come
		blocks int
		says   string
	}{
		"cut in a header":  {cut(frame + 5), 100, 40, "unexpected EOF"},
		"cut in a payload": {cut(frame + 4e6), 100, 40, "unexpected EOF"},
		"flipped payload":  {flip(frame + 4e6), 100, 40, "checksum"},
		"flipped header":   {flip(frame + 9), 100, 40, "header is damaged"},
		"silent": {func(from io.Reader, to io.Writer, ctx context.Context) {
			_, _ = io.CopyN(to, from, frame)
			<-ctx.Done()
		}, 40, 40, "in time"},
		"slow": {func(from io.Reader, to io.Writer, ctx context.Context) {
			_, _ = io.CopyN(to, from, frame+4e6)
			<-ctx.Done()
		}, 40, 40, "in time"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, up := context.WithTimeout(t.Context(), fetchTimeMax)
			defer up()
			o := offer(t, s, 0, 100, through(t, s.addresses[0], func(from io.Reader, to io.Writer) { c.change(from, to, ctx) }))
			got, _, err := fetchUntil(ctx, t, o, 0, func(blocks int) {
				if blocks == c.over {
					time.AfterFunc(50*time.Millisecond, up) // while it waits for more, if it does so by then
				}
			})
			if err == nil || !strings.Contains(err.Error(), c.says) || got != c.blocks {
				t.Errorf("%d blocks, want %d; %v, want %q", got, c.blocks, err, c.says)
			}
		})
	}
	gone := offer(t, s, 0, 3, WayTCP)
	s.Close()
	if _, _, err := fetch(t, gone, 0); err == nil {
		t.Error("a dead server hands over")
	}
}

func flip(at int64) func(io.Reader, io.Writer, context.Context) {
	return func(from io.Reader, to io.Writer, _ context.Context) {
		_, _ = io.CopyN(to, from, at)
		b := make([]byte, 1)
		if _, err := io.ReadFull(from, b); err == nil {
			b[0] ^= 4
			_, _ = to.Write(b)
		}
		_, _ = io.Copy(to, from)
	}
}

// A source that fails says why, and what came before stays.
func TestTheSenderStops(t *testing.T) {
	s := served(t, ServerConfig{Read: func(_ context.Context, _ *Offer, first, count int, dst []byte) error {
		if first >= 80 {
			return errors.New("the block was given to another")
		}
		for i := range count {
			copy(dst[i*blockBytesTest:], content(first+i, blockBytesTest))
		}
		return nil
	}})
	for _, way := range ways() {
		got, _, err := fetch(t, offer(t, s, 0, 100, way), 0)
		if got != 80 || err == nil || !strings.Contains(err.Error(), "given to another") {
			t.Errorf("%s: %d blocks, %v", way, got, err)
		}
	}
}

// A sender that lies is found out before anything is allocated for it or taken from it.
func TestLyingSenders(t *testing.T) {
	lie := func(h header, payload []byte) []byte {
		var b [headerBytes]byte
		return append(bytes.Clone(h.encode(&b)), payload...)
	}
	for name, says := range map[string][]byte{
		"too many blocks":  lie(header{kind: kindBlocks, count: 4, length: 4 * blockBytesTest}, nil),
		"no blocks":        lie(header{kind: kindBlocks}, nil),
		"gap":              lie(header{kind: kindBlocks, first: 1, count: 1, length: blockBytesTest}, nil),
		"huge":             lie(header{kind: kindBlocks, count: 1 << 31, length: 1<<32 - 1}, nil),
		"wrong length":     lie(header{kind: kindBlocks, count: 1, length: 1<<32 - 1}, nil),
		"slot":             lie(header{kind: kindSlot, count: 1, length: blockBytesTest}, nil),
		"segment over TCP": lie(header{kind: kindShared, count: segmentSlots, length: 3 * blockBytesTest}, nil),
		"early end":        lie(header{kind: kindEnd}, nil),
		"long excuse":      lie(header{kind: kindSorry, length: sorryBytesMax + 1}, nil),
		"unknown":          lie(header{kind: 99}, nil),
		"no protocol":      []byte("HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\r\n"),
		"nothing":          nil,
	} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			conn, err := l.Accept()
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = conn.Write(says)
			_, _ = io.CopyN(io.Discard, conn, int64(helloBytes))
			_ = conn.Close()
		}()
		o := &schemas.KVOfferReply{Blocks: 3, Token: make([]byte, tokenBytes), TCP: []string{l.Addr().String()}, Machine: machine()}
		if got, _, err := fetch(t, o, 0); err == nil || got != 0 {
			t.Errorf("%s: %d blocks, %v", name, got, err)
		}
		<-done
		_ = l.Close()
	}
}

// Nothing listens beyond the machine without TLS unless that was asked for.
func TestListensCarefully(t *testing.T) {
	for _, listen := range []string{"0.0.0.0:0", ":0", "[::]:0", "10.0.0.1:0", "example.org:0", "nowhere"} {
		if s, err := Serve(ServerConfig{Listen: listen, BlockBytes: 1}); err == nil {
			s.Close()
			t.Errorf("listens at %s", listen)
		}
	}
	s := served(t, ServerConfig{Listen: "0.0.0.0:0", Insecure: true})
	for _, a := range s.addresses {
		if host, _, err := net.SplitHostPort(a); err != nil || net.ParseIP(host) == nil || net.ParseIP(host).IsUnspecified() {
			t.Errorf("others are told to connect to %s (%v)", a, err)
		}
	}
	if s.local == nil {
		return
	}
	path := s.local.path
	s.Close()
	if conn, err := dialLocal(t.Context(), path); err == nil {
		conn.Close()
		t.Errorf("%s takes connections of a server that is closed", path)
	}
}

// Between machines blocks travel under TLS, between replicas of one authority.
func TestTLS(t *testing.T) {
	files := t.TempDir()
	peers := func(dir, role string) *tls.Config {
		security := bus.Security{CA: dir + "/ca.pem", Cert: dir + "/" + role + ".pem", Key: dir + "/" + role + "-key.pem"}
		config, err := security.Peers("replica", "hub")
		if err != nil {
			t.Fatal(err)
		}
		return config
	}
	for _, dir := range []string{files + "/ours", files + "/foreign"} {
		keys, err := bus.MakeKeys(bus.KeysConfig{Hosts: []string{"hub"}, Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, content := range keys {
			if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	s := served(t, ServerConfig{Listen: "0.0.0.0:0", TLS: peers(files+"/ours", "replica")})
	_, port, _ := net.SplitHostPort(s.tcp.Addr().String())
	for name, c := range map[string]struct {
		tls  *tls.Config
		come int
	}{"a replica": {peers(files+"/ours", "replica"), 50}, "a client of ours": {peers(files+"/ours", "client"), 0}, "a foreign replica": {peers(files+"/foreign", "replica"), 0}, "in the clear": {nil, 0}} {
		ctx, cancel := context.WithTimeout(t.Context(), fetchTimeMax)
		got := 0
		client := Client{BlockBytes: blockBytesTest, TLS: c.tls}
		_, err := client.Fetch(ctx, offer(t, s, 0, 50, "127.0.0.1:"+port), func(_, count int, _ Payload) error {
			got += count
			return nil
		})
		cancel()
		if got != c.come || (err == nil) != (c.come > 0) {
			t.Errorf("%s: %d blocks, want %d; %v", name, got, c.come, err)
		}
	}
}

// FuzzFrames: no bytes of a sender make a receiver panic, hang or take what nobody sent.
func FuzzFrames(f *testing.F) {
	var b [headerBytes]byte
	f.Add(bytes.Clone((&header{kind: kindBlocks, count: 1, length: 8, crc: 0x8c28b28a}).encode(&b)), byte(3))
	f.Add(bytes.Clone((&header{kind: kindSorry, length: 4}).encode(&b)), byte(0))
	loan := []byte(`{"key":"k","slot_blocks":2,"shared":{"Handle":"AQ==","DType":4,"Dims":[2,8]}}`)
	f.Add(append((&header{kind: kindLoan, length: uint32(len(loan)), crc: crc32.Checksum(loan, castagnoli)}).encode(&b), loan...), byte(1))
	f.Fuzz(func(t *testing.T, says []byte, resum byte) {
		if len(says) >= headerBytes && resum > 0 { // else hardly any header is read
			h := header{kind: says[4], first: binary.LittleEndian.Uint32(says[8:]), count: binary.LittleEndian.Uint32(says[12:]), length: binary.LittleEndian.Uint32(says[16:]),
				crc: binary.LittleEndian.Uint32(says[20:])}
			copy(says, h.encode(&b))
		}
		near, far := net.Pipe()
		go func() {
			_, _ = far.Write(says)
			_ = far.Close()
		}()
		go func() { _, _ = io.Copy(io.Discard, far) }() // answers
		r := receiver{conn: near, blockBytes: 8, blocks: 4, borrower: &board{}, take: func(first, count int, payload Payload) error {
			if first+count > 4 || len(payload.Host) != 8*count {
				t.Errorf("%d blocks from %d in %d bytes", count, first, len(payload.Host))
			}
			return nil
		}}
		for !r.ended && r.next() == nil {
		}
		_ = near.Close()
	})
}

func BenchmarkFetch(b *testing.B) {
	const blocks = 500
	pool := make([]byte, blocks*blockBytesTest)
	for i := range pool {
		pool[i] = byte(i)
	}
	to := make([]byte, len(pool))
	s := served(b, ServerConfig{Read: func(_ context.Context, _ *Offer, first, count int, dst []byte) error {
		copy(dst, pool[first*blockBytesTest:][:count*blockBytesTest])
		return nil
	}})
	b.Run("copy", func(b *testing.B) {
		b.SetBytes(int64(len(pool)))
		for range b.N {
			copy(to, pool)
		}
	})
	for _, way := range ways() {
		b.Run(strings.ReplaceAll(way, " ", "_"), func(b *testing.B) {
			b.SetBytes(int64(len(pool)))
			for range b.N {
				o := offer(b, s, 0, blocks, way)
				c := Client{BlockBytes: blockBytesTest}
				ctx, cancel := context.WithTimeout(context.Background(), fetchTimeMax)
				if _, err := c.Fetch(ctx, o, func(first, count int, payload Payload) error {
					copy(to[first*blockBytesTest:], payload.Host)
					return nil
				}); err != nil {
					b.Fatal(err)
				}
				cancel()
			}
		})
	}
}
