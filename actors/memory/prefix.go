package memory

import (
	"math/bits"
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// prefixIndex finds blocks by content. The content of a full block is named by its token ids, the name
// of the block before it and, for a first block, the salt: equal names mean equal prefixes from the
// first token on.
//
// Lookup is by a 64-bit hash chained over the blocks, but a name matches only if token ids and
// predecessor are the same, so a hash collision costs time and never returns foreign KV. The price is
// to keep the ids: 4 × BlockSize bytes and about 60 more per block of the pool.
type prefixIndex struct {
	names   []name
	tokens  []int32  // of name n: tokens[n*blockSize:(n+1)*blockSize]
	unused  []nameID // stack of indices into names; every name has a block, so there are enough
	heads   []nameID // hash table: first name of each bucket; a power of two
	serials uint64
	seed    uint64 // the epoch: what collides in one run of an engine does not in the next
	changes *changes

	blockSize int32
}

// nameID is an index into prefixIndex.names.
type nameID int32

const (
	noName  nameID          = -1
	noBlock schemas.BlockID = -1 // of a name that is not in use
)

type name struct {
	hash   uint64
	key    uint64 // what routers call it, see schemas.PrefixKey
	salt   uint64
	serial uint64 // never repeats, while indices are reused
	// parent is noName for a first block. It is the same prefix only while it has parentSerial.
	parent       nameID
	parentSerial uint64
	block        schemas.BlockID // the block to share
	next         nameID          // in the bucket
}

func newPrefixIndex(blocks, blockSize int32, seed uint64, changes *changes) prefixIndex {
	x := prefixIndex{
		names:     make([]name, blocks),
		tokens:    make([]int32, int(blocks)*int(blockSize)),
		unused:    make([]nameID, blocks),
		heads:     make([]nameID, 1<<bits.Len32(uint32(blocks))),
		seed:      seed,
		changes:   changes,
		blockSize: blockSize,
	}
	for i := range x.unused {
		x.unused[i] = nameID(len(x.unused) - 1 - i)
		x.names[i].block = noBlock
	}
	for i := range x.heads {
		x.heads[i] = noName
	}
	return x
}

// hash chains tokens onto the hash of the prefix before them.
func (x *prefixIndex) hash(parent nameID, salt uint64, tokens []int32) uint64 {
	h := mix(x.seed) ^ salt
	if parent != noName {
		h = x.names[parent].hash
	}
	h = mix(h)
	for ; len(tokens) >= 2; tokens = tokens[2:] {
		h = mix(h ^ uint64(uint32(tokens[0])) ^ uint64(uint32(tokens[1]))<<32)
	}
	if len(tokens) == 1 {
		h = mix(h ^ uint64(uint32(tokens[0])))
	}
	return h
}

// mix folds the 128-bit product with an odd constant (the fractions of √2 and √3).
func mix(v uint64) uint64 {
	hi, lo := bits.Mul64(v^0x6a09e667f3bcc908, 0xbb67ae8584caa73b)
	return hi ^ lo
}

func (x *prefixIndex) bucket(hash uint64) *nameID { return &x.heads[hash&uint64(len(x.heads)-1)] }

func (x *prefixIndex) tokensOf(n nameID) []int32 {
	at := int(n) * int(x.blockSize)
	return x.tokens[at : at+int(x.blockSize)]
}

// find returns the name of tokens after the prefix parent, or noName.
func (x *prefixIndex) find(parent nameID, salt, hash uint64, tokens []int32) nameID {
	for n := *x.bucket(hash); n != noName; n = x.names[n].next {
		at := &x.names[n]
		if at.hash == hash && at.parent == parent && at.salt == salt && x.reachable(at) &&
			slices.Equal(x.tokensOf(n), tokens) {
			return n
		}
	}
	return noName
}

// reachable says whether the prefix that at continues still has its name.
func (x *prefixIndex) reachable(at *name) bool {
	return at.parent == noName || x.names[at.parent].serial == at.parentSerial
}

// add makes block b findable.
func (x *prefixIndex) add(b schemas.BlockID, parent nameID, salt, hash uint64, tokens []int32) nameID {
	last := len(x.unused) - 1
	n := x.unused[last]
	x.unused = x.unused[:last]
	x.serials++
	head := x.bucket(hash)
	before := schemas.FirstPrefixKey(salt)
	if parent != noName {
		before = x.names[parent].key
	}
	x.names[n] = name{hash: hash, key: schemas.PrefixKey(before, tokens), salt: salt, serial: x.serials, parent: parent, block: b, next: *head}
	if parent != noName {
		x.names[n].parentSerial = x.names[parent].serial
	}
	x.changes.note(x.names[n].key, true)
	*head = n
	copy(x.tokensOf(n), tokens)
	return n
}

// remove forgets a name.
func (x *prefixIndex) remove(n nameID) {
	at := x.bucket(x.names[n].hash)
	for *at != n {
		at = &x.names[*at].next
	}
	*at = x.names[n].next
	x.changes.note(x.names[n].key, false)
	x.names[n] = name{block: noBlock, parent: noName, next: noName}
	x.unused = append(x.unused, n)
}

// size counts the names, each of which finds one block.
func (x *prefixIndex) size() int32 { return int32(len(x.names) - len(x.unused)) }
