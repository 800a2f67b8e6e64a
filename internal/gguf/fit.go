package gguf

import "encoding/binary"

// CanFit reports whether QuantizeFit searches for better blocks of type t than Quantize makes.
func CanFit(t Type) bool { return t == Q8_0 || t == Q4_1 }

// QuantizeFit is Quantize with scales that are searched for: of each block of Q8_0 and Q4_1 those, among some tens,
// with which the sum of squared errors is least. It is as deterministic, and takes about ten times as long.
func QuantizeFit(t Type, dst []byte, src []float32) ([]byte, error) {
	if !CanFit(t) {
		return Quantize(t, dst, src)
	}
	from := len(dst)
	dst, err := Quantize(t, dst, src) // refuses what cannot be, and is the first candidate
	if err != nil {
		return nil, err
	}
	for at, packed := 0, dst[from:]; at < len(src); at, packed = at+fitLen, packed[t.BlockBytes():] {
		block := (*[fitLen]float32)(src[at:])
		if t == Q8_0 {
			fitQ8_0(packed[:t.BlockBytes()], block)
		} else {
			fitQ4_1(packed[:t.BlockBytes()], block)
		}
	}
	return dst, nil
}

// fitLen is the elements of a block of the types that are fitted.
const fitLen = 32

// fitQ8_0 makes scales a little smaller or larger than the largest element asks for: each puts the steps elsewhere, and
// the best of many has luck with most elements.
func fitQ8_0(packed []byte, block *[fitLen]float32) {
	largest := float32(0)
	for _, v := range block {
		largest = max(largest, v, -v)
	}
	if largest == 0 {
		return
	}
	var values [fitLen]float32
	dequantizeQ8_0(values[:], packed)
	best, scale := squaredError(block, &values), uint16(0)
	const stepsMax, stepsMin, apart = 127.4, 112, 0.4 // of the largest element, which rounds down to 127
	for steps := float32(stepsMax); steps > stepsMin; steps -= apart {
		h := toHalf(largest / steps)
		d := unhalf(h)
		if e := errorQ8_0(block, d, best); e < best {
			best, scale = e, h
		}
	}
	if scale == 0 {
		return
	}
	binary.LittleEndian.PutUint16(packed, scale)
	factor := inverse(unhalf(scale))
	for i, v := range block {
		packed[2+i] = byte(int8(min(max(nearest(float32(v*factor)), -127), 127)))
	}
}

// errorQ8_0 is the sum of squared errors with scale d, or any larger number than limit.
func errorQ8_0(block *[fitLen]float32, d, limit float32) float32 {
	factor, sum := inverse(d), float32(0)
	for i := 0; i < fitLen; i += 8 {
		for _, v := range block[i:][:8] {
			r := v - float32(d*min(max(nearest(float32(v*factor)), -127), 127))
			sum += float32(r * r)
		}
		if sum > limit {
			break
		}
	}
	return sum
}

// nearest rounds to the nearest integer, ties to even; |v| is less than 2^22.
func nearest(v float32) float32 {
	const magic = 3 << 22 // where float32 has integers only
	return float32(v+magic) - magic
}

// fitQ4_1 begins with ranges around the block's own, and improves each: what is best for given codes is a line through
// elements and codes (least squares), and what is best for a given line are the nearest codes.
func fitQ4_1(packed []byte, block *[fitLen]float32) {
	low, high := block[0], block[0]
	for _, v := range block {
		low, high = min(low, v), max(high, v)
	}
	var values [fitLen]float32
	dequantizeQ4_1(values[:], packed)
	best := squaredError(block, &values)
	var d, m uint16
	const rounds = 3
	for _, inner := range []float32{0, 0.06, 0.12} { // the share of the range that is cut off at each end
		for _, side := range [][2]float32{{1, 1}, {2, 0}, {0, 2}} {
			cut := inner * (high - low) / 2
			l, h := low+float32(cut*side[0]), high-float32(cut*side[1])
			tryD, tryM := toHalf((h-l)/15), toHalf(l)
			for range rounds {
				e, nextD, nextM := lineQ4_1(block, unhalf(tryD), unhalf(tryM))
				if e < best {
					best, d, m = e, tryD, tryM
				}
				if nextD == tryD && nextM == tryM {
					break
				}
				tryD, tryM = nextD, nextM
			}
			if inner == 0 {
				break // all sides are the same
			}
		}
	}
	if d == 0 {
		return
	}
	binary.LittleEndian.PutUint16(packed, d)
	binary.LittleEndian.PutUint16(packed[2:], m)
	factor, minimum := inverse(unhalf(d)), unhalf(m)
	for i := range 16 {
		packed[4+i] = byte(codeQ4_1(block[i], factor, minimum)) | byte(codeQ4_1(block[i+16], factor, minimum))<<4
	}
}

func codeQ4_1(v, factor, minimum float32) float32 {
	return min(max(nearest(float32((v-minimum)*factor)), 0), 15)
}

// lineQ4_1 returns the sum of squared errors with scale d and minimum m, and those that suit the same codes best.
func lineQ4_1(block *[fitLen]float32, d, m float32) (e float32, nextD, nextM uint16) {
	factor := inverse(d)
	var sumQ, sumQQ, sumV, sumQV float32
	for _, v := range block {
		q := codeQ4_1(v, factor, m)
		r := v - (float32(d*q) + m)
		e += float32(r * r)
		sumQ += q
		sumQQ += float32(q * q)
		sumV += v
		sumQV += float32(q * v)
	}
	spread := float32(fitLen*sumQQ) - float32(sumQ*sumQ)
	if spread <= 0 {
		return e, toHalf(d), toHalf(m)
	}
	slope := (float32(fitLen*sumQV) - float32(sumQ*sumV)) / spread
	return e, toHalf(slope), toHalf((sumV - float32(slope*sumQ)) / fitLen)
}

func squaredError(a, b *[fitLen]float32) (sum float32) {
	for i, v := range a {
		r := v - b[i]
		sum += float32(r * r)
	}
	return sum
}

// unhalf is the value of a float16.
func unhalf(bits uint16) float32 {
	b := [2]byte{byte(bits), byte(bits >> 8)}
	return half(b[:])
}
