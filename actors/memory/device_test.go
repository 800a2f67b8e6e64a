package memory

import (
	"fmt"
	"hash/fnv"
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// device simulates the KV pool. A place holds a digest of what its KV depends on: salt and all tokens
// up to its own.
type device struct {
	size int
	kv   []uint64
}

func newDevice(cfg Config) *device {
	return &device{size: int(cfg.BlockSize), kv: make([]uint64, cfg.Blocks*cfg.BlockSize)}
}

func (d *device) place(table []int32, position int) *uint64 {
	return &d.kv[int(table[position/d.size])*d.size+position%d.size]
}

// digests returns what the first n places of s should hold.
func digests(w *world, s *truth, n int) []uint64 {
	h := fnv.New64a()
	fmt.Fprint(h, s.salt, ":")
	out := make([]uint64, n)
	for i := range out {
		fmt.Fprint(h, w.token(s, i), ",")
		out[i] = h.Sum64()
	}
	return out
}

// run executes a granted step: copies, then each row's writes. Afterwards every sequence must find
// exactly its own KV in all of its places, whether or not it was in the step.
func (d *device) run(w *world, req *schemas.ReserveRequest, reply *schemas.ReserveReply) error {
	if err := d.copyBlocks(reply.Copies); err != nil {
		return err
	}
	writer := map[int32]uint64{}
	for i, id := range req.Seq {
		s := w.seqs[id]
		first, end := int(reply.Start[i]), int(reply.Start[i]+reply.Granted[i])
		if len(s.table) != (s.placed+d.size-1)/d.size {
			return fmt.Errorf("sequence %d has %d blocks for %d tokens", id, len(s.table), s.placed)
		}
		want := digests(w, s, end)
		for p := first; p < end; p++ {
			b := s.table[p/d.size]
			if other, ok := writer[b]; ok && other != id {
				return fmt.Errorf("sequences %d and %d write block %d in one step", other, id, b)
			}
			writer[b] = id
			*d.place(s.table, p) = want[p]
		}
	}
	for _, id := range w.ids {
		s := w.seqs[id]
		for p, want := range digests(w, s, s.placed) {
			if *d.place(s.table, p) != want {
				return fmt.Errorf("sequence %d reads foreign KV at position %d, block %d", id, p, s.table[p/d.size])
			}
		}
	}
	return nil
}

// copyBlocks makes the copies last first: by contract their order does not matter.
func (d *device) copyBlocks(pairs []int32) error {
	sources := map[int32]bool{}
	for i := 0; i < len(pairs); i += 2 {
		sources[pairs[i]] = true
	}
	seen := map[int32]bool{}
	for pair := range slices.Chunk(pairs, 2) {
		if sources[pair[1]] || seen[pair[1]] {
			return fmt.Errorf("copies %v: block %d is written twice, or read and written", pairs, pair[1])
		}
		seen[pair[1]] = true
	}
	for i := len(pairs) - 2; i >= 0; i -= 2 {
		from, to := int(pairs[i])*d.size, int(pairs[i+1])*d.size
		copy(d.kv[to:to+d.size], d.kv[from:from+d.size])
	}
	return nil
}
