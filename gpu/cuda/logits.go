package cuda

import (
	"fmt"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
)

const topThreads = 1024 // TOP_THREADS in logits.cu

// logitEdit is laid out as LogitEdit in logits.cu, and as gpu.LogitEdit.
type logitEdit struct {
	row, token int32
	scale, add float32
}

type editLogitsArgs struct {
	logits, edits uintptr
	count, vocab  int32
}

type maskLogitsArgs struct {
	logits, rows, allowed uintptr
	vocab, words          int32
}

func (d *Device) editLogits(a *gpu.EditLogits) error {
	rows, vocab := a.Logits.Dims[0], a.Logits.Dims[1]
	if n := len(a.Edits); n > 0 {
		edits := make([]logitEdit, n)
		for i, e := range a.Edits {
			mustIndex(gpu.OpEditLogits, "Edits.Row", int(e.Row), rows)
			mustIndex(gpu.OpEditLogits, "Edits.Token", int(e.Token), vocab)
			edits[i] = logitEdit{row: e.Row, token: e.Token, scale: e.Scale, add: e.Add}
		}
		room, err := d.sendScratch(bytesOf(edits))
		if err != nil {
			return err
		}
		if err := runEach(d, "edit_logits", n, editLogitsArgs{d.f32(a.Logits), room, int32(n), int32(vocab)}); err != nil {
			return err
		}
	}
	return d.maskLogits(a, rows, vocab)
}

func (d *Device) maskLogits(a *gpu.EditLogits, rows, vocab int) error {
	n, words := len(a.Masks), (vocab+31)/32
	if n == 0 {
		return nil
	}
	// One upload: the rows, then their masks.
	room := make([]uint32, 0, n*(1+words))
	for _, m := range a.Masks {
		mustIndex(gpu.OpEditLogits, "Masks.Row", int(m.Row), rows)
		room = append(room, uint32(m.Row))
	}
	for _, m := range a.Masks {
		if len(m.Allowed) != words {
			panic(fmt.Sprintf("cuda: edit_logits: a mask of %d words for %d tokens", len(m.Allowed), vocab))
		}
		room = append(room, m.Allowed...)
	}
	at, err := d.sendScratch(bytesOf(room))
	if err != nil {
		return err
	}
	return run(d, d.functions["mask_logits"], grid{n, 1, 1}, topThreads, 0,
		maskLogitsArgs{d.f32(a.Logits), at, at + uintptr(4*n), int32(vocab), int32(words)})
}

// sendScratch copies host memory to the scratch of the current op.
func (d *Device) sendScratch(b []byte) (uintptr, error) {
	at, err := d.scratch(int64(len(b)))
	if err != nil {
		return 0, err
	}
	return at, d.send(at, b)
}

func bytesOf[T logitEdit | uint32](v []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(v))), len(v)*int(unsafe.Sizeof(v[0])))
}

type topTokensArgs struct {
	out, first, logits, rank uintptr
	vocab, width             int32
}

func (d *Device) topTokens(a *gpu.TopTokens) error {
	rows, vocab, width := a.Logits.Dims[0], a.Logits.Dims[1], a.Out.Dims[1]
	mustShape(gpu.OpTopTokens, "Out", a.Out, rows, width)
	mustLen(gpu.OpTopTokens, "First", a.First, rows)
	if width < 1 || width > 1+gpu.TopTokensMax {
		panic(fmt.Sprintf("cuda: top_tokens: Out is %v, want 1 to %d tokens a row", a.Out, 1+gpu.TopTokensMax))
	}
	rank := uintptr(0)
	if a.Rank.Valid() {
		mustLen(gpu.OpTopTokens, "Rank", a.Rank, rows)
		rank = d.i32(a.Rank)
	}
	return run(d, d.functions["top_tokens"], grid{rows, 1, 1}, topThreads, 0,
		topTokensArgs{d.i32(a.Out), d.i32(a.First), d.f32(a.Logits), rank, int32(vocab), int32(width)})
}
