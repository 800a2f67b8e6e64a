package model

import (
	"encoding/binary"
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
)

// reports are the buffers for what a step tells beside its tokens: made when first asked for, grown to the most rows.
type reports struct {
	logitRows, logits gpu.Tensor // [rows] I32, [rows, V] F32: logits as the model made them
	tokens            gpu.Tensor // [rows, width] I32
	values            gpu.Tensor // [rows, width] F32
	chosen            gpu.Tensor // [rows] I32
	ranks             gpu.Tensor // [rows] I32
	embedRows         gpu.Tensor // [rows] I32
	embedded          gpu.Tensor // [rows, H]
}

// EditLogits changes the logits that Forward returned, or rows of them.
func (m *Model) EditLogits(edit *gpu.EditLogits) error { return m.dev.Launch(gpu.OpEditLogits, edit) }

// KeepLogits copies logits, before they are edited and sampled from, for Logprobs.
func (m *Model) KeepLogits(logits gpu.Tensor) (gpu.Tensor, error) {
	rows := make([]int32, logits.Dims[0])
	for i := range rows {
		rows[i] = int32(i)
	}
	return m.Rows(logits, rows)
}

// Rows copies rows of logits; the copy is valid until the next call.
func (m *Model) Rows(logits gpu.Tensor, rows []int32) (gpu.Tensor, error) {
	r := &m.reports
	if err := m.grow(&r.logitRows, gpu.I32, len(rows)); err != nil {
		return gpu.Tensor{}, err
	}
	if err := m.grow(&r.logits, gpu.F32, len(rows), m.spec.VocabSize); err != nil {
		return gpu.Tensor{}, err
	}
	index, kept := r.logitRows.Slice(0, len(rows)), r.logits.Slice(0, len(rows))
	if err := m.dev.Upload(index, intBytes(rows)); err != nil {
		return gpu.Tensor{}, err
	}
	return kept, m.dev.Launch(gpu.OpGatherRows, &gpu.GatherRows{Out: kept, X: logits, Rows: index})
}

// Logprobs are what a model says of one token at each of R places, and of the likeliest ones.
type Logprobs struct {
	IDs    gpu.Tensor // [R, width] I32: the token, then the width-1 likeliest
	Values gpu.Tensor // [R, width] F32: their log-probabilities
	Ranks  gpu.Tensor // [R] I32: the token's place among all, from 1; none unless it was asked for
}

// Logprobs finds, for each row of logits, the log-probabilities of a token, chosen[r], and of the width-1 likeliest, and
// the token's rank if ranked. They are valid until the next call.
func (m *Model) Logprobs(logits, chosen gpu.Tensor, width int, ranked bool) (out Logprobs, err error) {
	r, rows := &m.reports, logits.Dims[0]
	if chosen.Len() != rows || width < 1 || width > 1+gpu.TopTokensMax {
		return out, fmt.Errorf("model: Logprobs: %d tokens for %d rows of logits, %d wide", chosen.Len(), rows, width)
	}
	const widest = 1 + gpu.TopTokensMax
	if err := m.grow(&r.tokens, gpu.I32, rows*widest); err != nil {
		return out, err
	}
	if err := m.grow(&r.values, gpu.F32, rows*widest); err != nil {
		return out, err
	}
	out.IDs, out.Values = r.tokens.Slice(0, rows*width).Reshape(rows, width), r.values.Slice(0, rows*width).Reshape(rows, width)
	if ranked {
		if err := m.grow(&r.ranks, gpu.I32, rows); err != nil {
			return out, err
		}
		out.Ranks = r.ranks.Slice(0, rows)
	}
	if err := m.dev.Launch(gpu.OpTopTokens, &gpu.TopTokens{Out: out.IDs, First: chosen, Logits: logits, Rank: out.Ranks}); err != nil {
		return out, err
	}
	return out, m.dev.Launch(gpu.OpLogSoftmax, &gpu.LogSoftmax{Out: out.Values, Logits: logits, IDs: out.IDs})
}

// Chosen brings tokens to the device, for Logprobs.
func (m *Model) Chosen(tokens []int32) (gpu.Tensor, error) {
	for i, t := range tokens {
		if t < 0 || int(t) >= m.spec.VocabSize {
			return gpu.Tensor{}, fmt.Errorf("model: Chosen: tokens[%d] is %d of a vocabulary of %d", i, t, m.spec.VocabSize)
		}
	}
	if err := m.grow(&m.reports.chosen, gpu.I32, len(tokens)); err != nil {
		return gpu.Tensor{}, err
	}
	chosen := m.reports.chosen.Slice(0, len(tokens))
	return chosen, m.dev.Upload(chosen, intBytes(tokens))
}

// Embed returns the hidden states behind the final norm of some tokens of the step that Forward ran last, [R, H] in the
// device's compute type, valid until the next call.
func (m *Model) Embed(tokens []int32) (gpu.Tensor, error) {
	r := &m.reports
	for i, t := range tokens {
		if t < 0 || int(t) >= m.options.TokensPerStepMax {
			return gpu.Tensor{}, fmt.Errorf("model: Embed: tokens[%d] is %d, outside the step", i, t)
		}
	}
	if err := m.grow(&r.embedRows, gpu.I32, len(tokens)); err != nil {
		return gpu.Tensor{}, err
	}
	if err := m.grow(&r.embedded, m.dev.Info().Compute, len(tokens), m.spec.HiddenSize); err != nil {
		return gpu.Tensor{}, err
	}
	rows, x := r.embedRows.Slice(0, len(tokens)), r.embedded.Slice(0, len(tokens))
	if err := m.dev.Upload(rows, intBytes(tokens)); err != nil {
		return gpu.Tensor{}, err
	}
	if err := m.dev.Launch(gpu.OpGatherRows, &gpu.GatherRows{Out: x, X: m.scratch.residual, Rows: rows}); err != nil {
		return gpu.Tensor{}, err
	}
	return x, m.dev.Launch(gpu.OpRMSNorm, &gpu.RMSNorm{Out: x, X: x, Weight: m.weights.finalNorm, Eps: m.spec.NormEps, Offset: m.spec.NormOffset})
}

// grow makes t have at least rows rows of the given width.
func (m *Model) grow(t *gpu.Tensor, dtype gpu.DType, rows int, width ...int) error {
	if t.Valid() && t.Dims[0] >= rows {
		return nil
	}
	if t.Valid() {
		rows = max(rows, 2*t.Dims[0])
	}
	larger, err := m.mem.alloc(dtype, append([]int{rows}, width...)...)
	if err != nil {
		return err
	}
	if t.Valid() {
		m.mem.free(*t)
	}
	*t = larger
	return nil
}

func intBytes(v []int32) []byte {
	out := make([]byte, 0, 4*len(v))
	for _, x := range v {
		out = binary.LittleEndian.AppendUint32(out, uint32(x))
	}
	return out
}
