package handover

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// Ways in which blocks come.
const (
	WayDevice = "device memory"
	WayShared = "shared memory"
	WayTCP    = "tcp"
)

// Ways are all of them, the best first.
var Ways = []string{WayDevice, WayShared, WayTCP}

const dialTimeMax = 2 * time.Second

// Client fetches blocks from other replicas.
type Client struct {
	BlockBytes int         // of a KV block over all layers
	TLS        *tls.Config // for TCP; nil: in the clear
	Borrower   Borrower    // of memory on devices; nil: blocks come through the host
}

// Payload is a frame's blocks: bytes of the host, or a tensor of as many on a device.
type Payload struct {
	Host   []byte
	Device gpu.Tensor
}

// Take gets blocks in order and whole: block first of an offer, counted from zero, and those after it. The payload is valid
// during the call.
type Take func(first, count int, payload Payload) error

// Fetch gets what was offered and gives it to take. An error says why not all of it came; what take has had is good. ctx must
// end.
func (c *Client) Fetch(ctx context.Context, offer *schemas.KVOfferReply, take Take) (way string, err error) {
	if len(offer.Token) != tokenBytes || offer.Blocks < 1 {
		return "", fmt.Errorf("handover: an offer of %d blocks with a token of %d bytes", offer.Blocks, len(offer.Token))
	}
	way, hungUp, err := c.fetch(ctx, offer, c.Borrower, take)
	if hungUp {
		c.Borrower.Refused(errors.New("the sender hung up on that wish: it may be of an older version"))
		way, _, err = c.fetch(ctx, offer, nil, take)
	}
	if err != nil {
		err = reason(ctx, err)
	}
	return way, err
}

// fetch is one connection. hungUp: it ended before a word was said, as older senders end one of a borrower's.
func (c *Client) fetch(ctx context.Context, offer *schemas.KVOfferReply, borrower Borrower, take Take) (way string, hungUp bool, err error) {
	conn, way, err := c.dial(ctx, offer, borrower)
	if err != nil {
		return "", false, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })() // ends reads and writes
	r := receiver{conn: conn, blockBytes: c.BlockBytes, blocks: int(offer.Blocks), take: take}
	defer r.close()
	hello := append([]byte(magic), offer.Token...)
	if way == WayShared && borrower != nil {
		if places, err := borrower.Places(); err != nil {
			borrower.Refused(err)
		} else {
			hello, r.borrower = wish(offer.Token, places), borrower
		}
	}
	_, err = conn.Write(hello)
	for err == nil && !r.ended {
		err = r.next()
	}
	if r.borrowed != nil {
		way = WayDevice
	}
	return way, err != nil && r.borrower != nil && ctx.Err() == nil, err
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
func (c *Client) dial(ctx context.Context, offer *schemas.KVOfferReply, borrower Borrower) (net.Conn, string, error) {
	var errs []error
	if offer.Socket != "" && offer.Machine == machine() {
		conn, err := dialLocal(ctx, offer.Socket)
		if err == nil {
			return conn, WayShared, nil
		}
		if borrower != nil {
			borrower.Refused(err)
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
		return nil, "", errors.New("the offer names no way that this machine can go")
	}
	return nil, "", errors.Join(errs...)
}

// receiver is one connection's.
type receiver struct {
	conn       net.Conn
	blockBytes int
	blocks     int // on offer
	take       Take
	borrower   Borrower // of one that says so at the beginning, until the sender has answered

	came       int // blocks
	frames     int
	shared     *segment
	borrowed   Borrowed
	slotBlocks int  // of what is borrowed
	bad        bool // it was not what it should be
	buffer     []byte
	ended      bool
}

func (r *receiver) close() {
	if r.shared != nil {
		r.shared.close()
	}
	if r.borrowed != nil {
		r.borrowed.Return(!r.bad)
	}
}

// next takes a frame.
func (r *receiver) next() error {
	h, err := r.header()
	if err != nil {
		return err
	}
	borrower := r.borrower
	r.borrower = nil // the sender has answered
	switch h.kind {
	case kindBlocks, kindSlot, kindMark:
		return r.some(h)
	case kindLoan:
		return r.borrow(h, borrower)
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
	if !ok || r.shared != nil || r.borrowed != nil {
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
	if int(h.first) != r.came || count < 1 || count > int64(r.blocks-r.came) {
		return fmt.Errorf("a frame for blocks [%d, %d) of %d, of which %d came before", h.first, int64(h.first)+count, r.blocks, r.came)
	}
	var err error
	if h.kind == kindMark {
		err = r.someOnDevice(h)
	} else {
		err = r.someOnHost(h)
	}
	if err != nil {
		return err
	}
	r.came += int(count)
	r.frames++
	return nil
}

// someOnHost takes blocks that are in a frame, or in a slot of memory of the host.
func (r *receiver) someOnHost(h header) error {
	count := int64(h.count)
	if count > int64(frameBlocks(r.blockBytes)) || int64(h.length) != count*int64(r.blockBytes) {
		return fmt.Errorf("a frame of %d bytes for %d blocks", h.length, count)
	}
	if h.kind == kindBlocks {
		payload, err := r.payload(h, int(h.length))
		if err != nil {
			return err
		}
		return r.take(r.came, int(count), Payload{Host: payload})
	}
	if r.shared == nil {
		return errors.New("a slot without a segment")
	}
	if err := r.take(r.came, int(count), Payload{Host: r.shared.slot(r.frames)[:h.length]}); err != nil {
		return err
	}
	_, err := r.conn.Write([]byte{1})
	return err
}

// payload reads a frame's, of at most so many bytes, into the buffer.
func (r *receiver) payload(h header, most int) (b []byte, err error) {
	b, err = readPayload(r.conn, h, most, r.buffer)
	r.buffer = b[:cap(b)]
	return b, err
}
