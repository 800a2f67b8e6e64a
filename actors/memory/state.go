package memory

import (
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// State returns a snapshot for debugging and metrics. Its counters survive a new epoch.
func (c *Core) State() *schemas.MemoryState {
	s := &schemas.MemoryState{
		Epoch: c.epoch, Step: c.step,
		BlockSize: c.cfg.BlockSize, Total: c.cfg.Blocks,
		Free: c.pool.unused(), Cached: c.pool.cached.len(),
		Seqs: int32(len(c.seqs)), PrefixHashed: c.pool.prefix.size(),
		QueryTokens: c.queryTokens, HitTokens: c.hitTokens,
		Evictions: c.pool.evictions, Copies: c.copies, Preemptions: c.preemptions,
		Policy: c.cfg.Eviction, BytesPer: c.cfg.BytesPerBlock,
	}
	s.Used = s.Total - s.Free - s.Cached
	for i := range c.pool.blocks {
		if c.pool.blocks[i].refs > 1 {
			s.Shared++
		}
	}
	ids := c.sortedIDs()
	shown := ids[:min(len(ids), schemas.SeqStatesMax)]
	s.MoreTables = int32(len(ids) - len(shown))
	for _, id := range shown {
		seq := c.seqs[id]
		table := schemas.SeqTable{Seq: id, Placed: seq.placed}
		for _, b := range seq.table {
			table.Blocks = append(table.Blocks, int32(b))
		}
		s.Tables = append(s.Tables, table)
	}
	return s
}

func (c *Core) sortedIDs() []schemas.SeqID {
	ids := make([]schemas.SeqID, 0, len(c.seqs))
	for id := range c.seqs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}
