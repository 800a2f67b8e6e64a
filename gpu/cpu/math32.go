package cpu

import "math"

// exp32 is e^x in float32, within 2 units in the last place. x = n ln2 + r with |r| <= ln2/2,
// and e^r = 1 + r + r^2 q(r), where q interpolates at Chebyshev nodes. The assembly tiers
// evaluate the same polynomial with fused multiply-adds.
const (
	expLargest  = 88.37 // above it the result is e^88.37, about 2.4e38
	expSmallest = -87.33
	log2e       = 1.4426950408889634
	ln2Hi       = 0.693359375 // few bits, so n*ln2Hi is exact
	ln2Lo       = -0.00021219444170128554
	expC0       = 0.5
	expC1       = 0.16666576266288757
	expC2       = 0.041666556149721146
	expC3       = 0.008363203145563602
	expC4       = 0.0013926213141530752
	roundMagic  = 0x1.8p23 // adding it rounds to an integer, held in the low bits
)

func exp32(x float32) float32 {
	if x < expSmallest {
		return 0
	}
	if x > expLargest {
		x = expLargest
	}
	t := x*log2e + roundMagic
	n := t - roundMagic
	r := x - n*ln2Hi - n*ln2Lo
	q := (((expC4*r+expC3)*r+expC2)*r+expC1)*r + expC0
	y := q*(r*r) + r + 1
	exponent := math.Float32bits(t) - math.Float32bits(roundMagic) + 127
	return y * math.Float32frombits(exponent<<23)
}

// tanh32 is tanh x in float32. Near zero 1 - 2/(e^2x+1) would cancel, so a Taylor polynomial
// takes over.
func tanh32(x float32) float32 {
	if x > -0.25 && x < 0.25 {
		s := x * x
		return x * (1 + s*(-1.0/3+s*(2.0/15+s*(-17.0/315+s*(62.0/2835)))))
	}
	return 1 - 2/(exp32(2*x)+1)
}

// sumLanes adds the lanes of a vector as a tree.
func sumLanes(lanes *[16]float32) float32 {
	for width := len(lanes) / 2; width > 0; width /= 2 {
		for i := range width {
			lanes[i] += lanes[i+width]
		}
	}
	return lanes[0]
}
