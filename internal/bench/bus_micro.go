package bench

import (
	"context"
	"reflect"
	"runtime"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// Hop is the cost of one operation. Times are medians.
type Hop struct {
	Name   string   `json:"name"`
	Doc    string   `json:"doc"`
	Us     float64  `json:"us"`
	Allocs float64  `json:"allocs"`
	Target *float64 `json:"target,omitempty"` // of Allocs for the local hop, else of Us; at most
	Passed *bool    `json:"passed,omitempty"`
}

const (
	hopSamples  = 31
	coldGap     = 2 * time.Millisecond // as between the messages of a step loop
	coldSamples = 200
	planRows    = 64
	planBlocks  = 32 // per row
)

// measureHops times single operations of the bus.
func measureHops(ctx context.Context, progress func(string, ...any)) ([]Hop, error) {
	progress("single hops")
	var hops []Hop
	for _, remote := range []bool{false, true} {
		list, err := measureCalls(ctx, remote)
		if err != nil {
			return nil, err
		}
		hops = append(hops, list...)
	}
	codec, err := measureCodec()
	if err != nil {
		return nil, err
	}
	return append(hops, codec), nil
}

func measureCalls(ctx context.Context, remote bool) ([]Hop, error) {
	node, err := bus.Start(bus.Options{Listen: "none", RemoteOnly: remote, Log: zerolog.Nop()})
	if err != nil {
		return nil, err
	}
	defer node.Close()
	actor := bus.NewActor(node, "memory", replicaName, "Answers at once.")
	reply := &schemas.ReserveReply{Step: 1}
	bus.Handle(actor, schemas.Reserve, bus.NewGroup(), func(context.Context, *schemas.ReserveRequest) (*schemas.ReserveReply, error) {
		return reply, nil
	})
	if err := actor.Start(); err != nil {
		return nil, err
	}
	defer actor.Stop()
	ref, req := bus.NewRef(node, schemas.Reserve, replicaName), &schemas.ReserveRequest{Step: 1}
	var failed error
	call := func() {
		if _, err := ref.Call(ctx, req); err != nil {
			failed = err
		}
	}
	name, doc, repeat := "local hop", "request and reply in one process", 20000
	if remote {
		name, doc, repeat = "NATS hop", "request and reply over the embedded server", 300
	}
	hot, cold := Hop{Name: name + ", hot", Doc: doc + ", one after the other"}, Hop{Name: name + ", cold", Doc: doc + ", after " + coldGap.String() + " of silence"}
	hot.Us, hot.Allocs = timeOf(call, repeat)
	if cold.Us, err = coldTimeOf(ctx, call); err != nil {
		return nil, err
	}
	cold.Allocs = hot.Allocs
	if !remote {
		hot.judge(0, hot.Allocs)
	}
	return []Hop{hot, cold}, failed
}

func (h *Hop) judge(target, value float64) {
	passed := value <= target
	h.Target, h.Passed = &target, &passed
}

// timeOf is the median time of f in microseconds, and its allocations.
func timeOf(f func(), repeat int) (us, allocs float64) {
	f()
	times := make([]float64, hopSamples)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for i := range times {
		began := time.Now()
		for range repeat {
			f()
		}
		times[i] = float64(time.Since(began).Nanoseconds()) / 1e3 / float64(repeat)
	}
	runtime.ReadMemStats(&after)
	// Others allocate now and then: below one in a hundred calls it was not f.
	allocs = float64(after.Mallocs-before.Mallocs) / float64(repeat*hopSamples)
	if allocs < 0.01 {
		allocs = 0
	}
	return median(times), allocs
}

func coldTimeOf(ctx context.Context, f func()) (float64, error) {
	times := make([]float64, coldSamples)
	for i := range times {
		time.Sleep(coldGap)
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		began := time.Now()
		f()
		times[i] = float64(time.Since(began).Nanoseconds()) / 1e3
	}
	return median(times), nil
}

// codecTargetUs is the time in which a large plan must be encoded and decoded.
const codecTargetUs = 5

func measureCodec() (Hop, error) {
	h := Hop{Name: "step plan codec", Doc: "encode and decode a plan of 64 rows with 32 blocks each"}
	plan, back, failed := largePlan(), &schemas.StepPlan{}, error(nil)
	h.Us, h.Allocs = timeOf(func() {
		body, err := bus.Marshal(plan)
		if err == nil {
			err = bus.Unmarshal(body, back)
		}
		if err != nil {
			failed = err
		}
	}, 2000)
	h.judge(codecTargetUs, h.Us)
	if failed == nil && !reflect.DeepEqual(back.Blocks, plan.Blocks) {
		failed = schemas.Errorf(schemas.KindInternal, "bench bus", "a step plan came back different")
	}
	return h, failed
}

// largePlan is a decode step in which every row's whole block table changes.
func largePlan() *schemas.StepPlan {
	p := &schemas.StepPlan{Epoch: 1, Step: 1}
	for i := range planRows {
		p.Seq = append(p.Seq, uint64(i+1)<<8)
		p.Slot = append(p.Slot, int32(i))
		p.Start = append(p.Start, planBlocks*blockSize-1)
		p.Count = append(p.Count, 1)
		p.Known = append(p.Known, 0)
		p.Sample = append(p.Sample, 1)
		p.BlockFrom = append(p.BlockFrom, 0)
		p.BlockCount = append(p.BlockCount, planBlocks)
		for j := range planBlocks {
			p.Blocks = append(p.Blocks, int32(i*planBlocks+j))
		}
	}
	return p
}
