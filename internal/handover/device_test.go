package handover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// board is a Lender and a Borrower: its memory stands for a device's that both sides reach.
type board struct {
	refuses error // at the sender
	fails   error // at the receiver
	blind   error // it does not know what it could map
	wrongAt int   // the frame of which the mark is wrong, from 1 on

	mu       sync.Mutex
	slots    [DeviceSlots][]byte
	marks    [DeviceSlots]Mark
	lent     int
	borrowed int
	good     []bool
	refused  []error
	frames   int
	landing  []byte // the receiver's own memory
}

const slotBlocksTest = 3

func (b *board) Places() ([]string, error) { return []string{"gpu", "another"}, b.blind }

func (b *board) Lend(places []string) (Lent, error) {
	if !slices.Equal(places, []string{"gpu", "another"}) {
		return nil, fmt.Errorf("the receiver reaches %q", places)
	}
	if b.refuses != nil {
		return nil, b.refuses
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lent++
	return b, nil
}

func (b *board) Loan() *Loan { return goodLoan() }

// goodLoan is what a sender says that lends.
func goodLoan() *Loan {
	return &Loan{Key: "k", SlotBlocks: slotBlocksTest, Shared: gpu.Shared{Device: "gpu", Process: 1, Handle: []byte{1}, DType: gpu.I32, Dims: []int{DeviceSlots, (slotBlocksTest*blockBytesTest + MarkBytes) / 4}}}
}

func (b *board) Read(_ context.Context, o *Offer, first, count, slot int, mark Mark) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slots[slot] = nil
	for i := range count {
		b.slots[slot] = append(b.slots[slot], content(first+i, blockBytesTest)...)
	}
	b.marks[slot] = mark
	if b.frames++; b.frames == b.wrongAt {
		b.marks[slot] = newMark()
	}
	return nil
}

func (b *board) Borrow(*Loan) (Borrowed, error) {
	if b.fails != nil {
		return nil, b.fails
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.borrowed++
	return mapped{b}, nil
}

func (b *board) Refused(why error) { b.refused = append(b.refused, why) }

// Return implements Lent.
func (b *board) Return() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.lent--
}

// mapped is the receiver's side.
type mapped struct{ *board }

func (m mapped) Take(slot, count int, mark Mark) (gpu.Tensor, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.marks[slot] != mark {
		return gpu.Tensor{}, errors.New("another mark")
	}
	m.landing = append(m.landing[:0], m.slots[slot]...)
	return gpu.NewTensor(1, 1, gpu.I32, count*blockBytesTest/4), nil
}

func (m mapped) Return(good bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.borrowed--
	m.good = append(m.good, good)
}

// fetchBy takes blocks with a borrower, and checks them.
func fetchBy(t *testing.T, o *schemas.KVOfferReply, b *board) (blocks int, way string, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), fetchTimeMax)
	defer cancel()
	c := Client{BlockBytes: blockBytesTest, Borrower: b}
	way, err = c.Fetch(ctx, o, func(first, count int, p Payload) error {
		got := p.Host
		if got == nil {
			got = b.landing[:p.Device.Bytes()]
		}
		if first != blocks || len(got) != count*blockBytesTest {
			t.Errorf("blocks [%d, %d) in %d bytes after %d", first, first+count, len(got), blocks)
		}
		for i := range count {
			if !bytes.Equal(got[i*blockBytesTest:][:blockBytesTest], content(first+i, blockBytesTest)) {
				t.Errorf("block %d has other content", first+i)
			}
		}
		blocks += count
		return nil
	})
	return blocks, way, err
}

// A segment on the device is taken where both sides can, and whatever is in the way of that leaves the host's.
func TestDeviceWay(t *testing.T) {
	if len(ways()) < 2 {
		t.Skip("SKIPPED: there is no socket to agree on segments")
	}
	for name, c := range map[string]struct {
		board *board // nil: one that does what it should
		none  bool   // the sender has no such memory
		way   string
		says  string
	}{
		"both can":              {way: WayDevice},
		"the sender has none":   {none: true, way: WayShared, says: "no memory that other processes can map"},
		"the sender cannot":     {board: &board{refuses: errors.New("out of memory")}, way: WayShared, says: "out of memory"},
		"the sender is busy":    {board: &board{refuses: ErrBusy}, way: WayShared},
		"with a long excuse":    {board: &board{refuses: errors.New(strings.Repeat("sorry ", 1000))}, way: WayShared, says: "sorry sorry"},
		"the receiver cannot":   {board: &board{fails: errors.New("another GPU")}, way: WayShared, says: "another GPU"},
		"it does not know":      {board: &board{blind: errors.New("no driver")}, way: WayShared, says: "no driver"},
		"a wrong mark at first": {board: &board{wrongAt: 1}, way: WayDevice, says: ""},
		"a wrong mark later":    {board: &board{wrongAt: 4}, way: WayDevice, says: ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := c.board
			if b == nil {
				b = &board{}
			}
			cfg := ServerConfig{Lender: b}
			if c.none {
				cfg.Lender = nil
			}
			s := served(t, cfg)
			blocks, way, err := fetchBy(t, offer(t, s, 0, 10, WayShared), b)
			want := 10
			if b.wrongAt > 0 {
				if want = (b.wrongAt - 1) * slotBlocksTest; !errors.Is(err, ErrBorrowed) || len(b.good) != 1 || b.good[0] {
					t.Errorf("%v, good: %v", err, b.good)
				}
			} else if err != nil {
				t.Error(err)
			}
			if blocks != want || way != c.way {
				t.Errorf("%d blocks by %q, want %d by %q", blocks, way, want, c.way)
			}
			if (len(b.refused) > 0) != (c.says != "") || len(b.refused) > 0 && !strings.Contains(b.refused[0].Error(), c.says) {
				t.Errorf("the borrower hears %v, want %q", b.refused, c.says)
			}
			s.Close()
			if b.lent != 0 || b.borrowed != 0 {
				t.Errorf("%d segments are lent, and %d borrowed, when all is over", b.lent, b.borrowed)
			}
		})
	}
	// By TCP nobody asks for it.
	b := &board{}
	if blocks, way, err := fetchBy(t, offer(t, served(t, ServerConfig{Lender: b}), 0, 10, WayTCP), b); err != nil || blocks != 10 || way != WayTCP || len(b.refused) > 0 {
		t.Errorf("%d blocks by %s, %v, %v", blocks, way, err, b.refused)
	}
}

// A sender of an older version hangs up on the wish to map its device's memory, and serves what it knows.
func TestOlderSenders(t *testing.T) {
	l, err := listenLocal()
	if err != nil {
		t.Skipf("SKIPPED: %v", err)
	}
	s := served(t, ServerConfig{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			var hello [helloBytes]byte
			if _, err := io.ReadFull(in, hello[:]); err == nil && string(hello[:len(magic)]) == magic {
				serveOld(t, s, in, hello[:])
			}
			_ = in.Close()
		}
	}()
	defer func() { l.Close(); <-done }()
	b := &board{}
	o := offer(t, s, 0, 10, WayShared)
	o.Socket = l.path
	blocks, way, err := fetchBy(t, o, b)
	if err != nil || blocks != 10 || way != WayShared || len(b.refused) != 1 {
		t.Errorf("%d blocks by %q, %v; the borrower hears %v", blocks, way, err, b.refused)
	}
	// One that is not there is no older one: it may be seen from another container alone.
	o = offer(t, s, 0, 10, WayTCP)
	o.Socket = "@troupe-kv-nobody"
	if blocks, way, err := fetchBy(t, o, b); err != nil || blocks != 10 || way != WayTCP || len(b.refused) != 2 || !strings.Contains(b.refused[1].Error(), "nobody") {
		t.Errorf("%d blocks by %s, %v, %v", blocks, way, err, b.refused)
	}
}

// A token that is not good any more is no reason to take the sender for an older one, and its memory for of no use.
func TestTokenOverOfABorrower(t *testing.T) {
	s := served(t, ServerConfig{})
	o := offer(t, s, 0, 3, WayShared)
	b := &board{}
	if blocks, _, err := fetchBy(t, o, &board{}); err != nil || blocks != 3 {
		t.Fatalf("%d blocks, %v", blocks, err)
	}
	if _, _, err := fetchBy(t, o, b); err == nil || !strings.Contains(err.Error(), "used before") || len(b.refused) != 0 {
		t.Errorf("%v; the borrower hears %v", err, b.refused)
	}
}

// serveOld serves a connection that has said hello already.
func serveOld(t *testing.T, s *Server, in net.Conn, hello []byte) {
	send := sender{s: s, conn: in, offer: s.take([tokenBytes]byte(hello[len(magic):]))}
	defer send.close()
	if send.offer == nil {
		t.Error("the token is not known any more")
		return
	}
	if err := send.all(t.Context()); err != nil {
		t.Error(err)
	}
	_ = writeFrame(in, header{kind: kindEnd}, nil)
	_, _ = io.Copy(io.Discard, in)
}

// What a sender says of a segment is checked before anything is mapped.
func TestForgedLoans(t *testing.T) {
	for name, spoil := range map[string]func(l *Loan){
		"good":              func(*Loan) {},
		"no key":            func(l *Loan) { l.Key = "" },
		"a long key":        func(l *Loan) { l.Key = strings.Repeat("k", keyBytesMax+1) },
		"no blocks":         func(l *Loan) { l.SlotBlocks = 0 },
		"negative blocks":   func(l *Loan) { l.SlotBlocks = -1 },
		"many blocks":       func(l *Loan) { l.SlotBlocks = 1 << 62 },
		"more than there":   func(l *Loan) { l.SlotBlocks++ },
		"less than there":   func(l *Loan) { l.SlotBlocks-- },
		"one slot":          func(l *Loan) { l.Shared.Dims = []int{1, DeviceSlots * l.Shared.Dims[1]} },
		"a flat segment":    func(l *Loan) { l.Shared.Dims = []int{DeviceSlots * l.Shared.Dims[1]} },
		"overflowing dims":  func(l *Loan) { l.Shared.Dims = []int{DeviceSlots, 1 << 62} },
		"no handle":         func(l *Loan) { l.Shared.Handle = nil },
		"a long handle":     func(l *Loan) { l.Shared.Handle = make([]byte, gpu.SharedHandleBytesMax+1) },
		"a negative offset": func(l *Loan) { l.Shared.ByteOffset = -4 },
		"an unknown type":   func(l *Loan) { l.Shared.DType = 99 },
	} {
		l := goodLoan()
		spoil(l)
		text, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		near, far := net.Pipe()
		answer := make(chan byte, 1)
		go func() {
			one := []byte{9}
			_ = writeFrame(far, header{kind: kindLoan}, text)
			_, _ = io.ReadFull(far, one)
			answer <- one[0]
			_ = far.Close()
		}()
		b := &board{}
		r := receiver{conn: near, blockBytes: blockBytesTest, blocks: 4, borrower: b}
		if err := r.next(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		r.close()
		if got, good := <-answer == 1, name == "good"; got != good || (r.borrowed != nil) != good || (len(b.refused) == 0) != good {
			t.Errorf("%s: answered %v, %v", name, got, b.refused)
		}
		_ = near.Close()
	}
	// What is no description, comes twice or was not asked for ends the connection.
	text, err := json.Marshal(goodLoan())
	if err != nil {
		t.Fatal(err)
	}
	frame := func(kind byte, h header, payload []byte) []byte {
		var out bytes.Buffer
		h.kind = kind
		if err := writeFrame(&out, h, payload); err != nil {
			t.Fatal(err)
		}
		return out.Bytes()
	}
	loan, mark := frame(kindLoan, header{}, text), make([]byte, MarkBytes)
	for name, says := range map[string][]byte{
		"no JSON":               frame(kindLoan, header{}, []byte("{")),
		"too long":              frame(kindLoan, header{length: 1 << 30}, nil),
		"twice":                 bytes.Join([][]byte{loan, loan}, nil),
		"a mark without a loan": frame(kindMark, header{count: 1}, mark),
		"more than a slot has":  bytes.Join([][]byte{loan, frame(kindMark, header{count: slotBlocksTest + 1}, mark)}, nil),
		"a short mark":          bytes.Join([][]byte{loan, frame(kindMark, header{count: 1}, mark[1:])}, nil),
		"a long mark":           bytes.Join([][]byte{loan, frame(kindMark, header{count: 1}, append(mark, 1))}, nil),
		"a gap":                 bytes.Join([][]byte{loan, frame(kindMark, header{first: 1, count: 1}, mark)}, nil),
		"a mark of another":     bytes.Join([][]byte{loan, frame(kindMark, header{count: 1}, bytes.Repeat([]byte{3}, MarkBytes))}, nil),
		"host blocks, too":      bytes.Join([][]byte{loan, frame(kindSlot, header{count: 1, length: blockBytesTest}, nil)}, nil),
	} {
		near, far := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, far) }() // answers
		go func() {
			_, _ = far.Write(says)
			_ = far.Close()
		}()
		r := receiver{conn: near, blockBytes: blockBytesTest, blocks: 5, borrower: &board{}, take: func(int, int, Payload) error {
			t.Errorf("%s: something was taken", name)
			return nil
		}}
		var err error
		for range 4 {
			if err = r.next(); err != nil {
				break
			}
		}
		if err == nil {
			t.Errorf("%s: taken", name)
		}
		r.close()
		_ = near.Close()
	}
}
