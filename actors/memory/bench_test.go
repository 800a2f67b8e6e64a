package memory

import (
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// BenchmarkDecode is a step of 256 running sequences, each of which gets one place: within a block that
// it has; the same while also learning a token; and learning at block size 16, where every 16th step
// adds 256 blocks and names 256.
func BenchmarkDecode(b *testing.B) {
	const rows = 256
	for _, bench := range []struct {
		name      string
		blockSize int32
		learn     bool
	}{{"places", 1 << 16, false}, {"places+learn", 1 << 16, true}, {"every16thBlock+learn", 16, true}} {
		b.Run(bench.name, func(b *testing.B) {
			blocks := int32(1 << 14)
			if bench.blockSize > 16 {
				blocks = rows
			}
			length := int32(0) // tokens placed per sequence since the last epoch
			room := blocks / rows * bench.blockSize
			var core *Core
			req := &schemas.ReserveRequest{TokensMax: 8192}
			b.ReportAllocs()
			for b.Loop() {
				if core == nil || length+1 >= room || length >= 2000 {
					b.StopTimer()
					core, req = admitted(b, Config{Blocks: blocks, BlockSize: bench.blockSize}, rows)
					length = 1
					b.StartTimer()
				}
				step := *req
				step.Step = schemas.StepID(length + 1)
				if bench.learn {
					step.LearnSeq, step.LearnCount, step.LearnTokens = req.Seq, req.WantMax, req.WantMax
				}
				reply, err := core.Reserve(&step)
				if err != nil || reply.Granted[rows-1] != 1 {
					b.Fatal(err, length)
				}
				length++
			}
		})
	}
}

// admitted returns a core with rows sequences of one placed token, and a request for one more each.
func admitted(b *testing.B, cfg Config, rows int) (*Core, *schemas.ReserveRequest) {
	core, err := NewCore(cfg)
	if err != nil {
		b.Fatal(err)
	}
	req := &schemas.ReserveRequest{Epoch: 1, Step: 1, TokensMax: 8192}
	for i := range rows {
		id := schemas.NewRequestID(0xabcdef, uint32(i+1)).Seq(0)
		req.Admit = append(req.Admit, schemas.Admission{Seq: id, Tokens: schemas.I32{int32(i)}})
		req.Seq, req.WantMax, req.MayPreempt = append(req.Seq, uint64(id)), append(req.WantMax, 1), append(req.MayPreempt, 0)
		req.Victims = append(req.Victims, uint64(id))
	}
	if _, rerr := core.Reserve(req); rerr != nil {
		b.Fatal(rerr)
	}
	next := *req
	next.Admit = nil
	return core, &next
}

// BenchmarkAdmit is a step that admits and grants 32 prompts of 512 tokens, while the 32 of the step
// before are named and released: cold prompts evict 1024 blocks, warm ones find all but their last.
func BenchmarkAdmit(b *testing.B) {
	const prompts, length = 32, 512
	for _, warm := range []bool{false, true} {
		name := "cold"
		if warm {
			name = "warm"
		}
		b.Run(name, func(b *testing.B) {
			core, err := NewCore(Config{Blocks: 4096, BlockSize: 16})
			if err != nil {
				b.Fatal(err)
			}
			var tokens [8 * prompts]schemas.I32
			for i := range tokens {
				for j := range length {
					tokens[i] = append(tokens[i], int32(i*length+j))
				}
			}
			step, salt := 0, uint64(0)
			request := func() *schemas.ReserveRequest {
				step++
				if step%8 == 0 && !warm {
					salt++ // the same ids, but nothing of it is cached
				}
				req := &schemas.ReserveRequest{Epoch: 1, Step: schemas.StepID(step), TokensMax: prompts * length}
				for i := range prompts {
					id := uint64(step*prompts+i) << 8
					if step > 1 {
						req.Release = append(req.Release, id-prompts<<8)
					}
					which := i
					if !warm {
						which += step % 8 * prompts
					}
					req.Admit = append(req.Admit, schemas.Admission{Seq: schemas.SeqID(id), Tokens: tokens[which], Salt: salt})
					req.Seq, req.WantMax, req.MayPreempt = append(req.Seq, id), append(req.WantMax, length), append(req.MayPreempt, 0)
				}
				return req
			}
			b.ReportAllocs()
			for b.Loop() {
				b.StopTimer()
				req := request()
				b.StartTimer()
				reply, rerr := core.Reserve(req)
				if rerr != nil || reply.Granted[prompts-1] == 0 || warm && step > 2 && reply.Cached[0] != length-16 {
					b.Fatalf("%v %+v", rerr, reply)
				}
			}
			s := core.State()
			b.ReportMetric(float64(s.HitTokens)/float64(s.QueryTokens), "hits")
			b.ReportMetric(float64(s.Evictions)/float64(b.N), "evictions/op")
		})
	}
}

// BenchmarkNoRoom is a row that may preempt 255 sequences of 64 blocks each, all of which would not do:
// the most that the search for victims looks at.
func BenchmarkNoRoom(b *testing.B) {
	const rows, length = 256, 1024
	core, err := NewCore(Config{Blocks: rows * length / 16, BlockSize: 16})
	if err != nil {
		b.Fatal(err)
	}
	req := &schemas.ReserveRequest{Epoch: 1, Step: 1, TokensMax: 1 << 30}
	for i := range rows {
		id := uint64(i+1) << 8
		tokens := make(schemas.I32, length)
		tokens[0] = int32(i)
		req.Admit = append(req.Admit, schemas.Admission{Seq: schemas.SeqID(id), Tokens: tokens})
		req.Seq, req.WantMax, req.MayPreempt = append(req.Seq, id), append(req.WantMax, length), append(req.MayPreempt, 0)
	}
	if _, err := core.Reserve(req); err != nil {
		b.Fatal(err)
	}
	prompt := make(schemas.I32, rows*length)
	prompt[0] = rows // nobody's prefix
	one := &schemas.ReserveRequest{Epoch: 1, Step: 2, TokensMax: 1 << 30, Victims: req.Seq[1:], Seq: schemas.U64{7},
		WantMax: schemas.I32{rows * length}, MayPreempt: schemas.U8{1},
		Admit: []schemas.Admission{{Seq: 7, Tokens: prompt}}}
	b.ReportAllocs()
	for b.Loop() {
		reply, err := core.Reserve(one)
		if err != nil || reply.Granted[0] != 0 || len(reply.Preempted) != 0 {
			b.Fatalf("%v, granted %v", err, reply.Granted)
		}
		next := *one
		next.Admit, next.Step = nil, one.Step+1
		one = &next
	}
}
