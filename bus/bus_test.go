package bus

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/schemas"
)

func startNode(t testing.TB, opts Options) *Node {
	t.Helper()
	if opts.Listen == "" {
		opts.Listen = "127.0.0.1:-1"
	}
	opts.Log = zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.WarnLevel)
	n, err := Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

func TestCallReachesTheHandlerInProcessAndOverNATS(t *testing.T) {
	for _, remote := range []bool{false, true} {
		n := startNode(t, Options{RemoteOnly: remote})
		a := NewActor(n, "memory", "m0", "test")
		Handle(a, schemas.Reserve, NewGroup(), func(_ context.Context, req *schemas.ReserveRequest) (*schemas.ReserveReply, error) {
			if req.Step == 0 {
				return nil, schemas.Errorf(schemas.KindInvalid, "reserve", "step is 0").WithParam("step")
			}
			return &schemas.ReserveReply{Step: req.Step}, nil
		})
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		ref := NewRef(n, schemas.Reserve, "m0")
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		reply, err := ref.Call(ctx, &schemas.ReserveRequest{Step: 7})
		if err != nil || reply.Step != 7 {
			t.Fatalf("remote=%v: got %v, %v", remote, reply, err)
		}
		_, err = ref.Call(ctx, &schemas.ReserveRequest{})
		if e := schemas.AsError(err, ""); e == nil || e.Kind != schemas.KindInvalid || e.Param != "step" || e.Actor != "memory.m0" {
			t.Fatalf("remote=%v: got %v", remote, err)
		}
	}
}

func TestJSONRequestFromOutside(t *testing.T) {
	n := startNode(t, Options{})
	a := NewActor(n, "memory", "m0", "test")
	Handle(a, schemas.Reserve, NewGroup(), func(_ context.Context, req *schemas.ReserveRequest) (*schemas.ReserveReply, error) {
		return &schemas.ReserveReply{Step: req.Step}, nil
	})
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	c, err := nats.Connect(n.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m, err := c.Request("inf.v1.memory.reserve", []byte(`{"step":9,"seq":["0000000000000100"]}`), time.Second)
	if err != nil || len(m.Data) == 0 || m.Data[0] != '{' {
		t.Fatalf("got %s, %v", m.Data, err)
	}
	t.Logf("%s", m.Data)
}

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
