package ref

import "math"

// The noise that sampling adds is a pure function of (seed, position, token), so that a draw
// does not depend on which requests share a step, on how often the step was retried, or on
// the backend. It is SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
// generators", OOPSLA 2014) used as a counter: every step below is 64-bit unsigned arithmetic
// that wraps, and any language reproduces it bit for bit.
const (
	golden = 0x9E3779B97F4A7C15 // 2^64 / golden ratio: SplitMix64's increment
	mixA   = 0xBF58476D1CE4E5B9
	mixB   = 0x94D049BB133111EB
)

// Mix64 is SplitMix64's output function, a bijection of the 64-bit integers.
func Mix64(z uint64) uint64 {
	z = (z ^ z>>30) * mixA
	z = (z ^ z>>27) * mixB
	return z ^ z>>31
}

// NoiseKey is the generator state of one draw: a function of the request's seed and of the
// position of the token that is being sampled.
func NoiseKey(seed uint64, position int32) uint64 {
	return Mix64(Mix64(seed+golden) + golden*uint64(uint32(position)))
}

// NoiseState is the state of SplitMix64, seeded with key, before output number token.
func NoiseState(key uint64, token int32) uint64 { return key + golden*uint64(uint32(token)) }

// NoiseBits is the draw's 64 random bits for one token id: output number token of SplitMix64
// seeded with key, which advances the state before mixing it.
func NoiseBits(key uint64, token int32) uint64 { return Mix64(NoiseState(key, token) + golden) }

// Uniform maps 64 random bits to (0, 1): the top 52 bits plus one half, times 2^-52. Both ends
// are excluded and the result is exact in float64.
func Uniform(bits uint64) float64 {
	return (float64(bits>>12) + 0.5) * 0x1p-52
}

// Gumbel is the standard Gumbel noise of one token: -log(-log(u)).
func Gumbel(seed uint64, position, token int32) float64 {
	return -math.Log(-math.Log(Uniform(NoiseBits(NoiseKey(seed, position), token))))
}
