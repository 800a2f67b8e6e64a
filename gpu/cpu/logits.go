package cpu

import (
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// editLogits executes gpu.EditLogits: a mask is a pass over a row, so rows are what the workers share.
func (d *Device) editLogits(a *gpu.EditLogits) error {
	rows, vocab := a.Logits.Dims[0], a.Logits.Dims[1]
	logits := d.Float32s(a.Logits)
	for _, e := range a.Edits {
		mustIndex(gpu.OpEditLogits, "Edits.Row", int(e.Row), rows)
		mustIndex(gpu.OpEditLogits, "Edits.Token", int(e.Token), vocab)
		at := int(e.Row)*vocab + int(e.Token)
		ref.EditLogits(logits[at:at+1], []gpu.LogitEdit{{Scale: e.Scale, Add: e.Add}}, nil)
	}
	for _, m := range a.Masks {
		mustIndex(gpu.OpEditLogits, "Masks.Row", int(m.Row), rows)
		if len(m.Allowed) != (vocab+31)/32 {
			panic(fmt.Sprintf("cpu: edit_logits: a mask of %d words for %d tokens", len(m.Allowed), vocab))
		}
	}
	p := &d.work.masks
	*p = maskTask{logits: logits, vocab: vocab, masks: a.Masks}
	d.share(p, len(a.Masks), float64(len(a.Masks)*vocab))
	*p = maskTask{}
	return nil
}

type maskTask struct {
	logits []float32
	vocab  int
	masks  []gpu.LogitMask
}

func (p *maskTask) run(_, from, to int) {
	for _, m := range p.masks[from:to] {
		row := p.logits[int(m.Row)*p.vocab:][:p.vocab]
		for w, allowed := range m.Allowed {
			words := row[w*32 : min(w*32+32, p.vocab)]
			switch allowed {
			case 0:
				for t := range words {
					words[t] = negativeInfinity
				}
			case ^uint32(0):
			default:
				for t := range words {
					if allowed>>t&1 == 0 {
						words[t] = negativeInfinity
					}
				}
			}
		}
	}
}

// topTokens executes gpu.TopTokens.
func (d *Device) topTokens(a *gpu.TopTokens) error {
	rows, vocab, width := a.Logits.Dims[0], a.Logits.Dims[1], a.Out.Dims[1]
	mustShape(gpu.OpTopTokens, "Out", a.Out, rows, width)
	mustLen(gpu.OpTopTokens, "First", a.First, rows)
	if width < 1 || width > 1+gpu.TopTokensMax {
		panic(fmt.Sprintf("cpu: top_tokens: Out is %v, want 1 to %d tokens a row", a.Out, 1+gpu.TopTokensMax))
	}
	p := &d.work.top
	*p = topTask{logits: d.Float32s(a.Logits), vocab: vocab, first: d.Int32s(a.First), out: d.Int32s(a.Out), width: width}
	if a.Rank.Valid() {
		mustLen(gpu.OpTopTokens, "Rank", a.Rank, rows)
		p.rank = d.Int32s(a.Rank)
	}
	d.share(p, rows, float64(rows*vocab))
	*p = topTask{}
	return nil
}

type topTask struct {
	logits       []float32
	vocab, width int
	first, out   []int32
	rank         []int32 // nil if it is not wanted
}

func (p *topTask) run(_, from, to int) {
	var best [gpu.TopTokensMax]ranked
	for r := from; r < to; r++ {
		out := p.out[r*p.width:][:p.width]
		out[0] = p.first[r]
		n := largestTokens(best[:p.width-1], p.logits[r*p.vocab:][:p.vocab])
		for k := range out[1:] {
			out[1+k] = -1
			if k < n {
				out[1+k] = best[k].id
			}
		}
		if p.rank != nil {
			p.rank[r] = rankOf(p.first[r], p.logits[r*p.vocab:][:p.vocab])
		}
	}
}

// rankOf is the place of a token in the order of largestTokens, from 1.
func rankOf(token int32, logits []float32) int32 {
	value := func(v float32) float32 {
		if v != v {
			return negativeInfinity
		}
		return v
	}
	own, rank := value(logits[token]), int32(1)
	for t, v := range logits {
		if v = value(v); v > own || v == own && int32(t) < token {
			rank++
		}
	}
	return rank
}

// largestTokens fills best with the largest logits in order and returns how many there are. Few enter, so that
// inserting beats a heap.
func largestTokens(best []ranked, logits []float32) (n int) {
	if len(best) == 0 {
		return 0
	}
	for t, v := range logits {
		if v != v {
			v = negativeInfinity
		}
		if n == len(best) && v <= best[n-1].value {
			continue // a tie goes to the lower id, which came first
		}
		if n < len(best) {
			n++
		}
		at := n - 1
		for ; at > 0 && v > best[at-1].value; at-- {
			best[at] = best[at-1]
		}
		best[at] = ranked{v, int32(t)}
	}
	return n
}
