package compute

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/gputest"
	"github.com/troupe-engine/troupe/internal/handover"
	"github.com/troupe-engine/troupe/schemas"
)

// pairOf starts two replicas on devices that share memory, unless change says otherwise, with segments of two blocks a slot. p
// holds blocks 3, 4, … of a prefix, which d puts into 20, 21, ….
func pairOf(t *testing.T, kv gpu.DType, change func(p, d *gputest.Sharing)) (p, d *side, pd, dd *gputest.Sharing) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("SKIPPED: segments are agreed on over a socket of Linux")
	}
	pd, dd = &gputest.Sharing{Device: openCPU(t), Process: 1, Place: "gpu"}, &gputest.Sharing{Device: openCPU(t), Process: 2, Place: "gpu"}
	if change != nil {
		change(pd, dd)
	}
	node := startNode(t)
	p, d = startSideOn(t, pd, node, "p", kv, Handover{Phase: schemas.PhasePrefill}), startSideOn(t, dd, node, "d", kv, Handover{Phase: schemas.PhaseDecode})
	for _, s := range []*side{p, d} {
		s.exchange.shares.slotBlocks = 2
	}
	p.find = func() *schemas.KVFindReply {
		r := &schemas.KVFindReply{}
		for i := range int32(9) {
			r.Blocks, r.Serials = append(r.Blocks, 3+i), append(r.Serials, uint64(i))
		}
		return r
	}
	d.adopt = func(r *schemas.KVAdoptRequest) (list schemas.I32) {
		for i := range r.Count {
			list = append(list, 20+r.First+i)
		}
		return list
	}
	return p, d, pd, dd
}

// handOver fetches so many blocks, and compares them.
func handOver(t *testing.T, p, d *side, blocks int) (*schemas.KVFetchReply, error) {
	t.Helper()
	reply, err := fetchFrom(t, d.actor.Node(), blocks)
	if err == nil && reply.Blocks != int32(blocks) {
		t.Errorf("%d of %d blocks came", reply.Blocks, blocks)
	}
	for i := range int32(blocks) {
		if err == nil && !bytes.Equal(d.block(t, 20+i), p.block(t, 3+i)) {
			t.Errorf("block %d is not what %d was", 20+i, 3+i)
		}
	}
	return reply, err
}

// Blocks go from device to device, in as many frames as it takes; a segment is made once and mapped once.
func TestBlocksStayOnDevices(t *testing.T) {
	for _, kv := range []gpu.DType{gpu.F32, gpu.BF16, gpu.I8} {
		t.Run(kv.String(), func(t *testing.T) {
			p, d, pd, dd := pairOf(t, kv, nil)
			for _, blocks := range []int{9, 1, 5} {
				reply, err := handOver(t, p, d, blocks)
				if err != nil || reply.Way != handover.WayDevice {
					t.Fatalf("%+v, %v", reply, err)
				}
			}
			if made, mapped := pd.Count("export"), dd.Count("import"); made > 2 || mapped != made { // the sender may not have seen yet that the first has ended
				t.Errorf("%d segments were made, and %d mapped", made, mapped)
			}
		})
	}
	// Several at once have a segment each, or wait for one, or take what the host has.
	p, d, pd, dd := pairOf(t, gpu.F32, nil)
	var running sync.WaitGroup
	for range 2 * fetchesMax {
		running.Go(func() {
			if reply, err := fetchFrom(t, d.actor.Node(), 9); err != nil || reply.Way == handover.WayTCP {
				t.Errorf("%+v, %v", reply, err)
			}
		})
	}
	running.Wait()
	if reply, err := handOver(t, p, d, 9); err != nil || reply.Way != handover.WayDevice {
		t.Errorf("%+v, %v", reply, err)
	}
	if made, mapped := pd.Count("export"), dd.Count("import"); made > segmentsMax || mapped != made {
		t.Errorf("%d segments were made, and %d mapped", made, mapped)
	}
}

// Where memory cannot be shared, blocks come by way of the host, and it is not tried again with each.
func TestBlocksByWayOfTheHost(t *testing.T) {
	failing := func(call string, from int) func(string) error {
		var calls atomic.Int32
		return func(c string) error {
			if c == call && int(calls.Add(1)) >= from {
				return fmt.Errorf("%w: no %s today", gpu.ErrNotSupported, call)
			}
			return nil
		}
	}
	for name, change := range map[string]func(p, d *gputest.Sharing){
		"cannot be exported":  func(p, _ *gputest.Sharing) { p.Fails = failing("export", 1) },
		"cannot be mapped":    func(_, d *gputest.Sharing) { d.Fails = failing("import", 1) },
		"another GPU":         func(p, _ *gputest.Sharing) { p.Place = "elsewhere" },
		"the same process":    func(p, d *gputest.Sharing) { p.Process = d.Process },
		"cannot be read":      func(_, d *gputest.Sharing) { d.Fails = failing("copy", 1) },
		"cannot be read soon": func(_, d *gputest.Sharing) { d.Fails = failing("copy", 5) },
	} {
		t.Run(name, func(t *testing.T) {
			p, d, pd, dd := pairOf(t, gpu.F32, change)
			made := 0
			for i := range 3 {
				reply, err := fetchFrom(t, d.actor.Node(), 9)
				if err != nil || reply.Way != handover.WayShared || reply.Blocks < 9 {
					t.Fatalf("%+v, %v", reply, err)
				}
				if i == 0 {
					made = pd.Count("export") + dd.Count("import")
				}
			}
			for i := range int32(9) {
				if !bytes.Equal(d.block(t, 20+i), p.block(t, 3+i)) {
					t.Errorf("block %d is not what %d was", 20+i, 3+i)
				}
			}
			if pd.Count("export")+dd.Count("import") != made {
				t.Error("it was tried again")
			}
			for _, x := range []*sharing{p.exchange.shares, d.exchange.shares} { // but it is, later
				x.mu.Lock()
				x.until, x.refusals = time.Time{}, map[schemas.Instance]refusal{}
				x.mu.Unlock()
			}
			pd.Fails, dd.Fails, dd.Reaches, dd.Process = nil, nil, []string{"elsewhere"}, 3
			if reply, err := handOver(t, p, d, 9); err != nil || reply.Way != handover.WayDevice {
				t.Errorf("%+v, %v", reply, err)
			}
		})
	}
	t.Run("another GPU that it reaches", func(t *testing.T) {
		p, d, _, _ := pairOf(t, gpu.F32, func(p, d *gputest.Sharing) { p.Place, d.Reaches = "elsewhere", []string{"elsewhere"} })
		if reply, err := handOver(t, p, d, 9); err != nil || reply.Way != handover.WayDevice {
			t.Errorf("%+v, %v", reply, err)
		}
	})
	// Only one side shares memory.
	for _, shares := range []schemas.Instance{"p", "d"} {
		node := startNode(t)
		on := func(name schemas.Instance) gpu.Device {
			if name == shares {
				return &gputest.Sharing{Device: openCPU(t), Process: 1, Place: "gpu"}
			}
			return openCPU(t)
		}
		p, d := startSideOn(t, on("p"), node, "p", gpu.F32, Handover{Phase: schemas.PhasePrefill}), startSideOn(t, on("d"), node, "d", gpu.F32, Handover{Phase: schemas.PhaseDecode})
		p.find = func() *schemas.KVFindReply {
			return &schemas.KVFindReply{Blocks: schemas.I32{3}, Serials: schemas.U64{1}}
		}
		d.adopt = func(*schemas.KVAdoptRequest) schemas.I32 { return schemas.I32{20} }
		if reply, err := handOver(t, p, d, 1); err != nil || runtime.GOOS == "linux" && reply.Way != handover.WayShared {
			t.Errorf("only %s shares: %+v, %v", shares, reply, err)
		}
	}
}

// A segment that becomes another's while it is read gives nothing away: what is read is not taken.
func TestSegmentsThatChangeMeanwhile(t *testing.T) {
	p, d, _, dd := pairOf(t, gpu.F32, nil)
	if _, err := handOver(t, p, d, 2); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	dd.Meanwhile = func() {
		once.Do(func() { // as if the sender had given the receiver up, and the segment to the next
			s := p.exchange.shares
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, m := range d.exchange.shares.mappings {
				for slot := range handover.DeviceSlots {
					blocks, mark := s.parts(m.memory, slot, 2)
					for _, part := range []gpu.Tensor{mark, blocks} {
						if err := dd.Upload(part, bytes.Repeat([]byte{7}, part.Bytes())); err != nil {
							t.Error(err)
						}
					}
				}
			}
		})
	}
	reply, err := handOver(t, p, d, 9)
	if err != nil || reply.Way != handover.WayShared {
		t.Errorf("%+v, %v", reply, err)
	}
}

// The sender ends while the receiver copies. What came before stays, nothing else comes, and the next sender is served.
func TestTheSenderEndsMeanwhile(t *testing.T) {
	p, d, _, dd := pairOf(t, gpu.F32, nil)
	before := make([][]byte, 40)
	for i := range before {
		before[i] = d.block(t, int32(i))
	}
	var copies atomic.Int32
	dd.Meanwhile = func() {
		if copies.Add(1) == 3 {
			p.stop()
		}
	}
	_, err := handOver(t, p, d, 9)
	if err == nil {
		t.Fatal("it was not noticed")
	}
	for i := range int32(40) {
		want := before[i]
		if i >= 20 && i < 24 { // two frames came
			continue
		}
		if !bytes.Equal(d.block(t, i), want) {
			t.Errorf("block %d changed", i)
		}
	}
	d.exchange.shares.mu.Lock()
	d.exchange.shares.refusals = map[schemas.Instance]refusal{}
	d.exchange.shares.mu.Unlock()
	dd.Meanwhile = nil
	next := startSideOn(t, &gputest.Sharing{Device: openCPU(t), Process: 5, Place: "gpu"}, d.actor.Node(), "p", gpu.F32, Handover{Phase: schemas.PhasePrefill})
	next.exchange.shares.slotBlocks, next.find = 2, p.find
	if reply, err := handOver(t, next, d, 9); err != nil || reply.Way != handover.WayDevice {
		t.Errorf("%+v, %v", reply, err)
	}
}

// Receivers that hang or die get no segment for good.
func TestReceiversThatDie(t *testing.T) {
	p, d, _, _ := pairOf(t, gpu.F32, nil)
	s := p.exchange.shares
	var held []handover.Lent
	for range segmentsMax {
		l, err := s.Lend([]string{"gpu"})
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, l)
	}
	if reply, err := handOver(t, p, d, 9); err != nil || reply.Way != handover.WayShared {
		t.Errorf("with all segments lent: %+v, %v", reply, err)
	}
	for _, l := range held {
		l.Return()
	}
	ctx, cancel := context.WithCancel(t.Context())
	offer, err := p.exchange.offer(ctx, &schemas.KVOfferRequest{Tokens: make(schemas.I32, 9*blockSizeTest), Identity: mustKnow(t, p)})
	if err != nil {
		t.Fatal(err)
	}
	client := p.exchange.client
	client.Borrower = d.exchange.shares.borrower(ctx, "p")
	if way, err := client.Fetch(ctx, offer, func(int, int, handover.Payload) error { // dies in the middle
		cancel()
		<-ctx.Done()
		return ctx.Err()
	}); way != handover.WayDevice || !errors.Is(err, context.Canceled) {
		t.Errorf("%s, %v", way, err)
	}
	for end := time.Now().Add(time.Minute); len(s.lendable) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the segment is not returned")
		}
	}
	if reply, err := handOver(t, p, d, 9); err != nil || reply.Way != handover.WayDevice {
		t.Errorf("%+v, %v", reply, err)
	}
}

func mustKnow(t testing.TB, s *side) string {
	t.Helper()
	name, err := s.exchange.known()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// Mappings of senders that are gone do not pile up.
func TestMappingsRetire(t *testing.T) {
	_, d, pd, dd := pairOf(t, gpu.F32, nil)
	s := d.exchange.shares
	loan := func(key string) *handover.Loan {
		memory, err := pd.Device.Alloc(gpu.I32, handover.DeviceSlots, s.slotWords())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pd.Free(memory) })
		shared, err := pd.Export(memory)
		if err != nil {
			t.Fatal(err)
		}
		return &handover.Loan{Key: key, SlotBlocks: 2, Shared: shared}
	}
	tensors := dd.Memory().Tensors
	b := s.borrower(t.Context(), "p")
	for i := range mappingsMax + 5 {
		m, err := b.Borrow(loan(fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		m.Return(true)
	}
	if extra := dd.Memory().Tensors - tensors; extra != mappingsMax+1 || len(s.mappings) != mappingsMax { // and one landing
		t.Errorf("%d mappings, %d tensors", len(s.mappings), extra)
	}
	first := loan("twice")
	m, err := b.Borrow(first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Borrow(first); err == nil || !strings.Contains(err.Error(), "another sender") {
		t.Errorf("one segment for two: %v", err)
	}
	m.Return(false)
	for _, m := range s.mappings {
		m.used = time.Now().Add(-2 * mappingIdleMax)
	}
	if m, err = b.Borrow(loan("last")); err != nil {
		t.Fatal(err)
	}
	m.Return(true)
	if extra := dd.Memory().Tensors - tensors; extra != 2 {
		t.Errorf("%d tensors are left of those that were not used for long", extra)
	}
	for name, spoil := range map[string]func(l *handover.Loan){
		"of another type":      func(l *handover.Loan) { l.Shared.DType = gpu.F32 },
		"larger slots":         func(l *handover.Loan) { l.SlotBlocks = 3 },
		"of nothing":           func(l *handover.Loan) { l.Shared.Handle = []byte("forged") },
		"of its own process":   func(l *handover.Loan) { l.Shared.Process = dd.Process },
		"beyond the memory":    func(l *handover.Loan) { l.Shared.ByteOffset = 8 },
		"of another shape":     func(l *handover.Loan) { l.Shared.Dims = []int{2, 1 << 40} },
		"with another's name":  func(l *handover.Loan) { l.Key, l.Shared.Dims = "last", []int{2, 5} },
		"from a far-off place": func(l *handover.Loan) { l.Shared.Device = strings.Repeat("x", 500) },
	} {
		l := *loan("spoilt " + name)
		l.Shared.Dims = slices.Clone(l.Shared.Dims)
		spoil(&l)
		if _, err := b.Borrow(&l); err == nil {
			t.Errorf("a segment %s was mapped", name)
		}
	}
	if extra := dd.Memory().Tensors - tensors; extra != 2 {
		t.Errorf("%d tensors are left of what was refused", extra)
	}
}
