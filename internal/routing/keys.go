package routing

import (
	"math/bits"

	"github.com/troupe-engine/troupe/schemas"
)

// BlockKeys appends to dst the names of a prompt's full blocks (see schemas.PrefixKey): name i stands for the first
// (i+1)×blockSize tokens and the salt. A collision costs a cache miss and nothing else.
func BlockKeys(dst []uint64, tokens schemas.I32, blockSize int32, salt uint64) []uint64 {
	if blockSize < 1 {
		return dst
	}
	key := schemas.FirstPrefixKey(salt)
	for n := int(blockSize); len(tokens) >= n; tokens = tokens[n:] {
		key = schemas.PrefixKey(key, tokens[:n])
		dst = append(dst, key)
	}
	return dst
}

// mix folds the 128-bit product with an odd constant (the fractions of √2 and √3).
func mix(v uint64) uint64 {
	hi, lo := bits.Mul64(v^0x6a09e667f3bcc908, 0xbb67ae8584caa73b)
	return hi ^ lo
}
