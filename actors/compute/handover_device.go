package compute

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/handover"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	slotBytesMax   = 64 << 20               // of a frame on a device, unless one block is larger: each waits for a step to end …
	slotBlocksMax  = 256                    // … and small blocks need not so much
	segmentsMax    = 2                      // that are lent at once
	lendWaitMax    = 100 * time.Millisecond // for one that is lent; the host is not so much slower
	mappingsMax    = 16                     // segments of others that stay mapped: to map one takes milliseconds …
	mappingIdleMax = 5 * time.Minute
	hostOnlyTime   = 30 * time.Second // until memory that could not be shared is tried again
	refusalsMax    = 256              // senders of which that is remembered
)

// sharing is the part of an exchange that hands KV over without the host, between devices that reach each other's memory. It
// lends segments to receivers, and maps those of senders. Blocks are copied from the pool into a segment, and from there into
// memory of the receiver's own before memory hears of them: what another process does, or no longer does, to its memory
// never gets into the pool.
type sharing struct {
	h          *exchange
	dev        gpu.Sharer
	slotBlocks int
	blockWords int // of 4 bytes, as the elements of segments

	lendable chan struct{} // a place for each segment that is lent

	mu       sync.Mutex
	idle     []*lent
	broken   error // why no segment could be made …
	until    time.Time
	mappings map[string]*mapping // by key
	leaving  []*mapping          // out of use, and to be freed with the next that comes
	landings []gpu.Tensor        // [slotBlocks*blockWords] I32, not in use
	refusals map[schemas.Instance]refusal
}

// refusal is why blocks of a sender come by way of the host.
type refusal struct {
	why   string
	until time.Time
}

// newSharing returns nil if the device's memory stays where it is.
func newSharing(h *exchange) *sharing {
	dev, ok := h.a.exec.dev.(gpu.Sharer)
	if !ok || h.cfg.Way != "" {
		return nil
	}
	for _, p := range h.a.exec.blockPools(1) {
		if p.size%4 != 0 {
			return nil // no model has such heads
		}
	}
	bytes := h.client.BlockBytes
	return &sharing{h: h, dev: dev, slotBlocks: min(max(1, slotBytesMax/bytes), slotBlocksMax), blockWords: bytes / 4,
		lendable: make(chan struct{}, segmentsMax), mappings: map[string]*mapping{}, refusals: map[schemas.Instance]refusal{}}
}

// onDevice has f done by the goroutine that alone uses the device.
func (s *sharing) onDevice(ctx context.Context, f func(dev gpu.Device) error) (err error) {
	for range copyTriesMax {
		err = s.h.a.doJob(job{}, func() *schemas.Error { return nil }, func() error { return f(s.h.a.exec.dev) })
		if !retried(ctx, err) {
			return err
		}
	}
	return err
}

// free releases what is on the device, when nobody else uses it any more.
func (s *sharing) free() {
	dev := s.h.a.exec.dev
	for _, l := range s.idle {
		dev.Free(l.memory)
	}
	for _, m := range s.mappings {
		dev.Free(m.memory)
	}
	for _, m := range s.leaving {
		dev.Free(m.memory)
	}
	for _, t := range s.landings {
		dev.Free(t)
	}
}

// slotWords is the size of a segment's row: its blocks, and a mark.
func (s *sharing) slotWords() int { return s.slotBlocks*s.blockWords + handover.MarkBytes/4 }

// lent implements handover.Lent.
type lent struct {
	s      *sharing
	loan   handover.Loan
	memory gpu.Tensor // [DeviceSlots, slotWords] I32
}

// Places implements handover.Borrower.
func (s *sharing) Places() ([]string, error) { return s.dev.Places() }

// Lend implements handover.Lender.
func (s *sharing) Lend(places []string) (handover.Lent, error) {
	own, err := s.dev.Places()
	if err != nil {
		return nil, err
	}
	if !slices.Contains(places, own[0]) {
		return nil, fmt.Errorf("its memory is %s, the receiver's device reaches %.500q: GPUs must reach each other, and a process must see both (CUDA_VISIBLE_DEVICES)", own[0], places)
	}
	timer := time.NewTimer(lendWaitMax)
	defer timer.Stop()
	select {
	case s.lendable <- struct{}{}:
	case <-timer.C:
		return nil, handover.ErrBusy
	case <-s.h.ctx.Done():
		return nil, stopping()
	}
	l, err := s.segment()
	if err != nil {
		<-s.lendable
		return nil, err
	}
	return l, nil
}

// segment is an idle one, or a new one.
func (s *sharing) segment() (*lent, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.idle); n > 0 {
		l := s.idle[n-1]
		s.idle = s.idle[:n-1]
		return l, nil
	}
	if s.broken != nil && time.Now().Before(s.until) {
		return nil, s.broken
	}
	l := &lent{s: s, loan: handover.Loan{Key: rand.Text(), SlotBlocks: s.slotBlocks}}
	s.broken = s.onDevice(s.h.ctx, func(dev gpu.Device) (err error) {
		if l.memory, err = dev.Alloc(gpu.I32, handover.DeviceSlots, s.slotWords()); err != nil {
			return err
		}
		if l.loan.Shared, err = s.dev.Export(l.memory); err != nil {
			dev.Free(l.memory)
		}
		return err
	})
	if s.broken != nil {
		s.until = time.Now().Add(hostOnlyTime)
		s.h.log.Warn().Err(s.broken).Msg("KV is handed over by way of the host: the device's memory cannot be shared")
		return nil, s.broken
	}
	return l, nil
}

// Loan implements handover.Lent.
func (l *lent) Loan() *handover.Loan { return &l.loan }

// Return implements handover.Lent. The receiver may still read what the next one gets; it would miss its mark.
func (l *lent) Return() {
	l.s.mu.Lock()
	l.s.idle = append(l.s.idle, l)
	l.s.mu.Unlock()
	<-l.s.lendable
}

// Read implements handover.Lent.
func (l *lent) Read(ctx context.Context, o *handover.Offer, first, count, slot int, mark handover.Mark) error {
	blocks, at := l.s.parts(l.memory, slot, count)
	return l.s.h.read(ctx, o, first, count, func(ids []int32) (func() error, error) {
		x := l.s.h.a.exec
		var none handover.Mark
		if err := x.dev.Upload(at, none[:]); err != nil {
			return nil, err
		}
		pool, segment := x.pieces(ids, blocks)
		if err := l.s.dev.Copy(segment, pool); err != nil {
			return nil, err
		}
		if err := x.dev.Upload(at, mark[:]); err != nil {
			return nil, err
		}
		return l.s.markIs(at, mark)
	})
}

// parts are the blocks of a slot of a segment, and its mark.
func (s *sharing) parts(segment gpu.Tensor, slot, count int) (blocks, mark gpu.Tensor) {
	words := segment.Dims[1]
	row := segment.Slice(slot, slot+1).Reshape(words)
	return row.Slice(0, count*s.blockWords), row.Slice(words-handover.MarkBytes/4, words)
}

// markIs starts to read a mark behind what was launched. What it returns waits, and fails if it is another.
func (s *sharing) markIs(at gpu.Tensor, want handover.Mark) (wait func() error, err error) {
	fetched, err := s.h.a.exec.dev.Fetch(at)
	if err != nil {
		return nil, err
	}
	return func() error {
		var got handover.Mark
		if err := fetched.Wait(got[:]); err != nil {
			return err
		}
		if got != want {
			return errors.New("compute: a slot of shared memory on the device does not hold what it was said to: it is another's by now, or released")
		}
		return nil
	}, nil
}

// mapping is a sender's segment, mapped. One connection at a time has it.
type mapping struct {
	memory gpu.Tensor // [DeviceSlots, …] I32
	inUse  bool
	used   time.Time // last
}

// borrower maps for one hand-over. It implements handover.Borrower.
type borrower struct {
	*sharing
	ctx  context.Context
	from schemas.Instance
}

// borrower is nil if the sender's memory was of no use lately.
func (s *sharing) borrower(ctx context.Context, from schemas.Instance) handover.Borrower {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Now().Before(s.refusals[from].until) {
		return nil
	}
	return &borrower{s, ctx, from}
}

// Refused implements handover.Borrower. A reason that is known is not told again.
func (b *borrower) Refused(why error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	level := zerolog.InfoLevel
	if b.refusals[b.from].why == why.Error() {
		level = zerolog.DebugLevel
	}
	b.h.log.WithLevel(level).Err(why).Str("from", string(b.from)).Msg("KV comes by way of the host, not from device to device")
	if len(b.refusals) >= refusalsMax {
		clear(b.refusals)
	}
	b.refusals[b.from] = refusal{why.Error(), time.Now().Add(hostOnlyTime)}
}

// borrowed implements handover.Borrowed.
type borrowed struct {
	*borrower
	m       *mapping
	landing gpu.Tensor
}

// Borrow implements handover.Borrower.
func (b *borrower) Borrow(l *handover.Loan) (handover.Borrowed, error) {
	if l.Shared.DType != gpu.I32 || l.SlotBlocks > b.slotBlocks {
		return nil, fmt.Errorf("a segment of %v in slots of %d blocks; expected %v and at most %d", l.Shared.DType, l.SlotBlocks, gpu.I32, b.slotBlocks)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.retire()
	m, landing := b.mappings[l.Key], gpu.Tensor{}
	if m != nil && (m.inUse || m.memory.Dims[1] != l.Shared.Dims[1]) {
		return nil, errors.New("a segment that another sender has lent")
	}
	if err := b.onDevice(b.ctx, func(dev gpu.Device) (err error) {
		for _, old := range b.leaving {
			dev.Free(old.memory)
		}
		if b.leaving = nil; m == nil {
			memory, err := b.dev.Import(l.Shared)
			if err != nil {
				return err
			}
			m = &mapping{memory: memory}
			b.mappings[l.Key] = m
		}
		if n := len(b.landings); n > 0 {
			landing, b.landings = b.landings[n-1], b.landings[:n-1]
			return nil
		}
		landing, err = dev.Alloc(gpu.I32, b.slotBlocks*b.blockWords)
		return err
	}); err != nil {
		return nil, err
	}
	m.inUse = true
	return &borrowed{b, m, landing}, nil
}

// retire takes mappings out of use that nobody has used for long, were not what they should be, or are too many.
func (s *sharing) retire() {
	oldest := ""
	for key, m := range s.mappings {
		switch {
		case m.inUse:
		case time.Since(m.used) > mappingIdleMax:
			s.leaving = append(s.leaving, m)
			delete(s.mappings, key)
		case oldest == "" || m.used.Before(s.mappings[oldest].used):
			oldest = key
		}
	}
	if len(s.mappings) >= mappingsMax && oldest != "" {
		s.leaving = append(s.leaving, s.mappings[oldest])
		delete(s.mappings, oldest)
	}
}

// Take implements handover.Borrowed.
func (b *borrowed) Take(slot, count int, mark handover.Mark) (gpu.Tensor, error) {
	from, at := b.parts(b.m.memory, slot, count)
	to := b.landing.Slice(0, count*b.blockWords)
	var wait func() error
	err := b.onDevice(b.ctx, func(gpu.Device) (err error) {
		if err = b.dev.Copy([]gpu.Tensor{to}, []gpu.Tensor{from}); err == nil {
			wait, err = b.markIs(at, mark)
		}
		return err
	})
	if err == nil {
		err = wait()
	}
	return to, err
}

// Return implements handover.Borrowed.
func (b *borrowed) Return(good bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.landings = append(b.landings, b.landing)
	b.m.inUse, b.m.used = false, time.Now()
	if !good {
		b.m.used = time.Time{} // it is retired with the next
	}
}

// pieces pairs the blocks' parts of the pools with their parts of memory that holds blocks as export does.
func (x *executor) pieces(blocks []int32, memory gpu.Tensor) (pool, parts []gpu.Tensor) {
	for _, p := range x.blockPools(memory.Bytes() / x.blockBytes()) {
		_ = runs(blocks, func(i, n, b int) error { // nothing fails
			pool = append(pool, p.pool.Slice(b, b+n))
			parts = append(parts, memory.Slice((p.from+i*p.size)/4, (p.from+(i+n)*p.size)/4))
			return nil
		})
	}
	return pool, parts
}
