package memory

import (
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// Find names the blocks of the longest cached prefix of tokens: whole blocks alone. It changes nothing. What a block
// holds was computed by steps up to the reply's Step, and stays as long as its name: as the same question has the same
// answer.
func (c *Core) Find(req *schemas.KVFindRequest) *schemas.KVFindReply {
	reply := &schemas.KVFindReply{Epoch: c.epoch, Step: c.settled}
	for n := range c.walk(req.Tokens, req.Salt) {
		at := &c.pool.prefix.names[n]
		reply.Blocks, reply.Serials = append(reply.Blocks, int32(at.block)), append(reply.Serials, at.serial)
	}
	return reply
}

// walk yields the names of the longest cached prefix of tokens.
func (c *Core) walk(tokens []int32, salt uint64) func(yield func(nameID) bool) {
	return func(yield func(nameID) bool) {
		if c.cfg.PrefixCacheOff {
			return
		}
		x, size, parent := &c.pool.prefix, int(c.cfg.BlockSize), noName
		for ; len(tokens) >= size; tokens = tokens[size:] {
			block := tokens[:size]
			if parent = x.find(parent, salt, x.hash(parent, salt, block), block); parent == noName || !yield(parent) {
				return
			}
		}
	}
}

// adoption is what adopt did: for each block on offer, or for the first of them, the one that is to be filled, or -1.
type adoption struct {
	reply  *schemas.KVAdoptReply
	blocks schemas.I32
}

// adopt makes blocks findable whose content another replica has computed: blocks [First, First+Count) of a prefix that is
// cached up to First. They are cached as if a sequence had computed them and ended. Blocks are taken as for a row, from what is
// free or evictable; where there are not enough, or the prefix before them is not cached, less or nothing is adopted.
//
// Whoever calls fills the blocks before any later step, or calls disown at once.
func (c *Core) adopt(req *schemas.KVAdoptRequest) (*adoption, *schemas.Error) {
	size := int64(c.cfg.BlockSize)
	switch {
	case req.First < 0 || req.Count < 1:
		return nil, schemas.Errorf(schemas.KindInvalid, "adopt", "first is %d and count %d; expected at least 0 and 1", req.First, req.Count).WithParam("count")
	case (int64(req.First)+int64(req.Count))*size != int64(len(req.Tokens)):
		return nil, schemas.Errorf(schemas.KindInvalid, "adopt", "%d tokens for %d blocks of %d", len(req.Tokens), int64(req.First)+int64(req.Count), size).WithParam("tokens")
	case c.cfg.PrefixCacheOff:
		return nil, schemas.Errorf(schemas.KindUnsupported, "adopt", "the prefix cache is off")
	case c.step == 0:
		return nil, schemas.Errorf(schemas.KindUnsupported, "adopt", "no step has been planned yet, and the first forgets everything")
	}
	a := &adoption{reply: &schemas.KVAdoptReply{}}
	held := []schemas.BlockID(nil)
	parent := noName
	for n := range c.walk(req.Tokens, req.Salt) {
		b := c.pool.prefix.names[n].block
		c.pool.hold(b) // taking blocks for the rest must not evict what they continue
		held, parent = append(held, b), n
	}
	for i := len(held); i >= int(req.First) && i < int(req.First+req.Count) && c.pool.available() > 0; i++ {
		b := c.pool.alloc()
		c.pool.name(b, parent, req.Salt, req.Tokens[i*int(size):(i+1)*int(size)], 0)
		held, parent = append(held, b), c.pool.blocks[b].name
		if a.blocks == nil {
			a.blocks = append(a.blocks, slices.Repeat(schemas.I32{-1}, i-int(req.First))...)
		}
		a.blocks = append(a.blocks, int32(b))
		a.reply.Adopted++
	}
	a.reply.Held = int32(len(held))
	for _, b := range slices.Backward(held) { // the last one first, as dropTable does
		c.pool.drop(b)
	}
	return a, nil
}

// disown takes an adoption back whose blocks could not be filled.
func (c *Core) disown(a *adoption) {
	for _, b := range slices.Backward(a.blocks) {
		if b < 0 {
			continue
		}
		block := schemas.BlockID(b)
		c.pool.cached.remove(block)
		c.pool.unname(block)
		c.pool.free = append(c.pool.free, block)
	}
	a.reply.Held, a.reply.Adopted = a.reply.Held-a.reply.Adopted, 0
}

// latest is the last step that granted something.
func (c *Core) latest() schemas.StepID {
	if len(c.grown) > 0 {
		return c.step
	}
	return c.settled
}

// Replay does again what a journal says of an adoption.
func (c *Core) Replay(req *schemas.KVAdoptRequest) {
	if a, err := c.adopt(req); err == nil && req.Undone {
		c.disown(a)
	}
}
