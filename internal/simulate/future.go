package simulate

import (
	"math"

	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// future knows which requests of a workload will want each prefix: what Belady's eviction goes by. Prefixes that only
// one request has are left out; nobody will want them again.
type future struct {
	world *world
	uses  map[uint64]*uses
}

type uses struct {
	requests []int32 // in order of arrival
	next     int     // of requests: those before have begun
}

// chain names a prefix of segments.
type chain struct {
	before uint64
	id     uint64
	tokens int32
}

// prefixes numbers the prefixes of segments that a workload's prompts begin with.
type prefixes struct {
	numbers map[chain]uint64
	counts  []int32 // by number, from 1: prompts that have it
	tokens  []int32 // of its last segment
}

func newPrefixes() *prefixes {
	return &prefixes{numbers: map[chain]uint64{}, counts: make([]int32, 1), tokens: make([]int32, 1)}
}

// add counts a prompt, and returns how many of its leading tokens another prompt had.
func (p *prefixes) add(q *traces.Request) (known int32) {
	before, repeated := uint64(0), true
	for _, s := range q.Prompt {
		c := chain{before, s.ID, s.Tokens}
		n, seen := p.numbers[c]
		if !seen {
			n = uint64(len(p.counts))
			p.numbers[c] = n
			p.counts, p.tokens = append(p.counts, 0), append(p.tokens, s.Tokens)
		}
		if repeated = repeated && seen; repeated {
			known += s.Tokens
		}
		p.counts[n]++
		before = n
	}
	return known
}

// shared is how many leading tokens of a prompt more than one prompt has.
func (p *prefixes) shared(q *traces.Request) (n int32) {
	before := uint64(0)
	for _, s := range q.Prompt {
		before = p.numbers[chain{before, s.ID, s.Tokens}]
		if p.counts[before] < 2 {
			break
		}
		n += s.Tokens
	}
	return n
}

// WorkingSet counts the different KV blocks of a workload's prompts: what a cache has to hold to find all that was
// there before.
func WorkingSet(t *traces.Trace, blockSize int) int64 {
	p := newPrefixes()
	total := int64(0)
	for i := range t.Requests {
		q := &t.Requests[i]
		known := p.add(q)
		total += (int64(q.Input)+int64(blockSize)-1)/int64(blockSize) - int64(known)/int64(blockSize)
	}
	return total
}

func newFuture(w *world) *future {
	f := &future{world: w, uses: map[uint64]*uses{}}
	p := newPrefixes()
	for i := range w.trace.Requests {
		p.add(&w.trace.Requests[i])
	}
	size := int32(w.cfg.BlockSize)
	var tokens []int32
	for i := range w.trace.Requests {
		q := w.trace.Requests[i]
		q.Input = min(p.shared(&q), q.Input-1) // the last token is never taken over
		if q.Input < size {
			continue
		}
		tokens = q.PromptTokens(tokens[:0], vocabulary, i)
		key := schemas.FirstPrefixKey(0)
		for ; len(tokens) >= int(size); tokens = tokens[size:] {
			key = schemas.PrefixKey(key, tokens[:size])
			u := f.uses[key]
			if u == nil {
				u = &uses{}
				f.uses[key] = u
			}
			u.requests = append(u.requests, int32(i))
		}
	}
	return f
}

// NextUse is the number of the first request that wants the prefix and has not begun.
func (f *future) NextUse(key uint64) int64 {
	u := f.uses[key]
	if u == nil {
		return math.MaxInt64
	}
	for ; u.next < len(u.requests); u.next++ {
		if f.world.requests[u.requests[u.next]].tokens == 0 {
			return int64(u.requests[u.next])
		}
	}
	return math.MaxInt64
}
