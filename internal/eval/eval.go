package eval

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/gpu"
)

// Config says what to measure.
type Config struct {
	Prefix []int32 // tokens before every window, not scored
	Window int     // tokens of the text that are seen together
	Stride int     // tokens from the begin of a window to that of the next: at most Window, or one less without Prefix
	// Step is the tokens that a step computes, 1 to StepMax; 0 is StepMax. Devices multiply few tokens by other means than
	// many, which may round otherwise.
	Step     int
	Progress func(scored, total int)
}

// TokensMin is the shortest text that can be measured.
const TokensMin = 2

// StepMax bounds the tokens of a step, and with them the rows of logits that exist at once.
const StepMax = 64

// blockSize is the tokens of a KV block.
const blockSize = 16

// Options returns how a model must be sized for Run with c; the caller adds what is to be varied.
func (c *Config) Options() model.Options {
	length := len(c.Prefix) + c.Window
	return model.Options{SequencesMax: 1, TokensPerStepMax: StepMax, ContextMax: length, BlockSize: blockSize, KVBlocks: (length + blockSize - 1) / blockSize}
}

// Check says what of c makes no sense for a text of n tokens and a model of the given context.
func (c *Config) Check(n, contextMax int) error {
	switch {
	case n < TokensMin:
		return fmt.Errorf("eval: the text has %d tokens, want %d at least", n, TokensMin)
	case c.Window < 2 || len(c.Prefix)+c.Window > contextMax:
		return fmt.Errorf("eval: the window is %d, want 2 to the %d tokens of the model's context", c.Window, contextMax-len(c.Prefix))
	case c.Step < 0 || c.Step > StepMax:
		return fmt.Errorf("eval: the step is %d tokens, want 1 to %d, or 0 for the most", c.Step, StepMax)
	}
	longest := c.Window
	if len(c.Prefix) == 0 {
		longest-- // nothing would predict the first token of a window
	}
	if c.Stride < 1 || c.Stride > longest {
		return fmt.Errorf("eval: the stride is %d, want 1 to %d with a window of %d", c.Stride, longest, c.Window)
	}
	return nil
}

// Score is what one model makes of a text.
type Score struct {
	Perplexity float64 `json:"perplexity"`
	StdErr     float64 `json:"perplexity_std_err"` // as if tokens were independent
	NLL        float64 `json:"nll"`                // mean, nats per token
}

// Divergence compares a model with a reference, token by token.
type Divergence struct {
	Ratio       float64 `json:"perplexity_ratio"` // the model's over the reference's
	RatioStdErr float64 `json:"perplexity_ratio_std_err"`
	KL          float64 `json:"kl_mean"` // of the reference from the model, nats per token
	KLStdErr    float64 `json:"kl_std_err"`
	KLP99       float64 `json:"kl_p99"`
	KLMax       float64 `json:"kl_max"`
	SameTop     float64 `json:"same_top"` // share of tokens for which both hold the same one likeliest
}

// Report is what Run found.
type Report struct {
	Tokens     int         `json:"tokens"` // scored
	Windows    int         `json:"windows"`
	Window     int         `json:"window"`
	Stride     int         `json:"stride"`
	Score      Score       `json:"score"`
	Reference  *Score      `json:"reference,omitempty"`
	Divergence *Divergence `json:"divergence,omitempty"`
}

// Run scores tokens with m and, if it is not nil, with reference, on dev. Both were sized by Config.Options.
func Run(ctx context.Context, dev gpu.Device, m, reference *model.Model, tokens []int32, c Config) (*Report, error) {
	if err := c.Check(len(tokens), m.Spec().ContextMax); err != nil {
		return nil, err
	}
	readers := []*reader{newReader(dev, m)}
	if reference != nil {
		if a, b := m.Spec().VocabSize, reference.Spec().VocabSize; a != b {
			return nil, fmt.Errorf("eval: the model has %d tokens and the reference %d: only models of one vocabulary compare", a, b)
		}
		readers = append(readers, newReader(dev, reference))
	}
	r := &Report{Window: c.Window, Stride: c.Stride}
	total := len(tokens)
	if len(c.Prefix) == 0 {
		total-- // nothing predicts the first
	}
	var all tally
	for start, scored := 0, len(tokens)-total; scored < len(tokens); start += c.Stride {
		end := min(start+c.Window, len(tokens))
		w := window{prefix: c.Prefix, tokens: tokens[start:end], from: scored - start, step: cmp.Or(c.Step, StepMax)}
		err := w.score(ctx, readers, &all, func(n int) {
			if c.Progress != nil {
				c.Progress(len(all.nll)+n, total)
			}
		})
		if err != nil {
			return nil, err
		}
		scored = end
		r.Windows++
	}
	r.Tokens = len(all.nll)
	r.Score = score(all.nll)
	if reference != nil {
		s := score(all.referenceNLL)
		r.Reference, r.Divergence = &s, all.divergence()
	}
	for _, v := range []float64{r.Score.NLL, all.worst()} {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, errors.New("eval: a logit is not a finite number: the model is damaged, or computes in a type too small for it")
		}
	}
	return r, nil
}

// reader runs windows through one model.
type reader struct {
	dev    gpu.Device
	m      *model.Model
	raw    []byte
	logits []float32 // [rows, V] of the last step
}

func newReader(dev gpu.Device, m *model.Model) *reader { return &reader{dev: dev, m: m} }

// read runs tokens [from, to) of a window, the ones before having been read, and keeps the logits of those from
// wanted on.
func (r *reader) read(tokens []int32, from, to, wanted int) error {
	in := model.StepInput{Slots: []int32{0}, QueryStart: []int32{0, int32(to - from)}, TokenSlots: make([]int32, to-from)}
	if from == 0 {
		blocks := make([]int32, r.m.Options().KVBlocks)
		for i := range blocks {
			blocks[i] = int32(i)
		}
		if err := r.m.SetBlocks(0, 0, blocks); err != nil {
			return err
		}
	}
	for p := from; p < to; p++ {
		in.Tokens = append(in.Tokens, tokens[p])
		in.Positions = append(in.Positions, int32(p))
		in.SlotMapping = append(in.SlotMapping, int32(p))
		if p >= wanted {
			in.LogitRows = append(in.LogitRows, int32(p-from))
		}
	}
	out, err := r.m.Forward(&in)
	if err != nil {
		return err
	}
	n := len(in.LogitRows) * r.m.Spec().VocabSize
	if cap(r.logits) < n {
		r.raw, r.logits = make([]byte, 4*n), make([]float32, n)
	}
	r.raw, r.logits = r.raw[:4*n], r.logits[:n]
	if n == 0 {
		return r.dev.Sync()
	}
	if err := r.dev.Download(r.raw, out); err != nil {
		return err
	}
	for i := range r.logits {
		b := r.raw[4*i:]
		r.logits[i] = math.Float32frombits(uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24)
	}
	return nil
}

// window is a part of the text of which tokens from `from` on are scored.
type window struct {
	prefix, tokens []int32
	from           int
	step           int // tokens
}

// score adds the window's tokens to all, telling progress how many are done.
func (w *window) score(ctx context.Context, readers []*reader, all *tally, progress func(int)) error {
	tokens := append(append([]int32(nil), w.prefix...), w.tokens...)
	first := len(w.prefix) + w.from // its logits are those of the token before
	vocabulary := readers[0].m.Spec().VocabSize
	for i, t := range tokens {
		if t < 0 || int(t) >= vocabulary {
			return fmt.Errorf("eval: token %d is %d of a vocabulary of %d: tokenizer and weights are of different models", i, t, vocabulary)
		}
	}
	done, last := 0, len(tokens)-1 // nothing follows the last one, so its logits say nothing
	found := make([]sample, len(tokens)-first)
	for from := 0; from < last; from += w.step {
		if err := ctx.Err(); err != nil {
			return err
		}
		to := min(from+w.step, last)
		wanted := max(from, first-1)
		for _, r := range readers {
			if err := r.read(tokens, from, to, wanted); err != nil {
				return err
			}
		}
		if wanted >= to {
			continue
		}
		rows := found[wanted-(first-1):][:to-wanted]
		each(len(rows), func(i int) {
			at := func(r *reader) []float32 { return r.logits[i*vocabulary:][:vocabulary] }
			rows[i] = measure(at(readers[0]), nil, tokens[wanted+i+1])
			if len(readers) > 1 {
				rows[i] = measure(at(readers[0]), at(readers[1]), tokens[wanted+i+1])
			}
		})
		done += len(rows)
		progress(done)
	}
	all.add(found, len(readers) > 1)
	return nil
}

// each calls f for 0 to n-1 on all processors.
func each(n int, f func(i int)) {
	workers := min(runtime.GOMAXPROCS(0), n)
	var done sync.WaitGroup
	for w := range workers {
		done.Go(func() {
			for i := n * w / workers; i < n*(w+1)/workers; i++ {
				f(i)
			}
		})
	}
	done.Wait()
}
