package routing

import (
	"math/bits"

	"github.com/troupe-engine/troupe/schemas"
)

// BlockKeys appends to dst the names of a prompt's full blocks: name i stands for the first (i+1)×blockSize
// tokens and the salt, so equal names mean equal prefixes (up to collisions of 64 bits, which cost a cache
// miss and nothing else). Every process computes the same names.
func BlockKeys(dst []uint64, tokens schemas.I32, blockSize int32, salt uint64) []uint64 {
	if blockSize < 1 {
		return dst
	}
	key := FirstKey(salt)
	for n := int(blockSize); len(tokens) >= n; tokens = tokens[n:] {
		key = NextKey(key, tokens[:n])
		dst = append(dst, key)
	}
	return dst
}

// FirstKey is what the name of a prompt's first block continues.
func FirstKey(salt uint64) uint64 { return mix(salt ^ 0x9e3779b97f4a7c15) }

// NextKey is the name of a block with tokens after the prefix named parent.
func NextKey(parent uint64, tokens []int32) uint64 {
	h := mix(parent)
	for ; len(tokens) >= 2; tokens = tokens[2:] {
		h = mix(h ^ uint64(uint32(tokens[0])) ^ uint64(uint32(tokens[1]))<<32)
	}
	if len(tokens) == 1 {
		h = mix(h ^ uint64(uint32(tokens[0])) ^ 1<<63)
	}
	return h
}

// mix folds the 128-bit product with an odd constant (the fractions of √2 and √3).
func mix(v uint64) uint64 {
	hi, lo := bits.Mul64(v^0x6a09e667f3bcc908, 0xbb67ae8584caa73b)
	return hi ^ lo
}
