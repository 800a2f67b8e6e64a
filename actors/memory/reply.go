package memory

import (
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// reply collects a ReserveReply. The row columns share one allocation, made anew for each reply
// because replies are immutable; the other columns are collected in reused buffers and copied out.
type reply struct {
	step                                          schemas.StepID
	granted, start, cached, blockFrom, blockCount []int32

	blocks, copies []int32
	preempted      []uint64
}

func (r *reply) begin(step schemas.StepID, rows int) {
	columns := make([]int32, 5*rows)
	for _, column := range []*[]int32{&r.granted, &r.start, &r.cached, &r.blockFrom, &r.blockCount} {
		*column, columns = columns[:rows:rows], columns[rows:]
	}
	r.step = step
	r.blocks, r.copies, r.preempted = r.blocks[:0], r.copies[:0], r.preempted[:0]
}

// grant fills row i: n tokens from position first on, and the table from entry changed on.
func (r *reply) grant(i int, n, first, cached int32, changed int, tail []schemas.BlockID) {
	r.granted[i], r.start[i], r.cached[i] = n, first, cached
	r.blockFrom[i], r.blockCount[i] = int32(changed), int32(len(tail))
	for _, b := range tail {
		r.blocks = append(r.blocks, int32(b))
	}
}

func (r *reply) finish(c *Core) *schemas.ReserveReply {
	return &schemas.ReserveReply{
		Step: r.step, Granted: r.granted, Start: r.start, Cached: r.cached,
		BlockFrom: r.blockFrom, BlockCount: r.blockCount, Blocks: copied(r.blocks),
		Preempted: copied(r.preempted), Copies: copied(r.copies),
		Free: c.pool.unused(), Evictable: c.pool.cached.len(), Total: c.cfg.Blocks,
	}
}

// copied returns nil for an empty column, as decoding does.
func copied[T any](column []T) []T {
	if len(column) == 0 {
		return nil
	}
	return slices.Clone(column)
}
