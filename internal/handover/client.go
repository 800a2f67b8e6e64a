package handover

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// Ways in which blocks come.
const (
	WayShared = "shared memory"
	WayTCP    = "tcp"
)

const dialTimeMax = 2 * time.Second

// Client fetches blocks from other replicas.
type Client struct {
	BlockBytes int         // of a KV block over all layers
	TLS        *tls.Config // for TCP; nil: in the clear
}

// Fetch gets what was offered and gives it to take, in order and in whole blocks: block first of the offer, counted from
// zero, and those after it. The payload is valid during the call. An error says why not all of it came; what take has had is
// good. ctx must end.
func (c *Client) Fetch(ctx context.Context, offer *schemas.KVOfferReply, take func(first, count int, payload []byte) error) (way string, err error) {
	if len(offer.Token) != tokenBytes || offer.Blocks < 1 {
		return "", fmt.Errorf("handover: an offer of %d blocks with a token of %d bytes", offer.Blocks, len(offer.Token))
	}
	conn, way, err := c.dial(ctx, offer)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })() // ends reads and writes
	if _, err := conn.Write(append([]byte(magic), offer.Token...)); err != nil {
		return way, reason(ctx, err)
	}
	r := receiver{conn: conn, blockBytes: c.BlockBytes, blocks: int(offer.Blocks), take: take}
	defer r.close()
	for !r.ended {
		if err := r.next(); err != nil {
			return way, reason(ctx, err)
		}
	}
	return way, nil
}

// reason prefers that the time is up over what came of it.
func reason(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return fmt.Errorf("handover: not all came in time: %w", cause)
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("handover: %w", err)
}

// dial prefers shared memory. The socket of another container of this machine is not seen: then TCP is left.
func (c *Client) dial(ctx context.Context, offer *schemas.KVOfferReply) (net.Conn, string, error) {
	var errs []error
	if offer.Socket != "" && offer.Machine == machine() {
		conn, err := dialLocal(ctx, offer.Socket)
		if err == nil {
			return conn, WayShared, nil
		}
		errs = append(errs, err)
	}
	for _, address := range offer.TCP[:min(len(offer.TCP), addressesMax)] {
		if host, _, _ := net.SplitHostPort(address); net.ParseIP(host).IsLoopback() && offer.Machine != machine() {
			errs = append(errs, fmt.Errorf("%s is on another machine: give it a kv_listen that this one reaches", address))
			continue
		}
		d := net.Dialer{Timeout: dialTimeMax}
		conn, err := d.DialContext(ctx, "tcp", address)
		if err == nil && c.TLS != nil {
			secure := tls.Client(conn, c.TLS)
			if err = secure.HandshakeContext(ctx); err != nil {
				_ = conn.Close()
			}
			conn = secure
		}
		if err == nil {
			return conn, WayTCP, nil
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, "", errors.New("handover: the offer names no way that this machine can go")
	}
	return nil, "", fmt.Errorf("handover: %w", errors.Join(errs...))
}

// receiver is one connection's.
type receiver struct {
	conn       net.Conn
	blockBytes int
	blocks     int // on offer
	take       func(first, count int, payload []byte) error

	came   int // blocks
	frames int
	shared *segment
	buffer []byte
	ended  bool
}

func (r *receiver) close() {
	if r.shared != nil {
		r.shared.close()
	}
}

// next takes a frame.
func (r *receiver) next() error {
	h, err := r.header()
	if err != nil {
		return err
	}
	switch h.kind {
	case kindBlocks, kindSlot:
		return r.some(h)
	case kindShared:
		return nil // header took it
	case kindEnd:
		if r.ended = r.came == r.blocks; !r.ended {
			return fmt.Errorf("the sender ends after %d of %d blocks", r.came, r.blocks)
		}
		return nil
	case kindSorry:
		text, err := r.payload(h, sorryBytesMax)
		if err != nil {
			return err
		}
		return fmt.Errorf("the sender stops after %d of %d blocks: %.200q", r.came, r.blocks, text)
	}
	return fmt.Errorf("a frame of kind %d", h.kind)
}

// header reads one, and the segment that may come with the first.
func (r *receiver) header() (header, error) {
	var b [headerBytes]byte
	local, ok := r.conn.(*net.UnixConn)
	if !ok || r.shared != nil {
		if _, err := io.ReadFull(r.conn, b[:]); err != nil {
			return header{}, err
		}
		h, err := decodeHeader(&b)
		if err == nil && h.kind == kindShared {
			err = errors.New("a shared segment that is not wanted")
		}
		return h, err
	}
	file, err := readDescriptor(local, b[:])
	if err != nil {
		return header{}, err
	}
	h, err := decodeHeader(&b)
	if err == nil && h.kind == kindShared {
		most := min(frameBlocks(r.blockBytes), r.blocks) * r.blockBytes
		if int64(h.length) != int64(most) || h.count != segmentSlots {
			err = fmt.Errorf("a shared segment of %d slots of %d bytes; %d of %d are expected", h.count, h.length, segmentSlots, most)
		} else {
			r.shared, err = file.open(most)
			return h, err
		}
	}
	file.discard()
	return h, err
}

// some takes blocks.
func (r *receiver) some(h header) error {
	count := int64(h.count)
	if int(h.first) != r.came || count < 1 || count > int64(r.blocks-r.came) || count > int64(frameBlocks(r.blockBytes)) || int64(h.length) != count*int64(r.blockBytes) {
		return fmt.Errorf("a frame of %d bytes for blocks [%d, %d) of %d, of which %d came before", h.length, h.first, int64(h.first)+count, r.blocks, r.came)
	}
	var payload []byte
	if h.kind == kindSlot {
		if r.shared == nil {
			return errors.New("a slot without a segment")
		}
		payload = r.shared.slot(r.frames)[:h.length]
	} else {
		var err error
		if payload, err = r.payload(h, int(h.length)); err != nil {
			return err
		}
	}
	if err := r.take(r.came, int(count), payload); err != nil {
		return err
	}
	r.came += int(count)
	r.frames++
	if h.kind == kindSlot {
		_, err := r.conn.Write([]byte{1})
		return err
	}
	return nil
}

// payload reads a frame's, of at most so many bytes, into the buffer.
func (r *receiver) payload(h header, most int) ([]byte, error) {
	if int64(h.length) > int64(most) {
		return nil, fmt.Errorf("a payload of %d bytes; at most %d are expected", h.length, most)
	}
	if cap(r.buffer) < int(h.length) {
		r.buffer = make([]byte, h.length)
	}
	b := r.buffer[:h.length]
	if _, err := io.ReadFull(r.conn, b); err != nil {
		return nil, err
	}
	if crc32.Checksum(b, castagnoli) != h.crc {
		return nil, fmt.Errorf("the checksum of %d bytes is wrong", len(b))
	}
	return b, nil
}
