package ref

import "math"

// RandomWeight is element i of the random weights of a seed, in units of RandomScale: the sum of four
// uniform integers of 16 bits less its mean. Integers make it the same on every device.
func RandomWeight(seed uint64, i int) int32 {
	z := Mix64(seed + golden*uint64(i+1))
	return int32(z&0xffff) + int32(z>>16&0xffff) + int32(z>>32&0xffff) + int32(z>>48) - 131070
}

// RandomScale is what a RandomWeight is multiplied by, in float32, for weights of the given standard deviation.
func RandomScale(spread float32) float32 {
	return float32(float64(spread) / (65536 / math.Sqrt(3)))
}
