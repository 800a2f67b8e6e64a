package tokenizers

import (
	"hash/maphash"
	"sync/atomic"
)

const (
	// cacheSlots is the number of pieces a model remembers; with maxCachedBytes it bounds the cache at about
	// 10 MB.
	cacheSlots = 1 << 16
	// maxCachedBytes is the length of the longest piece that is remembered.
	maxCachedBytes = 48
)

// pieceCache remembers the ids of pieces. It is a direct-mapped table of immutable entries behind atomic
// pointers: lookups take no lock, and a new piece replaces the one in its slot.
type pieceCache struct {
	seed  maphash.Seed
	slots []atomic.Pointer[cachedPiece]
}

type cachedPiece struct {
	piece string
	ids   []int32
}

func newPieceCache() *pieceCache {
	return &pieceCache{maphash.MakeSeed(), make([]atomic.Pointer[cachedPiece], cacheSlots)}
}

// lookup returns the slot of a piece and its ids if they are remembered.
func (c *pieceCache) lookup(piece string) (slot uint32, ids []int32, ok bool) {
	slot = uint32(maphash.String(c.seed, piece) % cacheSlots)
	if e := c.slots[slot].Load(); e != nil && e.piece == piece {
		return slot, e.ids, true
	}
	return slot, nil, false
}

// store remembers copies of a piece and its ids in a slot that lookup returned.
func (c *pieceCache) store(slot uint32, piece string, ids []int32) {
	owned := string(append([]byte(nil), piece...))
	c.slots[slot].Store(&cachedPiece{owned, append([]int32(nil), ids...)})
}
