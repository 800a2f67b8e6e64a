package bus

import (
	"context"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

func BenchmarkLocalCall(b *testing.B) {
	n := startNode(b, Options{})
	a := NewActor(n, "memory", "m0", "test")
	reply := &schemas.ReserveReply{}
	Handle(a, schemas.Reserve, NewGroup(), func(context.Context, *schemas.ReserveRequest) (*schemas.ReserveReply, error) {
		return reply, nil
	})
	if err := a.Start(); err != nil {
		b.Fatal(err)
	}
	ref := NewRef(n, schemas.Reserve, "m0")
	req := &schemas.ReserveRequest{Step: 1}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ref.Call(context.Background(), req); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStepPlanCodec(b *testing.B) {
	const seqs, blocks = 64, 32
	p := schemas.StepPlan{Epoch: 1, Step: 1}
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
	b.ReportAllocs()
	for b.Loop() {
		body, err := Marshal(&p)
		if err != nil {
			b.Fatal(err)
		}
		var q schemas.StepPlan
		if err := Unmarshal(body, &q); err != nil {
			b.Fatal(err)
		}
	}
}
