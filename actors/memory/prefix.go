package memory

import (
	"math"
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
// to keep the ids: 4 × BlockSize bytes and about 110 more per block that is used.
type prefixIndex struct {
	names   []name   // [0] is noName; the capacity is enough for all, since every name has a block
	tokens  []int32  // of name n: tokens[n*blockSize:(n+1)*blockSize]
	unused  []nameID // stack of indices into names that are free again
	heads   []nameID // hash table: first name of each bucket; a power of two
	serials uint64
	seed    uint64 // the epoch: what collides in one run of an engine does not in the next
	changes *changes

	blockSize int32
}

// nameID is an index into prefixIndex.names. Zero is no name, so that memory which was never written, and costs
// nothing, has the right content: a pool is often far larger than what is used of it.
type nameID int32

const (
	noName  nameID          = 0
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

	// What eviction policies go by.
	children int32 // names that continue this one
	uses     int32 // since it was added: once to compute it, and whenever a sequence took it over or computed it again
	priority int32 // the best, which is the lowest, of the sequences that used it
}

func newPrefixIndex(blocks, blockSize int32, seed uint64, changes *changes) prefixIndex {
	x := prefixIndex{
		names:     make([]name, 1, int(blocks)+1),
		tokens:    make([]int32, (int(blocks)+1)*int(blockSize)),
		heads:     make([]nameID, 1<<bits.Len32(uint32(blocks))),
		seed:      seed,
		changes:   changes,
		blockSize: blockSize,
	}
	x.names[noName].block = noBlock
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

// add makes block b findable for the first sequence that has its content.
func (x *prefixIndex) add(b schemas.BlockID, parent nameID, salt, hash uint64, tokens []int32, priority int32) nameID {
	n := nameID(len(x.names))
	if last := len(x.unused) - 1; last >= 0 {
		n, x.unused = x.unused[last], x.unused[:last]
	} else {
		x.names = append(x.names, name{})
	}
	x.serials++
	head := x.bucket(hash)
	before := schemas.FirstPrefixKey(salt)
	if parent != noName {
		before = x.names[parent].key
	}
	x.names[n] = name{hash: hash, key: schemas.PrefixKey(before, tokens), salt: salt, serial: x.serials, parent: parent, block: b, next: *head,
		uses: 1, priority: priority}
	if parent != noName {
		x.names[n].parentSerial = x.names[parent].serial
		x.names[parent].children++
	}
	x.changes.note(x.names[n].key, true)
	*head = n
	copy(x.tokensOf(n), tokens)
	return n
}

// use notes that another sequence has the content of n.
func (x *prefixIndex) use(n nameID, priority int32) {
	at := &x.names[n]
	if at.uses < math.MaxInt32 {
		at.uses++
	}
	at.priority = min(at.priority, priority)
}

// remove forgets a name.
func (x *prefixIndex) remove(n nameID) {
	at := x.bucket(x.names[n].hash)
	for *at != n {
		at = &x.names[*at].next
	}
	*at = x.names[n].next
	x.changes.note(x.names[n].key, false)
	if parent := x.names[n].parent; parent != noName && x.reachable(&x.names[n]) {
		x.names[parent].children--
	}
	x.names[n] = name{block: noBlock}
	x.unused = append(x.unused, n)
}

// size counts the names, each of which finds one block.
func (x *prefixIndex) size() int32 { return int32(max(len(x.names)-1, 0) - len(x.unused)) }
