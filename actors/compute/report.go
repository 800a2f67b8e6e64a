package compute

import (
	"encoding/binary"
	"math"
	"sort"
	"unsafe"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// report is something that a step tells beside its tokens, on its way to the host.
type report struct {
	ids, values gpu.Fetched // of log-probabilities, [n, width]
	ranks       gpu.Fetched // [n]; nil if they are not told
	width       int32
	logprobs    []schemas.TokenLogprobs // to fill, in order; their columns have their final length

	hidden gpu.Fetched // of embeddings, [n, H]
	dtype  gpu.DType
	size   int
	embeds []embedRow
}

// reportPrompts asks for the log-probabilities of prompt tokens, whose logits follow those of the sampling rows.
func (x *executor) reportPrompts(l *launch, logits gpu.Tensor) error {
	at := len(x.batch.rows)
	for _, p := range x.batch.prompts {
		chosen, err := x.model.Chosen(p.tokens)
		if err != nil {
			return err
		}
		n := len(p.tokens)
		out := sized(schemas.TokenLogprobs{Row: p.row, Prompt: true, Start: p.start, Width: p.width}, n)
		out.Ranks = make(schemas.I32, n)
		if err := x.reportLogprobs(l, logits.Slice(at, at+n), chosen, p.width, []schemas.TokenLogprobs{out}); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// reportTokens asks for the log-probabilities of the first sampled tokens, from the logits as the model made them.
func (x *executor) reportTokens(l *launch, kept, ids gpu.Tensor) error {
	n := int(x.batch.reporting)
	if n == 0 {
		return nil
	}
	out := make([]schemas.TokenLogprobs, n)
	for i := range out {
		out[i] = sized(schemas.TokenLogprobs{Row: x.batch.rows[i], Start: x.batch.params[i].Position, Width: x.batch.ruled[i].Rules.Logprobs}, 1)
	}
	return x.reportLogprobs(l, kept, ids.Slice(0, n), x.batch.width, out)
}

func sized(l schemas.TokenLogprobs, n int) schemas.TokenLogprobs {
	l.Tokens, l.Values = make(schemas.I32, n*int(l.Width)), make(schemas.F32, n*int(l.Width))
	return l
}

func (x *executor) reportLogprobs(l *launch, logits, chosen gpu.Tensor, width int32, out []schemas.TokenLogprobs) error {
	ranked := out[0].Ranks != nil
	told, err := x.model.Logprobs(logits, chosen, int(width), ranked)
	if err != nil {
		return err
	}
	r := report{width: width, logprobs: out}
	if r.ids, err = x.dev.Fetch(told.IDs); err != nil {
		return err
	}
	if r.values, err = x.dev.Fetch(told.Values); err != nil {
		return err
	}
	if ranked {
		if r.ranks, err = x.dev.Fetch(told.Ranks); err != nil {
			return err
		}
	}
	l.reports = append(l.reports, r)
	return nil
}

// embed asks for the hidden states of rows that yield an embedding.
func (x *executor) embed(l *launch) error {
	b := &x.batch
	if len(b.embeds) == 0 {
		return nil
	}
	tokens := make([]int32, len(b.embeds))
	for i, e := range b.embeds {
		tokens[i] = e.token
	}
	hidden, err := x.model.Embed(tokens)
	if err != nil {
		return err
	}
	r := report{dtype: hidden.DType, size: hidden.Dims[1], embeds: append([]embedRow(nil), b.embeds...)}
	if r.hidden, err = x.dev.Fetch(hidden); err != nil {
		return err
	}
	l.reports = append(l.reports, r)
	return nil
}

// read waits for a report and adds it to the step's result.
func (r *report) read(to *schemas.StepResult) error {
	if r.hidden != nil {
		return r.readEmbeddings(to)
	}
	n := 0
	for _, l := range r.logprobs {
		n += len(l.Tokens) / int(l.Width)
	}
	ids, values := make([]int32, n*int(r.width)), make([]float32, n*int(r.width))
	if err := r.ids.Wait(bytesOf(ids)); err != nil {
		return err
	}
	if err := r.values.Wait(bytesOf(values)); err != nil {
		return err
	}
	if r.ranks != nil { // of one prompt
		if err := r.ranks.Wait(bytesOf(r.logprobs[0].Ranks)); err != nil {
			return err
		}
	}
	for _, l := range r.logprobs {
		for at := 0; at < len(l.Tokens); at += int(l.Width) {
			copy(l.Tokens[at:], ids[:l.Width])
			copy(l.Values[at:], values[:l.Width])
			ids, values = ids[r.width:], values[r.width:]
		}
		to.Logprobs = append(to.Logprobs, l)
	}
	return nil
}

// readEmbeddings brings hidden states to length 1.
func (r *report) readEmbeddings(to *schemas.StepResult) error {
	raw := make([]byte, len(r.embeds)*r.size*r.dtype.Size())
	if err := r.hidden.Wait(raw); err != nil {
		return err
	}
	width := r.size * r.dtype.Size()
	for i, e := range r.embeds {
		values := widen(raw[i*width:(i+1)*width], r.dtype)
		sum := 0.0
		for _, v := range values {
			sum += float64(v) * float64(v)
		}
		if scale := 1 / math.Sqrt(sum); sum > 0 {
			for j, v := range values {
				values[j] = float32(float64(v) * scale)
			}
		}
		to.Embeddings = append(to.Embeddings, schemas.Embedding{Row: e.row, Values: values})
	}
	return nil
}

// widen reads little-endian numbers of a compute type.
func widen(raw []byte, dtype gpu.DType) schemas.F32 {
	out := make(schemas.F32, len(raw)/dtype.Size())
	for i := range out {
		if dtype == gpu.BF16 {
			out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(raw[2*i:])) << 16)
		} else {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
	}
	return out
}

// sortRows puts a result's rows in the plan's order.
func sortRows(row, token schemas.I32) {
	if !sort.SliceIsSorted(row, func(i, j int) bool { return row[i] < row[j] }) {
		sort.Sort(byRow{row, token})
	}
}

type byRow struct{ row, token schemas.I32 }

func (b byRow) Len() int           { return len(b.row) }
func (b byRow) Less(i, j int) bool { return b.row[i] < b.row[j] }
func (b byRow) Swap(i, j int) {
	b.row[i], b.row[j] = b.row[j], b.row[i]
	b.token[i], b.token[j] = b.token[j], b.token[i]
}

// bytesOf views numbers as the device's little-endian bytes. All platforms with a device are
// little-endian.
func bytesOf[T int32 | float32](v []T) []byte {
	if len(v) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&v[0])), 4*len(v))
}
