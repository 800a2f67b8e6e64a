package memory

import (
	"fmt"
	"math"
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// Config sizes a pool of KV blocks.
type Config struct {
	Blocks    int32 // blocks in the pool, at least 1
	BlockSize int32 // tokens per block, at least 1; Blocks × BlockSize must fit in an int32
	// PrefixCacheOff: nothing is kept for reuse after its last holder. Forks still share blocks.
	PrefixCacheOff bool
	Eviction       string // which cached block goes first, see Evictions: "lru" (default), "lfu", "fifo", "priority"
	Future         Future // for "belady" alone
	BytesPerBlock  int64  // KV bytes of one block over all layers; reported, not used
}

// Core is the memory manager's state machine. It is not safe for concurrent use.
type Core struct {
	cfg     Config
	epoch   schemas.Epoch
	step    schemas.StepID        // last step answered; 0 before the first
	last    *schemas.ReserveReply // its answer, for repeats
	seqs    map[schemas.SeqID]*sequence
	pool    *pool
	changes changes        // of prefixes, for routers
	grown   []*sequence    // granted by the last step: their places count as computed from the next one on
	settled schemas.StepID // the last step whose places count as computed

	round    uint64                      // counts requests looked at; sequences carry it as a mark instead of sets per request
	incoming map[schemas.SeqID]*sequence // admissions of the request being looked at
	in       resolved
	out      reply
	starved  bool // a row of the request being looked at was denied for lack of blocks

	queryTokens, hitTokens, preemptions, copies uint64

	// Scratch, empty between uses.
	matched  []schemas.BlockID
	eligible []*sequence
	lost     []int32 // by block: holders that would let go
	straddle []int32 // a block's token ids where it spans prompt and output
}

// sequence is what memory knows of one sequence. Its tokens stay when it is preempted.
type sequence struct {
	id       schemas.SeqID
	prompt   []int32 // the admission's column itself: messages are immutable
	output   []int32 // learned since
	salt     uint64
	priority int32
	fork     schemas.SeqID // 0: none, or the first row was granted

	table    []schemas.BlockID
	placed   int32 // tokens that have a place in table
	computed int32 // of these, the leading ones that earlier steps wrote
	named    int32 // leading blocks of table whose content has a name

	// The round in which …
	releasedAt  uint64 // … a release named it
	rowAt       uint64 // … a row named it
	grantedAt   uint64 // … its row was granted
	preemptedAt uint64 // … it lost its blocks
	sourceAt    uint64 // … a fork copied from its blocks
	victimAt    uint64 // … it was listed among the victims
}

func (s *sequence) known() int32 { return int32(len(s.prompt) + len(s.output)) }

// NewCore returns an empty pool. Errors name the field of cfg.
func NewCore(cfg Config) (*Core, error) {
	switch {
	case cfg.Blocks < 1:
		return nil, fmt.Errorf("memory: Blocks: %d, want at least 1", cfg.Blocks)
	case cfg.BlockSize < 1:
		return nil, fmt.Errorf("memory: BlockSize: %d tokens, want at least 1", cfg.BlockSize)
	case int64(cfg.Blocks)*int64(cfg.BlockSize) > math.MaxInt32:
		return nil, fmt.Errorf("memory: Blocks: %d blocks of %d tokens exceed the %d positions an int32 can name",
			cfg.Blocks, cfg.BlockSize, math.MaxInt32)
	case cfg.BytesPerBlock < 0:
		return nil, fmt.Errorf("memory: BytesPerBlock: %d, want at least 0", cfg.BytesPerBlock)
	}
	if cfg.Eviction == "" {
		cfg.Eviction = "lru"
	}
	if err := checkEviction(cfg.Eviction, cfg.Future); err != nil {
		return nil, err
	}
	c := &Core{
		cfg:      cfg,
		incoming: map[schemas.SeqID]*sequence{},
		lost:     make([]int32, cfg.Blocks),
		straddle: make([]int32, cfg.BlockSize),
	}
	c.reset(0)
	return c, nil
}

// Reserve applies one step's changes and grants its rows. An error means that the request had no
// effect; it names the field, and the sequence where one is at fault.
//
// A repeat of the last (Epoch, Step) gets the identical reply, whatever else it says. A later epoch
// than the last is new and starts from an empty pool; an earlier one is an error. The reply is immutable.
//
// Granted places count as computed from the next request on. A scheduler that was granted a row must
// therefore run it, or start a new epoch: otherwise others would find its blocks with nothing in them.
func (c *Core) Reserve(req *schemas.ReserveRequest) (*schemas.ReserveReply, *schemas.Error) {
	if req == nil {
		return nil, schemas.Errorf(schemas.KindInvalid, "reserve", "request: nil")
	}
	if c.Answered(req) {
		return c.last, nil
	}
	if err := c.validate(req); err != nil {
		err.Step = req.Step
		return nil, err
	}
	if c.isNew(req.Epoch) {
		c.reset(req.Epoch)
	}
	c.settle()
	c.step = req.Step
	c.learn(req) // before the releases: what an ended sequence said may be the next one's prefix
	for _, id := range req.Release {
		c.release(schemas.SeqID(id))
	}
	for _, a := range req.Admit {
		c.seqs[a.Seq] = c.incoming[a.Seq]
	}
	c.grantRows(req)

	c.last = c.out.finish(c)
	return c.last, nil
}

// Refuse is Reserve where no block can be had: what changed is accounted for, and no row is granted.
func (c *Core) Refuse(req *schemas.ReserveRequest) (*schemas.ReserveReply, *schemas.Error) {
	if req == nil || c.Answered(req) {
		return c.Reserve(req)
	}
	if err := c.validate(req); err != nil {
		err.Step = req.Step
		return nil, err
	}
	bare := *req
	bare.Seq, bare.WantMax, bare.MayPreempt, bare.Victims = nil, nil, nil, nil
	if _, err := c.Reserve(&bare); err != nil {
		return nil, err
	}
	refused := *c.last
	for _, column := range []*schemas.I32{&refused.Granted, &refused.Start, &refused.Cached, &refused.BlockFrom, &refused.BlockCount} {
		*column = make(schemas.I32, len(req.Seq))
	}
	c.last = &refused
	return c.last, nil
}

// Answered reports whether req repeats the last request.
func (c *Core) Answered(req *schemas.ReserveRequest) bool {
	return c.step != 0 && req.Epoch == c.epoch && req.Step == c.step
}

func (c *Core) isNew(e schemas.Epoch) bool { return c.step == 0 || e != c.epoch }

// reset forgets everything but the configuration and the counters of events, which only ever grow.
func (c *Core) reset(e schemas.Epoch) {
	var evictions uint64
	if c.pool != nil {
		evictions = c.pool.evictions
	}
	c.epoch, c.step, c.settled, c.last = e, 0, 0, nil
	c.seqs = map[schemas.SeqID]*sequence{}
	c.grown = c.grown[:0]
	c.changes.forget()
	c.pool = newPool(c.cfg, uint64(e), &c.changes)
	c.pool.evictions = evictions
}

// settle takes note that the steps answered so far run before the one being planned: what they placed
// is computed by then, and full blocks of it become findable, in the order of the last step's rows.
func (c *Core) settle() {
	if len(c.grown) > 0 {
		c.settled = c.step
	}
	for _, s := range c.grown {
		s.computed = s.placed
		c.nameBlocks(s)
	}
	c.grown = c.grown[:0]
}

// release forgets a sequence. One that is unknown has ended already.
func (c *Core) release(id schemas.SeqID) {
	if s := c.seqs[id]; s != nil {
		c.dropTable(s)
		delete(c.seqs, id)
	}
}

// dropTable lets go of all blocks of s, the last one first: of a cached prefix the end is evicted
// before the beginning, without which it could not be found.
func (c *Core) dropTable(s *sequence) {
	for _, b := range slices.Backward(s.table) {
		c.pool.drop(b)
	}
	s.table = s.table[:0]
	s.placed, s.computed, s.named = 0, 0, 0
}

// learn appends output tokens and names the blocks that they complete. Tokens beyond the pool's
// capacity are left out: no place can ever hold them.
func (c *Core) learn(req *schemas.ReserveRequest) {
	tokens := req.LearnTokens
	for i, s := range c.in.learn {
		n := req.LearnCount[i]
		keep := min(n, max(0, c.capacity()-s.known()))
		s.output = append(s.output, tokens[:keep]...)
		tokens = tokens[n:]
		c.nameBlocks(s)
	}
}

// capacity is the number of tokens that the whole pool has places for.
func (c *Core) capacity() int32 { return c.cfg.Blocks * c.cfg.BlockSize }

// nameBlocks names the blocks of s that are full, computed and known by their ids.
func (c *Core) nameBlocks(s *sequence) {
	if c.cfg.PrefixCacheOff {
		return
	}
	full := min(s.computed, s.known()) / c.cfg.BlockSize
	for ; s.named < full; s.named++ {
		b := s.table[s.named]
		if c.pool.blocks[b].name != noName {
			continue // shared with a fork that named it first
		}
		parent := noName
		if s.named > 0 {
			parent = c.pool.blocks[s.table[s.named-1]].name
		}
		c.pool.name(b, parent, s.salt, c.blockTokens(s, s.named), s.priority)
	}
}

// blockTokens returns the token ids of block i of s, all of which are known. The result is valid
// until the next call.
func (c *Core) blockTokens(s *sequence, i int32) []int32 {
	from, to := int(i*c.cfg.BlockSize), int((i+1)*c.cfg.BlockSize)
	switch p := len(s.prompt); {
	case to <= p:
		return s.prompt[from:to]
	case from >= p:
		return s.output[from-p : to-p]
	default:
		n := copy(c.straddle, s.prompt[from:])
		copy(c.straddle[n:], s.output[:to-p])
		return c.straddle
	}
}
