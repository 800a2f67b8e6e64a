package scheduler

// PrefixAgingNs is what one cached token is worth in waiting time.
const PrefixAgingNs = 5_000_000

// Prefix serves the request with the longest cached prefix first: it costs the least and finds its blocks before
// others have displaced them. Each cached token is worth PrefixAgingNs of waiting, so none starves.
//
// Memory tells what it found in its cache only of rows that it grants, so the policy keeps an index of its own:
// the chained hashes of the blocks that were computed, as many as the pool has, the oldest forgotten first. It is
// a guess: memory may have evicted a block that the index still has.
type Prefix struct {
	blockSize int
	ring      []uint64 // hashes of blocks in the order of their coming
	next      int
	indexed   map[uint64]int // places in ring
	changed   bool           // the index, or who waits, since the last Refresh

	chains map[*Sequence][]uint64 // of the sequences in the engine
}

// Name is "prefix".
func (*Prefix) Name() string { return "prefix" }

// Configure sizes the index.
func (p *Prefix) Configure(cfg *Config) {
	p.blockSize = int(cfg.BlockSize)
	p.ring, p.next, p.indexed = make([]uint64, cfg.Blocks), 0, map[uint64]int{}
	p.chains = map[*Sequence][]uint64{}
}

// Key is the arrival time, earlier by what is cached. A running sequence keeps its place.
func (p *Prefix) Key(s *Sequence, _ int64) int64 {
	return s.arrivedNs - s.note*int64(p.blockSize)*PrefixAgingNs
}

// Refresh follows the index: a sequence's note is the number of its prompt's leading blocks that are in it.
func (p *Prefix) Refresh(_ int64, _, waiting []*Sequence) {
	if !p.changed {
		return
	}
	p.changed = false
	for _, s := range waiting {
		chain, depth := p.chains[s], int(s.note)
		for depth < len(chain) && p.has(chain[depth]) {
			depth++
		}
		for depth > 0 && !p.has(chain[depth-1]) {
			depth--
		}
		s.note = int64(depth)
	}
}

func (p *Prefix) has(hash uint64) bool {
	_, ok := p.indexed[hash]
	return ok
}

// Arrived hashes the prompt.
func (p *Prefix) Arrived(s *Sequence, _ int64) {
	p.changed = true
	p.chains[s] = appendChain(nil, s.request.CacheSalt, p.blockSize, s.request.Tokens)
}

// Planned indexes the prompt's blocks once the last of it is computed.
func (p *Prefix) Planned(s *Sequence, prompt, _ int32, _ int64) {
	if prompt > 0 && s.planned >= s.PromptTokens() {
		p.index(p.chains[s])
	}
}

// Ended indexes the blocks of the answer as well: the next turn of a chat begins with them.
func (p *Prefix) Ended(s *Sequence, _ int64) {
	if s.started && len(s.output) > 0 {
		chain := p.chains[s]
		from := len(chain) * p.blockSize
		rest := append(append([]int32(nil), s.request.Tokens[from:]...), s.output...)
		p.index(appendChain(chain, s.request.CacheSalt, p.blockSize, rest)[len(chain):])
	}
	delete(p.chains, s)
}

// index adds hashes in place of the oldest.
func (p *Prefix) index(chain []uint64) {
	for _, hash := range chain {
		if p.has(hash) {
			continue
		}
		p.changed = true
		if old := p.ring[p.next]; p.indexed[old] == p.next && old != 0 {
			delete(p.indexed, old)
		}
		p.ring[p.next], p.indexed[hash] = hash, p.next
		p.next = (p.next + 1) % len(p.ring)
	}
}

// appendChain continues a chain of hashes by the full blocks of tokens: each covers all before it (FNV-1a, 64 bits).
func appendChain(chain []uint64, salt uint64, blockSize int, tokens []int32) []uint64 {
	const offset, prime = 14695981039346656037, 1099511628211
	hash := offset ^ salt
	if n := len(chain); n > 0 {
		hash = chain[n-1]
	}
	for ; len(tokens) >= blockSize; tokens = tokens[blockSize:] {
		for _, t := range tokens[:blockSize] {
			hash = (hash ^ uint64(uint32(t))) * prime
		}
		chain = append(chain, hash)
	}
	return chain
}
