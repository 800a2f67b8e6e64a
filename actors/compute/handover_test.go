package compute

import (
	"bytes"
	"context"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
	"github.com/troupe-engine/troupe/internal/handover"
	"github.com/troupe-engine/troupe/schemas"
)

const blockSizeTest = 4

// side is a computation manager with a memory manager that says what a test wants.
type side struct {
	*Actor
	dev   gpu.Device
	find  func() *schemas.KVFindReply
	finds atomic.Int32
	adopt func(*schemas.KVAdoptRequest) schemas.I32 // blocks for what is on offer
	count uint64                                    // of adoptions
	stop  func()
}

func startSide(t *testing.T, node *bus.Node, name schemas.Instance, kv gpu.DType, h Handover) *side {
	t.Helper()
	return startSideOn(t, openCPU(t), node, name, kv, h)
}

func openCPU(t *testing.T) gpu.Device {
	t.Helper()
	dev, err := cpu.Open(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	return dev
}

func startSideOn(t *testing.T, dev gpu.Device, node *bus.Node, name schemas.Instance, kv gpu.DType, h Handover) *side {
	t.Helper()
	seed := uint64(1)
	m, err := model.Load(dev, fstest.MapFS{"config.json": {Data: []byte(`{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300,
		"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
		"max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": false}`)}},
		model.Options{SequencesMax: 2, TokensPerStepMax: 8, BlockSize: blockSizeTest, KVBlocks: 40, KV: kv, RandomSeed: &seed}, nil)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.NewChaCha8([32]byte([]byte(strings.Repeat(string(name), 32)[:32])))
	for _, pool := range m.KVPools() {
		content := make([]byte, pool.Bytes())
		_, _ = rng.Read(content) // never fails
		if err := dev.Upload(pool, content); err != nil {
			t.Fatal(err)
		}
	}
	return startSideWith(t, dev, m, node, name, h)
}

// startSideWith owns the device and the model.
func startSideWith(t testing.TB, dev gpu.Device, m *model.Model, node *bus.Node, name schemas.Instance, h Handover) *side {
	t.Helper()
	s := &side{dev: dev, find: func() *schemas.KVFindReply { return &schemas.KVFindReply{} }}
	h.Listen = "127.0.0.1:0"
	if h.Identity == nil {
		h.Identity = func(context.Context) (string, error) { return "m", nil }
	}
	group := bus.NewGroup()
	s.Actor = New(node, group, Config{Replica: name, Handover: &h}, dev, m, zerolog.Nop())
	memory := bus.NewActor(node, "memory", name, "Says what a test wants.")
	fill := bus.NewRef(node, schemas.ImportKV, name)
	bus.Handle(memory, schemas.FindKV, group, func(_ context.Context, req *schemas.KVFindRequest) (*schemas.KVFindReply, error) {
		s.finds.Add(1)
		r := *s.find()
		n := min(len(r.Blocks), len(req.Tokens)/blockSizeTest)
		r.Blocks, r.Serials = r.Blocks[:n], r.Serials[:n]
		return &r, nil
	})
	bus.Handle(memory, schemas.AdoptKV, group, func(ctx context.Context, r *schemas.KVAdoptRequest) (*schemas.KVAdoptReply, error) {
		s.count++
		_, err := fill.Call(ctx, &schemas.KVImportRequest{Ticket: r.Ticket, Blocks: s.adopt(r), Serial: s.count})
		return &schemas.KVAdoptReply{Held: r.First + r.Count, Adopted: r.Count}, err
	})
	for _, start := range []func() error{memory.Start, s.Start} {
		if err := start(); err != nil {
			t.Fatal(err)
		}
	}
	s.stop = sync.OnceFunc(func() {
		s.Stop()
		memory.Stop()
	})
	t.Cleanup(func() {
		s.stop()
		if err := m.Close(); err != nil {
			t.Error(err)
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	if s.exchange != nil {
		for _, err := s.exchange.known(); err != nil; _, err = s.exchange.known() {
			time.Sleep(time.Millisecond)
		}
	}
	return s
}

// block is what one holds, over all layers.
func (s *side) block(t *testing.T, b int32) []byte {
	t.Helper()
	out := make([]byte, s.exec.blockBytes())
	if err := s.exportAfter(0, 0, func() (func() error, error) { return s.exec.export([]int32{b}, out) }); err != nil {
		t.Fatal(err)
	}
	return out
}

func startNode(t *testing.T) *bus.Node {
	t.Helper()
	node, err := bus.Start(bus.Options{Listen: "none", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Close)
	return node
}

func fetchFrom(t *testing.T, node *bus.Node, blocks int) (*schemas.KVFetchReply, error) {
	t.Helper()
	return bus.NewRef(node, schemas.FetchKV, "d").Call(t.Context(), &schemas.KVFetchRequest{From: "p", Tokens: make(schemas.I32, blocks*blockSizeTest)})
}

// Keys and values of every type arrive in the blocks that memory chooses, wherever they lay, and nothing else changes.
func TestBlocksArrive(t *testing.T) {
	for _, kv := range []gpu.DType{gpu.F32, gpu.BF16, gpu.I8} {
		t.Run(kv.String(), func(t *testing.T) {
			node := startNode(t)
			p, d := startSide(t, node, "p", kv, Handover{Phase: schemas.PhasePrefill}), startSide(t, node, "d", kv, Handover{Phase: schemas.PhaseDecode})
			from, to := schemas.I32{7, 8, 9, 3, 39, 0}, schemas.I32{5, 6, -1, 20, 1, 2}
			p.find = func() *schemas.KVFindReply {
				return &schemas.KVFindReply{Blocks: from, Serials: schemas.U64{1, 2, 3, 4, 5, 6}}
			}
			d.adopt = func(*schemas.KVAdoptRequest) schemas.I32 { return to }
			before := d.block(t, 30)
			reply, err := fetchFrom(t, node, len(from))
			if err != nil || reply.Blocks != int32(len(from)) || reply.Bytes != int64(len(from)*p.exec.blockBytes()) || runtime.GOOS == "linux" && reply.Way != handover.WayShared {
				t.Fatalf("%+v, %v", reply, err)
			}
			for i, b := range to {
				if b >= 0 && !bytes.Equal(d.block(t, b), p.block(t, from[i])) {
					t.Errorf("block %d is not what %d was", b, from[i])
				}
			}
			if !bytes.Equal(d.block(t, 30), before) {
				t.Error("a block that was not named changed")
			}
		})
	}
}

// A block that is given to another while it is copied is copied again, or not handed over.
func TestBlocksThatChangeMeanwhile(t *testing.T) {
	node := startNode(t)
	p, d := startSide(t, node, "p", gpu.F32, Handover{Phase: schemas.PhasePrefill}), startSide(t, node, "d", gpu.F32, Handover{Phase: schemas.PhaseDecode})
	d.adopt = func(*schemas.KVAdoptRequest) schemas.I32 { return schemas.I32{11, 12} }
	at := func(serial uint64, blocks ...int32) *schemas.KVFindReply {
		return &schemas.KVFindReply{Blocks: blocks, Serials: schemas.U64{1, serial}[:len(blocks)]}
	}
	for name, c := range map[string]struct {
		answers []*schemas.KVFindReply // the first is the offer's; the last is repeated
		source  int32                  // of the second block; -1: nothing comes
		finds   int32
	}{
		"another name":  {[]*schemas.KVFindReply{at(2, 4, 5), at(2, 4, 5), at(3, 4, 5)}, 5, 5},
		"another place": {[]*schemas.KVFindReply{at(2, 4, 5), at(2, 4, 5), at(2, 4, 6)}, 6, 5},
		"another epoch": {[]*schemas.KVFindReply{at(2, 4, 5), at(2, 4, 5), {Epoch: 1, Blocks: schemas.I32{4, 5}, Serials: schemas.U64{1, 2}}, at(2, 4, 5)}, 5, 5},
		"gone":          {[]*schemas.KVFindReply{at(2, 4, 5), at(2, 4)}, -1, 2},
		"gone in time":  {[]*schemas.KVFindReply{at(2, 4, 5), at(2, 4, 5), at(2, 4)}, -1, 4},
	} {
		left := c.answers
		p.find = func() *schemas.KVFindReply {
			answer := left[0]
			if len(left) > 1 {
				left = left[1:]
			}
			return answer
		}
		p.finds.Store(0)
		_, err := fetchFrom(t, node, 2)
		if finds := p.finds.Load(); finds != c.finds || (err == nil) != (c.source >= 0) {
			t.Errorf("%s: %d questions, want %d; %v", name, finds, c.finds, err)
		}
		if err == nil && !bytes.Equal(d.block(t, 12), p.block(t, c.source)) {
			t.Errorf("%s: the second block is not the last that memory named", name)
		}
	}
}

// The blocks of a step that failed have names until the next epoch begins; nothing of that epoch is handed over.
func TestBlocksOfFailedSteps(t *testing.T) {
	node := startNode(t)
	p, d := startSide(t, node, "p", gpu.F32, Handover{Phase: schemas.PhasePrefill}), startSide(t, node, "d", gpu.F32, Handover{Phase: schemas.PhaseDecode})
	d.adopt = func(*schemas.KVAdoptRequest) schemas.I32 { return schemas.I32{1} }
	run := func(plan *schemas.StepPlan) {
		t.Helper()
		if _, err := bus.NewRef(node, schemas.Execute, "p").Call(t.Context(), plan); err != nil {
			t.Fatal(err)
		}
		p.find = func() *schemas.KVFindReply {
			return &schemas.KVFindReply{Epoch: plan.Epoch, Step: plan.Step, Blocks: schemas.I32{3}, Serials: schemas.U64{1}}
		}
	}
	run(&schemas.StepPlan{Epoch: 5, Step: 1, Seq: schemas.U64{256}, Slot: schemas.I32{99}}) // columns of different lengths, and no such slot
	if _, err := fetchFrom(t, node, 1); err == nil || !strings.Contains(err.Error(), "epoch 5 failed") {
		t.Errorf("handed over: %v", err)
	}
	run(&schemas.StepPlan{Epoch: 6, Step: 1, Seq: schemas.U64{256}, Slot: schemas.I32{0}, Start: schemas.I32{0}, Count: schemas.I32{1}, Known: schemas.I32{1}, BlockFrom: schemas.I32{0},
		BlockCount: schemas.I32{1}, Blocks: schemas.I32{20}, Sample: schemas.U8{0}, Tokens: schemas.I32{7}})
	if _, err := fetchFrom(t, node, 1); err != nil {
		t.Errorf("the next epoch: %v", err)
	}
}

// Only replicas of one model, of the same weights, numerics and layout, hand over.
func TestOnlyTheSameModel(t *testing.T) {
	node := startNode(t)
	d := startSide(t, node, "d", gpu.F32, Handover{Phase: schemas.PhaseDecode})
	d.adopt = func(*schemas.KVAdoptRequest) schemas.I32 { return schemas.I32{1} }
	for name, c := range map[string]struct {
		kv       gpu.DType
		identity string
		same     bool
	}{"weights": {gpu.F32, "other", false}, "types": {gpu.BF16, "m", false}, "the same": {gpu.F32, "m", true}} {
		t.Run(name, func(t *testing.T) {
			p := startSide(t, node, "p", c.kv, Handover{Phase: schemas.PhasePrefill, Identity: func(context.Context) (string, error) { return c.identity, nil }})
			p.find = func() *schemas.KVFindReply {
				return &schemas.KVFindReply{Blocks: schemas.I32{3}, Serials: schemas.U64{1}}
			}
			if _, err := fetchFrom(t, node, 1); (err == nil) != c.same {
				t.Errorf("handed over: %v", err)
			}
		})
	}
}

// Blocks are filled between the step that memory has granted last and the next, and in the order in which memory adopts: a message
// that was overtaken names blocks that may be another's by now.
func TestFillsThatComeTooLate(t *testing.T) {
	d := startSide(t, startNode(t), "d", gpu.F32, Handover{Phase: schemas.PhaseDecode})
	payload := handover.Payload{Host: make([]byte, d.exec.blockBytes())}
	d.epoch, d.step = 7, 3
	for _, c := range []struct {
		name   string
		req    schemas.KVImportRequest
		queued bool
	}{
		{"in time", schemas.KVImportRequest{Epoch: 7, Step: 3, Serial: 2}, true},
		{"overtaken", schemas.KVImportRequest{Epoch: 7, Step: 3, Serial: 1}, false},
		{"before its step", schemas.KVImportRequest{Epoch: 7, Step: 4, Serial: 3}, false},
		{"after a later step", schemas.KVImportRequest{Epoch: 7, Step: 2, Serial: 3}, false},
		{"of an epoch before", schemas.KVImportRequest{Epoch: 6, Step: 3, Serial: 3}, false},
		{"of the next epoch, before its first step", schemas.KVImportRequest{Epoch: 8, Serial: 1}, true},
		{"of the next epoch, after its first step", schemas.KVImportRequest{Epoch: 8, Step: 1, Serial: 2}, false},
		{"too many blocks", schemas.KVImportRequest{Epoch: 8, Serial: 2, Blocks: schemas.I32{1, 2}}, false},
		{"a block that is not there", schemas.KVImportRequest{Epoch: 8, Serial: 2, Blocks: schemas.I32{40}}, false},
	} {
		ticket, s := d.exchange.stage(payload, 1)
		c.req.Ticket = ticket
		_, err := d.exchange.fill(t.Context(), &c.req)
		if s.queued != c.queued || (err == nil) != c.queued {
			t.Errorf("%s: queued %v, %v", c.name, s.queued, err)
		}
		if _, again := d.exchange.fill(t.Context(), &c.req); (again == nil) != c.queued {
			t.Errorf("%s, again: %v", c.name, again)
		}
		if err := d.exchange.unstage(ticket, s); err != nil {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := d.exchange.fill(t.Context(), &c.req); err == nil {
			t.Errorf("%s: filled after its end", c.name)
		}
	}
}

// A device that cannot take blocks which memory has told of fails the steps of that epoch: the next one knows nothing of them.
func TestBlocksThatCannotBeFilled(t *testing.T) {
	x := &executor{model: nil}
	x.spoil(5, context.DeadlineExceeded)
	x.tables = testTables()
	for epoch, fails := range map[schemas.Epoch]bool{4: true, 5: true} {
		p := twoRows()
		p.Epoch = epoch
		if r := x.finish(x.start(p)); (r.Error != nil && r.Error.Kind == schemas.KindTimeout) != fails {
			t.Errorf("epoch %d: %v", epoch, r.Error)
		}
	}
}
