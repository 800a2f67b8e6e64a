package cpu

import (
	"math"
	"unsafe"
)

// cast views bytes as elements of another type.
func cast[E any](b []byte) []E {
	var e E
	return unsafe.Slice((*E)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(e)))
}

// bf16 is the upper half of a float32.
func bf16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// toBF16 rounds to the nearest, ties to even; NaN stays NaN.
func toBF16(v float32) uint16 {
	bits := math.Float32bits(v)
	if v != v {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// f16 widens an IEEE 754 half. Shifting its exponent and fraction into float32's place makes a
// number 2^112 too small, subnormals included, so one exact multiplication finishes the job;
// only infinities and NaN need their own exponent.
func f16(h uint16) float32 {
	bits := uint32(h&0x7fff) << 13
	sign := uint32(h&0x8000) << 16
	if bits >= 0x1f<<23 {
		return math.Float32frombits(bits | 0xff<<23 | sign)
	}
	v := math.Float32frombits(bits) * 0x1p112
	return math.Float32frombits(math.Float32bits(v) | sign)
}
