package memory

import (
	"encoding/binary"
	"reflect"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// FuzzReserve reads hostile requests from bytes. Whatever they say: no panic, the invariants hold, and
// a refused request changes nothing and names its field.
func FuzzReserve(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x01\x01\x00\x00\x02\x01\x05\x00\x02\x05\x01\x10\x02\x01\x05\x01\x02\x05\x01\x00"))
	f.Add([]byte("step one admits and grants, step two releases, learns and preempts; all at random"))
	f.Fuzz(func(t *testing.T, data []byte) {
		core, err := NewCore(Config{Blocks: 5, BlockSize: 2})
		if err != nil {
			t.Fatal(err)
		}
		in := hostile{data}
		for len(in.data) > 0 {
			req := in.request()
			before := core.State()
			repeat := before.Step == req.Step && before.Epoch == req.Epoch
			reply, rerr := core.Reserve(req)
			if err := core.Check(); err != nil {
				t.Fatalf("%v\nafter %+v", err, req)
			}
			switch {
			case rerr == nil && !repeat && len(reply.Granted) != len(req.Seq):
				t.Fatalf("%d rows answered with %d", len(req.Seq), len(reply.Granted))
			case rerr != nil && rerr.Param == "":
				t.Fatalf("the error names no field: %v", rerr)
			case rerr != nil && !reflect.DeepEqual(before, core.State()):
				t.Fatalf("refused with %v but changed\n%+v to\n%+v", rerr, before, core.State())
			}
		}
	})
}

// hostile makes requests of small numbers, most of them meaningful, and now and then an extreme one.
type hostile struct{ data []byte }

func (h *hostile) byte() byte {
	if len(h.data) == 0 {
		return 0
	}
	b := h.data[0]
	h.data = h.data[1:]
	return b
}

func (h *hostile) int32() int32 {
	b := h.byte()
	if b < 0xf0 || len(h.data) < 4 {
		return int32(b % 8)
	}
	v := int32(binary.LittleEndian.Uint32(h.data))
	h.data = h.data[4:]
	return v
}

func (h *hostile) id() uint64 { return uint64(h.byte() % 6) }

func (h *hostile) ids() (ids schemas.U64) {
	for range h.byte() % 4 {
		ids = append(ids, h.id())
	}
	return ids
}

func (h *hostile) int32s() (column schemas.I32) {
	for range h.byte() % 6 {
		column = append(column, h.int32())
	}
	return column
}

func (h *hostile) request() *schemas.ReserveRequest {
	odd := h.byte() // which columns are left as they come
	req := &schemas.ReserveRequest{
		Epoch: schemas.Epoch(h.byte() / 128), Step: schemas.StepID(h.byte()), TokensMax: h.int32(),
		Release: h.ids(), Victims: h.ids(),
		LearnSeq: h.ids(), LearnCount: h.int32s(), LearnTokens: h.int32s(),
	}
	for range h.byte() % 3 {
		req.Admit = append(req.Admit, schemas.Admission{
			Seq: schemas.SeqID(h.id()), Tokens: h.int32s(), Salt: uint64(h.byte() % 2), Fork: schemas.SeqID(h.id())})
	}
	req.Seq, req.WantMax, req.MayPreempt = h.ids(), h.int32s(), schemas.U8(h.int32sAsBytes())
	if odd&1 == 0 {
		req.LearnCount = fit(req.LearnCount, len(req.LearnSeq))
		var sum int32
		for _, n := range req.LearnCount {
			sum += n
		}
		if sum >= 0 && sum < 64 {
			req.LearnTokens = fit(req.LearnTokens, int(sum))
		}
	}
	if odd&2 == 0 {
		req.WantMax, req.MayPreempt = fit(req.WantMax, len(req.Seq)), fit(req.MayPreempt, len(req.Seq))
	}
	return req
}

func (h *hostile) int32sAsBytes() (out []byte) {
	for range h.byte() % 4 {
		out = append(out, h.byte()%3)
	}
	return out
}

// fit cuts or extends a column to n elements.
func fit[S ~[]E, E any](column S, n int) S {
	return append(column, make(S, n)...)[:n]
}
