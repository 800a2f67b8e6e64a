package bus

import (
	"context"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// benchPlan is a step of 64 sequences that each get a whole table of 32 blocks: the largest usual plan.
func benchPlan() *schemas.StepPlan {
	const seqs, blocks = 64, 32
	p := &schemas.StepPlan{Epoch: 1, Step: 1}
	for i := range seqs {
		p.Seq = append(p.Seq, uint64(i)<<8)
		p.Slot = append(p.Slot, int32(i))
		p.Start = append(p.Start, 511)
		p.Count = append(p.Count, 1)
		p.Known = append(p.Known, 0)
		p.Sample = append(p.Sample, 1)
		p.BlockFrom = append(p.BlockFrom, 0)
		p.BlockCount = append(p.BlockCount, blocks)
		for j := range blocks {
			p.Blocks = append(p.Blocks, int32(i*blocks+j))
		}
	}
	return p
}

// benchCall measures a call of schemas.Execute, with a pause before each when cold.
func benchCall(b *testing.B, opts Options, mb Mailbox, plan *schemas.StepPlan, pause time.Duration, tap string) {
	ref := benchTarget(b, opts, mb)
	n := ref.node
	if tap != "" {
		listener, err := n.Connection("listener")
		if err != nil {
			b.Fatal(err)
		}
		defer listener.Close()
		if _, err := listener.SubscribeSync(tap); err != nil {
			b.Fatal(err)
		}
		if err := listener.Flush(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportAllocs()
	var busy time.Duration
	for b.Loop() {
		var began time.Time
		if pause > 0 {
			time.Sleep(pause)
			began = time.Now()
		}
		if _, err := ref.Call(context.Background(), plan); err != nil {
			b.Fatal(err)
		}
		if pause > 0 {
			busy += time.Since(began)
		}
	}
	if pause > 0 {
		b.ReportMetric(float64(busy.Nanoseconds())/float64(b.N), "busy-ns/op")
	}
}

func BenchmarkLocalCall(b *testing.B) {
	small := &schemas.StepPlan{Epoch: 1, Step: 1}
	b.Run("group", func(b *testing.B) { benchCall(b, Options{}, NewGroup(), small, 0, "") })
	b.Run("group/tap", func(b *testing.B) { benchCall(b, Options{}, NewGroup(), small, 0, "tap.>") })
	b.Run("loop", func(b *testing.B) {
		l := NewLoop(LoopQueueMax)
		defer l.Close()
		benchCall(b, Options{}, l, small, 0, "")
	})
	b.Run("pool", func(b *testing.B) { benchCall(b, Options{}, NewPool(4), small, 0, "") })
}

// BenchmarkHop is a hop in process without faults, after faults, and beside faults of other messages.
func BenchmarkHop(b *testing.B) {
	for _, c := range []struct {
		name   string
		toggle func(n *Node) error
	}{
		{"off", func(*Node) error { return nil }},
		{"off again", func(n *Node) error {
			if err := n.SetFaults(faultsOf(b, 1, "drop inf.v1.>")); err != nil {
				return err
			}
			return n.SetFaults(nil)
		}},
		{"on elsewhere", func(n *Node) error { return n.SetFaults(faultsOf(b, 1, "drop inf.v1.memory.>")) }},
	} {
		b.Run(c.name, func(b *testing.B) {
			ref := benchTarget(b, Options{}, NewGroup())
			if err := c.toggle(ref.node); err != nil {
				b.Fatal(err)
			}
			plan := &schemas.StepPlan{Epoch: 1, Step: 1}
			b.ReportAllocs()
			for b.Loop() {
				if _, err := ref.Call(context.Background(), plan); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// benchTarget starts what benchmarks call.
func benchTarget(b testing.TB, opts Options, mb Mailbox) *Ref[schemas.StepPlan, schemas.PlanReply] {
	n := startNode(b, opts)
	a := NewActor(n, "compute", "c0", "bench")
	reply := &schemas.PlanReply{Queued: 1}
	Handle(a, schemas.Execute, mb, func(context.Context, *schemas.StepPlan) (*schemas.PlanReply, error) { return reply, nil })
	if err := a.Start(); err != nil {
		b.Fatal(err)
	}
	return NewRef(n, schemas.Execute, "c0")
}

func BenchmarkNATSCall(b *testing.B) {
	for name, plan := range map[string]*schemas.StepPlan{"small": {Epoch: 1, Step: 1}, "64x32": benchPlan()} {
		b.Run(name+"/hot", func(b *testing.B) { benchCall(b, Options{RemoteOnly: true}, NewGroup(), plan, 0, "") })
		b.Run(name+"/cold", func(b *testing.B) { benchCall(b, Options{RemoteOnly: true}, NewGroup(), plan, 2*time.Millisecond, "") })
	}
}

func BenchmarkStepPlanCodec(b *testing.B) {
	p := benchPlan()
	wire, err := Marshal(p)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("encode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Marshal(p); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("decode", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			var q schemas.StepPlan
			if err := Unmarshal(wire, &q); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("both", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			body, err := Marshal(p)
			if err != nil {
				b.Fatal(err)
			}
			var q schemas.StepPlan
			if err := Unmarshal(body, &q); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func TestLocalCallAllocatesNothing(t *testing.T) {
	ref, plan := benchTarget(t, Options{}, NewGroup()), &schemas.StepPlan{}
	if err := ref.node.SetFaults(faultsOf(t, 1, "drop inf.v1.>")); err != nil {
		t.Fatal(err)
	}
	if err := ref.node.SetFaults(nil); err != nil { // what was switched off costs nothing, either
		t.Fatal(err)
	}
	allocations := testing.AllocsPerRun(1000, func() {
		if _, err := ref.Call(context.Background(), plan); err != nil {
			t.Fatal(err)
		}
	})
	if allocations >= 1 && !raceEnabled { // the race detector empties pools at random
		t.Errorf("%v allocations for a call", allocations)
	}
}
