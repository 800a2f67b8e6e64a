package compute

import (
	"slices"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// tables mirrors on the host what the device knows of each slot: its block table and how it samples.
type tables struct {
	opts   model.Options
	blocks [][]int32 // by slot; grows to the highest entry written
	params []gpu.SampleParams
	rules  []*ruled // by slot; nil for most
}

func newTables(opts model.Options) *tables {
	return &tables{opts: opts, blocks: make([][]int32, opts.SequencesMax), params: make([]gpu.SampleParams, opts.SequencesMax),
		rules: make([]*ruled, opts.SequencesMax)}
}

func (t *tables) reset() {
	for slot := range t.blocks {
		t.blocks[slot] = t.blocks[slot][:0]
	}
	clear(t.params)
	clear(t.rules)
}

// batch is the model's view of one plan. Its slices are reused from step to step.
type batch struct {
	input  model.StepInput
	rows   []int32 // plan rows that sample a token, in order of input.LogitRows: those that report log-probabilities first
	params []gpu.SampleParams
	ruled  []*ruled // of rows; nil for most, and empty if there are none

	reporting int32          // how many of rows report log-probabilities
	width     int32          // the most candidates that any of them reports
	prompts   []promptReport // whose logits follow those of rows
	embeds    []embedRow
}

// promptReport is a row of which the log-probabilities of some prompt tokens are reported.
type promptReport struct {
	row, start, width int32 // of the plan; position of the first token; candidates
	tokens            []int32
}

// embedRow is a row that yields an embedding.
type embedRow struct{ row, token int32 } // of the plan; of the step

// validate checks everything of a plan that indexes something, so that no plan, whoever sent it, can
// reach memory that is not its own.
func (t *tables) validate(p *schemas.StepPlan, vocabSize int) *schemas.Error {
	bad := func(param, format string, args ...any) *schemas.Error {
		e := schemas.Errorf(schemas.KindInvalid, "execute", param+": "+format, args...).WithParam(param)
		e.Step = p.Step
		return e
	}
	rows, inits := len(p.Seq), len(p.InitSlot)
	for _, c := range []struct {
		name      string
		got, want int
	}{{"slot", len(p.Slot), rows}, {"start", len(p.Start), rows}, {"count", len(p.Count), rows}, {"known", len(p.Known), rows},
		{"sample", len(p.Sample), rows}, {"block_from", len(p.BlockFrom), rows}, {"block_count", len(p.BlockCount), rows},
		{"init_temperature", len(p.InitTemperature), inits}, {"init_top_p", len(p.InitTopP), inits},
		{"init_top_k", len(p.InitTopK), inits}, {"init_min_p", len(p.InitMinP), inits}, {"init_seed", len(p.InitSeed), inits}} {
		if c.got != c.want {
			return bad(c.name, "has %d elements, expected %d", c.got, c.want)
		}
	}
	if rows == 0 || rows > t.opts.SequencesMax {
		return bad("seq", "%d rows, expected 1 to %d", rows, t.opts.SequencesMax)
	}
	if len(p.Copies)%2 != 0 {
		return bad("copies", "%d blocks are no pairs", len(p.Copies))
	}
	for i, b := range p.Copies {
		if b < 0 || int(b) >= t.opts.KVBlocks {
			return bad("copies", "element %d is block %d of %d", i, b, t.opts.KVBlocks)
		}
	}
	for i, slot := range p.InitSlot {
		if slot < 0 || int(slot) >= t.opts.SequencesMax {
			return bad("init_slot", "element %d is slot %d of %d", i, slot, t.opts.SequencesMax)
		}
	}
	if err := t.validateRules(p, vocabSize, bad); err != nil {
		return err
	}
	return t.validateRows(p, vocabSize, bad)
}

func (t *tables) validateRules(p *schemas.StepPlan, vocabSize int, bad func(string, string, ...any) *schemas.Error) *schemas.Error {
	for i := range p.Rules {
		r := &p.Rules[i]
		params := schemas.SamplingParams{TopP: 1, Rules: &r.Rules}
		if err := params.Validate(); err != nil {
			return bad("rules", "element %d: %s", i, err.Detail)
		}
		switch {
		case !slices.Contains(p.InitSlot, r.Slot):
			return bad("rules", "element %d is for slot %d, which is not initialized", i, r.Slot)
		case r.Prompt < 0 || int(r.Prompt) > len(r.Tokens):
			return bad("rules", "element %d: %d of %d tokens are the prompt", i, r.Prompt, len(r.Tokens))
		}
		for _, tokens := range []schemas.I32{r.Tokens, r.StopTokens, r.Rules.BiasTokens} {
			for _, token := range tokens {
				if token < 0 || int(token) >= vocabSize {
					return bad("rules", "element %d has token %d of a vocabulary of %d", i, token, vocabSize)
				}
			}
		}
	}
	return nil
}

func (t *tables) validateRows(p *schemas.StepPlan, vocabSize int, bad func(string, string, ...any) *schemas.Error) *schemas.Error {
	seen := make([]bool, t.opts.SequencesMax)
	total, known, blocks := int64(0), int64(0), int64(0)
	for i, slot := range p.Slot {
		start, count, from, n := int64(p.Start[i]), int64(p.Count[i]), int64(p.BlockFrom[i]), int64(p.BlockCount[i])
		switch {
		case slot < 0 || int(slot) >= t.opts.SequencesMax:
			return bad("slot", "row %d is in slot %d of %d", i, slot, t.opts.SequencesMax)
		case seen[slot]:
			return bad("slot", "row %d is a second row for slot %d", i, slot)
		case start < 0 || count < 1 || start+count > int64(t.opts.ContextMax):
			return bad("start", "row %d has positions %d to %d of a context of %d", i, start, start+count-1, t.opts.ContextMax)
		case p.Known[i] != p.Count[i] && (p.Known[i] != 0 || count != 1):
			return bad("known", "row %d knows %d of %d tokens; expected all, or none of one", i, p.Known[i], count)
		case p.Sample[i] > schemas.SampleEmbedding:
			return bad("sample", "row %d is %d; expected 0 to %d", i, p.Sample[i], schemas.SampleEmbedding)
		case n < 0 || blocks+n > int64(len(p.Blocks)):
			return bad("block_count", "row %d takes %d blocks; %d are left", i, n, int64(len(p.Blocks))-blocks)
		}
		// What the slot's table will be: entries [0, from) kept, [from, from+n) replaced.
		if kept := int64(len(t.blocks[slot])); from < 0 || from > kept {
			return bad("block_from", "row %d replaces from entry %d of a table of %d", i, from, kept)
		}
		if size := int64(t.opts.BlockSize); (start+count+size-1)/size > from+n {
			return bad("blocks", "row %d needs %d blocks; its table has %d", i, (start+count+size-1)/size, from+n)
		}
		seen[slot] = true
		total, known, blocks = total+count, known+int64(p.Known[i]), blocks+n
	}
	switch {
	case total > int64(t.opts.TokensPerStepMax):
		return bad("count", "%d tokens in a step of at most %d", total, t.opts.TokensPerStepMax)
	case known != int64(len(p.Tokens)):
		return bad("tokens", "has %d elements; the rows know %d", len(p.Tokens), known)
	case blocks != int64(len(p.Blocks)):
		return bad("blocks", "has %d elements; the rows take %d", len(p.Blocks), blocks)
	}
	for i, b := range p.Blocks {
		if b < 0 || int(b) >= t.opts.KVBlocks {
			return bad("blocks", "element %d is block %d of %d", i, b, t.opts.KVBlocks)
		}
	}
	for i, token := range p.Tokens {
		if token < 0 || int(token) >= vocabSize {
			return bad("tokens", "element %d is token %d of a vocabulary of %d", i, token, vocabSize)
		}
	}
	return nil
}

// apply takes a valid plan's changes into the tables.
func (t *tables) apply(p *schemas.StepPlan, guides *guides, vocabSize int) {
	for i, slot := range p.InitSlot {
		t.params[slot] = gpu.SampleParams{Temperature: p.InitTemperature[i], TopP: p.InitTopP[i], TopK: p.InitTopK[i],
			MinP: p.InitMinP[i], Seed: p.InitSeed[i], Slot: slot}
		t.rules[slot] = nil
	}
	for i := range p.Rules {
		t.rules[p.Rules[i].Slot] = newRuled(&p.Rules[i], guides, vocabSize)
	}
	next := int32(0)
	for i, slot := range p.Slot {
		n := p.BlockCount[i]
		table := t.blocks[slot][:p.BlockFrom[i]]
		t.blocks[slot] = append(table, p.Blocks[next:next+n]...)
		next += n
	}
}

// fill writes the plan down as the model's input. With every is true, the logits of every token are
// wanted, in order, and not only of those that sample.
func (b *batch) fill(t *tables, p *schemas.StepPlan, every bool) {
	in := &b.input
	in.Tokens, in.Positions, in.TokenSlots, in.SlotMapping = in.Tokens[:0], in.Positions[:0], in.TokenSlots[:0], in.SlotMapping[:0]
	in.Slots, in.LogitRows = append(in.Slots[:0], p.Slot...), in.LogitRows[:0]
	in.QueryStart = append(in.QueryStart[:0], 0)
	size := int32(t.opts.BlockSize)
	tokens := p.Tokens
	for i, slot := range p.Slot {
		table := t.blocks[slot]
		for pos := p.Start[i]; pos < p.Start[i]+p.Count[i]; pos++ {
			in.Positions = append(in.Positions, pos)
			in.TokenSlots = append(in.TokenSlots, slot)
			in.SlotMapping = append(in.SlotMapping, table[pos/size]*size+pos%size)
		}
		if p.Known[i] == 0 {
			in.Tokens = append(in.Tokens, -1)
		} else {
			in.Tokens = append(in.Tokens, tokens[:p.Known[i]]...)
			tokens = tokens[p.Known[i]:]
		}
		in.QueryStart = append(in.QueryStart, int32(len(in.Tokens)))
	}
	b.choose(t, p, every)
}

// choose lists what the rows yield, and the logits that it takes.
func (b *batch) choose(t *tables, p *schemas.StepPlan, every bool) {
	in := &b.input
	b.rows, b.params, b.ruled = b.rows[:0], b.params[:0], b.ruled[:0]
	b.reporting, b.width, b.prompts, b.embeds = 0, 0, b.prompts[:0], b.embeds[:0]
	if every {
		for i := range p.Slot {
			if p.Sample[i] == schemas.SampleToken {
				b.sample(t, p, i, nil)
			}
		}
		in.LogitRows = slices.Grow(in.LogitRows, len(in.Tokens))
		for row := range in.Tokens {
			in.LogitRows = append(in.LogitRows, int32(row))
		}
		return
	}
	any := false
	for i, slot := range p.Slot {
		if p.Sample[i] == schemas.SampleEmbedding {
			b.embeds = append(b.embeds, embedRow{int32(i), in.QueryStart[i+1] - 1})
		}
		r := t.rules[slot]
		any = any || r != nil
		if r != nil && r.Rules.Logprobs > 0 && p.Sample[i] == schemas.SampleToken {
			b.sample(t, p, i, r)
			b.reporting, b.width = b.reporting+1, max(b.width, r.Rules.Logprobs)
		}
	}
	for i, slot := range p.Slot {
		if r := t.rules[slot]; p.Sample[i] == schemas.SampleToken && (r == nil || r.Rules.Logprobs == 0) {
			b.sample(t, p, i, r)
		}
	}
	for _, row := range b.rows {
		in.LogitRows = append(in.LogitRows, in.QueryStart[row+1]-1)
	}
	if !any {
		b.ruled = b.ruled[:0]
		return
	}
	for i, slot := range p.Slot {
		if r := t.rules[slot]; r != nil && r.Rules.PromptLogprobs > 0 {
			b.reportPrompt(r, int32(i), p)
		}
	}
}

// sample makes plan row i draw a token.
func (b *batch) sample(t *tables, p *schemas.StepPlan, i int, r *ruled) {
	params := t.params[p.Slot[i]]
	params.Position = p.Start[i] + p.Count[i]
	b.params = append(b.params, params)
	b.rows = append(b.rows, int32(i))
	b.ruled = append(b.ruled, r)
}

// reportPrompt asks for the logits that precede prompt tokens: those of the positions before.
func (b *batch) reportPrompt(r *ruled, row int32, p *schemas.StepPlan) {
	from, to := p.Start[row]+1, min(p.Start[row]+p.Count[row]+1, r.Prompt)
	if from >= to {
		return
	}
	b.prompts = append(b.prompts, promptReport{row: row, start: from, width: r.Rules.PromptLogprobs, tokens: r.Tokens[from:to]})
	for at := range to - from {
		b.input.LogitRows = append(b.input.LogitRows, b.input.QueryStart[row]+at)
	}
}
