package handover

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/troupe-engine/troupe/gpu"
)

// Between processes of one machine whose devices reach each other's memory (gpu.Sharer), blocks stay on the device: the sender
// lends a segment there, in slots as one of host memory, and the receiver maps it. Nothing but the words on the connection
// orders what the two do, and a process may be frozen at any moment while its segment is lent anew. So each frame has a mark of its
// own: the sender wipes the slot's mark, copies, and writes the new one; the receiver copies the blocks and then
// the mark. If that is the one that it was told of, the blocks before it are, too.

// deviceMagic begins a connection of a receiver that can map a device's memory. Older senders do not know it, and hang up.
const deviceMagic = "TKD1"

const (
	// MarkBytes is the size of a mark.
	MarkBytes = 16
	// DeviceSlots is how many frames a segment on a device holds: one is read while the next is written.
	DeviceSlots = segmentSlots

	loanBytesMax    = 2 << 10 // of a loan's description
	placesBytesMax  = 4 << 10
	slotBlocksLimit = 1 << 20
	keyBytesMax     = 64
)

// ErrBorrowed is the error of a Fetch that failed because mapped memory did; blocks can still come by way of the host.
var ErrBorrowed = errors.New("memory that the sender lent on its device")

// ErrBusy is a Lender's that has lent all its segments.
var ErrBusy = errors.New("all segments are lent")

// Mark is random, and never used again.
type Mark [MarkBytes]byte

// Loan is a segment on the sender's device as the receiver is told of it: DeviceSlots slots, each of SlotBlocks blocks and a mark.
type Loan struct {
	Key        string     `json:"key,omitempty"` // of this segment and no other of any process, so that a mapping of it can be used again
	SlotBlocks int        `json:"slot_blocks,omitempty"`
	Shared     gpu.Shared `json:"shared"`            // DeviceSlots rows, one a slot
	Refused    string     `json:"refused,omitempty"` // why there is none …
	Busy       bool       `json:"busy,omitempty"`    // … for the moment
}

// check says what is wrong with a loan, which another process describes.
func (l *Loan) check(blockBytes int) error {
	if l.SlotBlocks < 1 || l.SlotBlocks > slotBlocksLimit || len(l.Key) < 1 || len(l.Key) > keyBytesMax {
		return fmt.Errorf("a segment of %d blocks a slot with a key of %d bytes; expected 1 to %d and 1 to %d", l.SlotBlocks, len(l.Key), slotBlocksLimit, keyBytesMax)
	}
	bytes, err := l.Shared.Bytes()
	if err != nil {
		return err
	}
	if want := DeviceSlots * (int64(l.SlotBlocks)*int64(blockBytes) + MarkBytes); bytes != want || len(l.Shared.Dims) != 2 || l.Shared.Dims[0] != DeviceSlots {
		return fmt.Errorf("a segment %v of %d bytes; expected %d slots in %d", l.Shared.Dims, bytes, DeviceSlots, want)
	}
	return nil
}

// Lender has memory on a device for others to map.
type Lender interface {
	// Lend gives a segment to one receiver until Return. It can map memory in places (gpu.Sharer), which it says itself. The error
	// says why blocks have to go through the host.
	Lend(places []string) (Lent, error)
}

// Lent is a segment that one receiver has.
type Lent interface {
	Loan() *Loan
	// Read copies blocks [first, first+count) of an offer to a slot, and then the mark.
	Read(ctx context.Context, o *Offer, first, count, slot int, mark Mark) error
	Return()
}

// Borrower maps what a sender lends.
type Borrower interface {
	// Places names the memories that can be mapped.
	Places() ([]string, error)
	// Borrow maps a segment until Return. The loan has been checked for what any sender must observe.
	Borrow(l *Loan) (Borrowed, error)
	// Refused hears why blocks do not come by way of a device although the sender is on this machine.
	Refused(why error)
}

// Borrowed is a segment that is mapped.
type Borrowed interface {
	// Take copies the blocks of a slot to memory of this process, where they stay until the next Take. It fails if the slot does
	// not have the mark.
	Take(slot, count int, mark Mark) (gpu.Tensor, error)
	// Return says whether the segment was what it should be.
	Return(good bool)
}

// lend gives the receiver a segment on the device, if it can be had and the receiver can map it.
func (d *sender) lend() error {
	places, err := readPlaces(d.conn)
	if err != nil {
		return err
	}
	var l Loan
	var lent Lent
	err = errors.New("its device has no memory that other processes can map")
	if d.s.cfg.Lender != nil {
		lent, err = d.s.cfg.Lender.Lend(places)
	}
	if err != nil {
		l.Refused = err.Error()
		l.Refused, l.Busy = l.Refused[:min(len(l.Refused), sorryBytesMax)], errors.Is(err, ErrBusy)
	} else {
		l = *lent.Loan()
	}
	text, err := json.Marshal(&l)
	if err == nil {
		err = writeFrame(d.conn, header{kind: kindLoan}, text)
	}
	answer := []byte{0}
	if err == nil && lent != nil {
		_, err = io.ReadFull(d.conn, answer)
	}
	if err == nil && answer[0] == 1 {
		d.lent = lent
	} else if lent != nil {
		lent.Return()
	}
	return err
}

// wish is a borrower's hello.
func wish(token []byte, places []string) []byte {
	text, _ := json.Marshal(places) // strings can be marshalled
	var out bytes.Buffer
	out.WriteString(deviceMagic)
	out.Write(token)
	_ = writeFrame(&out, header{kind: kindPlaces}, text) // a buffer takes all
	return out.Bytes()
}

// readPlaces reads what comes after the token.
func readPlaces(conn io.Reader) (places []string, err error) {
	var b [headerBytes]byte
	if _, err := io.ReadFull(conn, b[:]); err != nil {
		return nil, err
	}
	h, err := decodeHeader(&b)
	if err == nil && h.kind != kindPlaces {
		err = fmt.Errorf("handover: a frame of kind %d after a borrower's hello", h.kind)
	}
	if err != nil {
		return nil, err
	}
	text, err := readPayload(conn, h, placesBytesMax, nil)
	if err == nil {
		err = json.Unmarshal(text, &places)
	}
	return places, err
}

// frameOnDevice sends n blocks there.
func (d *sender) frameOnDevice(ctx context.Context, slot, at, n int) error {
	mark := newMark()
	if err := d.lent.Read(ctx, d.offer, d.offer.First+at, n, slot, mark); err != nil {
		return err
	}
	return writeFrame(d.conn, header{kind: kindMark, first: uint32(at), count: uint32(n)}, mark[:])
}

// borrow takes what the sender lends, or says that it cannot.
func (r *receiver) borrow(h header, borrower Borrower) error {
	if borrower == nil {
		return errors.New("a segment on a device that is not wanted")
	}
	text, err := r.payload(h, loanBytesMax)
	if err != nil {
		return err
	}
	var l Loan
	if err := json.Unmarshal(text, &l); err != nil {
		return fmt.Errorf("a segment on a device: %w", err)
	}
	if l.Busy {
		return nil
	}
	if l.Refused != "" {
		borrower.Refused(fmt.Errorf("the sender says: %.400q", l.Refused))
		return nil
	}
	if err = l.check(r.blockBytes); err == nil {
		r.slotBlocks = l.SlotBlocks
		r.borrowed, err = borrower.Borrow(&l)
	}
	answer := []byte{1}
	if err != nil {
		borrower.Refused(err)
		answer[0] = 0
	}
	_, err = r.conn.Write(answer)
	return err
}

// someOnDevice takes blocks that are in a slot there.
func (r *receiver) someOnDevice(h header) error {
	if r.borrowed == nil || int64(h.count) > int64(r.slotBlocks) || h.length != MarkBytes {
		return fmt.Errorf("a mark of %d bytes for %d blocks in a slot for %d", h.length, h.count, r.slotBlocks)
	}
	text, err := r.payload(h, MarkBytes)
	if err != nil {
		return err
	}
	count := int(h.count)
	blocks, err := r.borrowed.Take(r.frames%DeviceSlots, count, Mark(text))
	if err != nil {
		r.bad = true
		return fmt.Errorf("%w: %w", ErrBorrowed, err)
	}
	if _, err := r.conn.Write([]byte{1}); err != nil { // the slot is free: what comes of its blocks is this side's
		return err
	}
	return r.take(r.came, count, Payload{Device: blocks})
}

func newMark() (m Mark) {
	_, _ = rand.Read(m[:]) // never fails (crypto/rand)
	return m
}
