package memory

import (
	"fmt"
	"maps"
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// oracle is the memory manager written for obviousness: content is the whole prefix as a string,
// holders are counted by looking at all tables, and what might fail is tried on a copy.
type oracle struct {
	starved  bool // a row was denied for lack of blocks
	size     int
	cacheOff bool
	epoch    schemas.Epoch
	seqs     map[uint64]*oracleSeq
	content  map[int]string // by block
	namedAt  map[int]int    // by block: when it got its content
	clock    int
	free     []int // the last goes first
	unused   []int // cached blocks, the longest unused first
	grown    []uint64
	policy   string
	worth    map[string]worth // by content that a block has

	// Of the request being answered.
	granted, source map[uint64]bool
	preempted       []uint64
}

// worth is what eviction policies know of a content.
type worth struct {
	born, uses int
	priority   int32
	parent     string // the content before it
}

type oracleSeq struct {
	priority                 int32
	tokens                   []int32
	prompt, placed, computed int
	salt, fork               uint64
	table                    []int
}

func newOracle(cfg Config, epoch schemas.Epoch) *oracle {
	o := &oracle{size: int(cfg.BlockSize), cacheOff: cfg.PrefixCacheOff, epoch: epoch,
		seqs: map[uint64]*oracleSeq{}, content: map[int]string{}, namedAt: map[int]int{}, worth: map[string]worth{}}
	if o.policy = cfg.Eviction; o.policy == "" {
		o.policy = "lru"
	}
	for b := int(cfg.Blocks) - 1; b >= 0; b-- {
		o.free = append(o.free, b)
	}
	return o
}

func (o *oracle) clone() *oracle {
	c := *o
	c.seqs = map[uint64]*oracleSeq{}
	for id, s := range o.seqs {
		copied := *s
		copied.table = slices.Clone(s.table)
		c.seqs[id] = &copied
	}
	c.content, c.namedAt, c.worth = maps.Clone(o.content), maps.Clone(o.namedAt), maps.Clone(o.worth)
	c.granted, c.source = maps.Clone(o.granted), maps.Clone(o.source)
	c.free, c.unused = slices.Clone(o.free), slices.Clone(o.unused)
	c.grown, c.preempted = slices.Clone(o.grown), slices.Clone(o.preempted)
	return &c
}

func (o *oracle) holders(b int) (n int) {
	for _, s := range o.seqs {
		if slices.Contains(s.table, b) {
			n++
		}
	}
	return n
}

// findable returns the block that was named first with this content.
func (o *oracle) findable(content string) (int, bool) {
	found, ok := 0, false
	for b, c := range o.content {
		if c == content && (!ok || o.namedAt[b] < o.namedAt[found]) {
			found, ok = b, true
		}
	}
	return found, ok
}

func (o *oracle) forget(b int) { delete(o.content, b); delete(o.namedAt, b) }

func (o *oracle) alloc() int {
	if n := len(o.free); n > 0 {
		b := o.free[n-1]
		o.free = o.free[:n-1]
		return b
	}
	at := o.evict()
	b := o.unused[at]
	o.unused = slices.Delete(o.unused, at, at+1)
	delete(o.worth, o.content[b])
	o.forget(b)
	return b
}

// evict returns the place in unused of the block that the policy gives up.
func (o *oracle) evict() int {
	if o.policy == "lru" {
		return 0
	}
	best, bestKey := -1, 0
	for i, b := range o.unused {
		tip := true
		for _, w := range o.worth {
			tip = tip && w.parent != o.content[b]
		}
		w := o.worth[o.content[b]]
		key := map[string]int{"fifo": w.born, "lfu": w.uses, "priority": -int(w.priority)}[o.policy]
		if tip && (best < 0 || key < bestKey) {
			best, bestKey = i, key
		}
	}
	return best
}

// use notes that a sequence of a priority has a content.
func (o *oracle) use(content, parent string, priority int32) {
	w, known := o.worth[content]
	if !known {
		o.clock++
		w = worth{born: o.clock, priority: priority, parent: parent}
	}
	w.uses++
	w.priority = min(w.priority, priority)
	o.worth[content] = w
}

func (o *oracle) letGo(s *oracleSeq) {
	for len(s.table) > 0 {
		b := s.table[len(s.table)-1]
		s.table = s.table[:len(s.table)-1]
		if o.holders(b) > 0 {
			continue
		}
		content, named := o.content[b]
		o.forget(b)
		if _, twin := o.findable(content); named && !twin {
			o.content[b] = content
			o.clock++
			o.namedAt[b] = o.clock
			o.unused = append(o.unused, b)
		} else {
			o.free = append(o.free, b)
		}
	}
	s.placed, s.computed = 0, 0
}

func (s *oracleSeq) prefix(n int) string { return fmt.Sprint(s.salt, s.tokens[:n]) }

func (o *oracle) nameFull(s *oracleSeq) {
	for i := 1; !o.cacheOff && i*o.size <= min(s.computed, len(s.tokens)); i++ {
		b := s.table[i-1]
		if _, named := o.content[b]; named {
			continue
		}
		twin, ok := o.findable(s.prefix(i * o.size))
		parent := ""
		if i > 1 {
			parent = s.prefix((i - 1) * o.size)
		}
		o.use(s.prefix(i*o.size), parent, s.priority)
		o.clock++
		o.content[b], o.namedAt[b] = s.prefix(i*o.size), o.clock
		if at := slices.Index(o.unused, twin); ok && at >= 0 {
			o.unused = slices.Delete(o.unused, at, at+1)
			o.forget(twin)
			o.free = append(o.free, twin)
		}
	}
}

func (o *oracle) preempt(id uint64) {
	o.letGo(o.seqs[id])
	o.preempted = append(o.preempted, id)
}

// takeOver gives s its first blocks and returns the tokens in them and the fork's source.
func (o *oracle) takeOver(s *oracleSeq) (cached int, source uint64) {
	p, n := o.seqs[s.fork], s.prompt-1
	if s.fork != 0 && p != nil && n > 0 && p.computed >= n && p.salt == s.salt && p.prompt >= n &&
		slices.Equal(p.tokens[:n], s.tokens[:n]) {
		s.table = slices.Clone(p.table[:(n+o.size-1)/o.size])
		for _, b := range s.table {
			if content, named := o.content[b]; named {
				o.use(content, "", s.priority)
			}
		}
		return n, s.fork
	}
	for !o.cacheOff && cached+o.size < len(s.tokens) {
		b, ok := o.findable(s.prefix(cached + o.size))
		if !ok {
			break
		}
		if at := slices.Index(o.unused, b); at >= 0 {
			o.unused = slices.Delete(o.unused, at, at+1)
		}
		s.table = append(s.table, b)
		o.use(o.content[b], "", s.priority)
		cached += o.size
	}
	return cached, 0
}

// reserve answers a valid request that is not a repeat.
func (o *oracle) reserve(cfg Config, req *schemas.ReserveRequest) *schemas.ReserveReply {
	if req.Epoch != o.epoch {
		cfg.Eviction = o.policy
		*o = *newOracle(cfg, req.Epoch)
	}
	o.granted, o.source, o.preempted = map[uint64]bool{}, map[uint64]bool{}, nil
	for _, id := range o.grown {
		o.seqs[id].computed = o.seqs[id].placed
		o.nameFull(o.seqs[id])
	}
	o.grown = nil
	tokens := req.LearnTokens
	for i, id := range req.LearnSeq {
		s, n := o.seqs[id], int(req.LearnCount[i])
		s.tokens = append(slices.Clone(s.tokens), tokens[:n]...)
		tokens = tokens[n:]
		o.nameFull(s)
	}
	for _, id := range req.Release {
		if s := o.seqs[id]; s != nil {
			o.letGo(s)
			delete(o.seqs, id)
		}
	}
	for _, a := range req.Admit {
		o.seqs[uint64(a.Seq)] = &oracleSeq{tokens: a.Tokens, prompt: len(a.Tokens), salt: a.Salt, fork: uint64(a.Fork), priority: a.Priority}
	}
	reply := &schemas.ReserveReply{Step: req.Step, Total: cfg.Blocks}
	rows := len(req.Seq)
	for _, column := range []*schemas.I32{&reply.Granted, &reply.Start, &reply.Cached, &reply.BlockFrom, &reply.BlockCount} {
		*column = make(schemas.I32, rows)
	}
	budget := int(req.TokensMax)
	o.starved = false
	for i := range req.Seq {
		if req.WantMax[i] == 1 {
			o.row(req, reply, i, 1)
		} else {
			budget -= o.row(req, reply, i, budget)
		}
	}
	for i, id := range req.Seq {
		if reply.Granted[i] == 0 {
			reply.Start[i], reply.BlockFrom[i] = int32(o.seqs[id].placed), int32(len(o.seqs[id].table))
		}
	}
	reply.Preempted = o.preempted
	reply.Free, reply.Evictable = int32(len(o.free)), int32(len(o.unused))
	return reply
}

func (o *oracle) row(req *schemas.ReserveRequest, reply *schemas.ReserveReply, i, budget int) int {
	id := req.Seq[i]
	want := min(int(req.WantMax[i]), budget)
	if want == 0 || slices.Contains(o.preempted, id) {
		return 0
	}
	if o.starved && len(o.seqs[id].table) == 0 {
		return 0
	}
	trial := o.clone()
	s := trial.seqs[id]
	was := slices.Clone(s.table)
	first, source, whole := s.placed, uint64(0), want
	if len(was) == 0 {
		first, source = trial.takeOver(s)
		whole = min(int(req.WantMax[i]), len(s.tokens)-first)
		want = min(want, whole)
	}
	if first+whole > int(reply.Total)*o.size {
		return 0
	}
	need, lack := (first+want+o.size-1)/o.size-len(s.table), (first+whole+o.size-1)/o.size-len(s.table)
	shared := first%o.size != 0 && trial.holders(s.table[len(s.table)-1]) > 1
	if shared {
		need++
		lack++
	}
	yields := false
	for _, v := range req.Victims {
		if len(trial.free)+len(trial.unused) >= lack || req.MayPreempt[i] == 0 {
			break
		}
		if yields = v == id; yields {
			break
		}
		if t := trial.seqs[v]; t == nil || len(t.table) == 0 || trial.granted[v] || trial.source[v] || v == source {
			continue
		}
		trial.preempt(v)
	}
	if len(trial.free)+len(trial.unused) < lack {
		if yields && len(was) > 0 && !o.source[id] {
			o.preempt(id)
		}
		o.starved = true
		return 0
	}
	cached := 0
	if len(was) == 0 {
		cached = first
		s.computed, s.fork = cached-cached%o.size, 0
	}
	if shared {
		last := &s.table[len(s.table)-1]
		from := *last
		*last = trial.alloc()
		reply.Copies = append(reply.Copies, int32(from), int32(*last))
		need--
	}
	for range need {
		s.table = append(s.table, trial.alloc())
	}
	s.placed = first + want
	if source != 0 {
		trial.source[source] = true
	}
	trial.granted[id] = true
	trial.grown = append(trial.grown, id)
	*o = *trial

	same := 0
	for same < len(was) && was[same] == s.table[same] {
		same++
	}
	reply.Granted[i], reply.Start[i], reply.Cached[i] = int32(want), int32(first), int32(cached)
	reply.BlockFrom[i], reply.BlockCount[i] = int32(same), int32(len(s.table)-same)
	for _, b := range s.table[same:] {
		reply.Blocks = append(reply.Blocks, int32(b))
	}
	return want
}
