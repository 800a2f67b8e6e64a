package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Dequantize writes the elements of src, whole blocks of type t, to dst, which has room for all of them.
// Every product and sum is rounded to float32 in the order that the format's reference implementation
// uses, so results agree with it bit for bit.
func Dequantize(t Type, dst []float32, src []byte) {
	info, ok := types[t]
	if !ok || len(src)%info.bytes != 0 || len(dst) < len(src)/info.bytes*info.len {
		panic(fmt.Sprintf("gguf: Dequantize(%v) of %d bytes to %d elements", t, len(src), len(dst)))
	}
	switch t {
	case F32:
		for i := range len(src) / 4 {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case F16:
		for i := range len(src) / 2 {
			dst[i] = half(src[2*i:])
		}
	case BF16:
		for i := range len(src) / 2 {
			dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
		}
	default:
		for ; len(src) > 0; src, dst = src[info.bytes:], dst[info.len:] {
			info.dequantize(dst[:info.len], src[:info.bytes])
		}
	}
}

// CheckScales returns an error naming the first scale of src, whole blocks of type t, that is no finite
// number: one such makes a whole row of outputs useless, far from its cause.
func CheckScales(t Type, src []byte) error {
	info := types[t]
	for _, s := range info.scales {
		for block, at := 0, s.at; at < len(src); block, at = block+1, at+info.bytes {
			bad := src[at+1]&0x7c == 0x7c // all exponent bits of a float16
			if s.wide {
				bad = src[at+3]&0x7f == 0x7f && src[at+2]&0x80 != 0
			}
			if bad {
				return fmt.Errorf("block %d of %s has a scale %q that is infinite or NaN: the file is damaged, or its quantization failed", block, t, s.name)
			}
		}
	}
	return nil
}

// half widens the float16 at the start of b: shifted into float32's place it is 2^112 too small,
// subnormals included, so one exact multiplication finishes the job; infinities and NaN need their own
// exponent.
func half(b []byte) float32 {
	h := binary.LittleEndian.Uint16(b)
	bits, sign := uint32(h&0x7fff)<<13, uint32(h&0x8000)<<16
	if bits >= 0x1f<<23 {
		return math.Float32frombits(bits | 0xff<<23 | sign)
	}
	return math.Float32frombits(math.Float32bits(math.Float32frombits(bits)*0x1p112) | sign)
}

// The explicit conversions below keep a compiler from fusing a product and a sum.

func dequantizeQ4_0(dst []float32, b []byte) {
	d := half(b)
	for i, q := range b[2:18] {
		dst[i] = d * float32(int(q&15)-8)
		dst[i+16] = d * float32(int(q>>4)-8)
	}
}

func dequantizeQ4_1(dst []float32, b []byte) {
	d, m := half(b), half(b[2:])
	for i, q := range b[4:20] {
		dst[i] = float32(d*float32(q&15)) + m
		dst[i+16] = float32(d*float32(q>>4)) + m
	}
}

// fifths yields the 5-bit codes of a Q5 block: high bits, then nibbles.
func fifths(high, low []byte, yield func(i, q int)) {
	bits := binary.LittleEndian.Uint32(high)
	for i, q := range low {
		yield(i, int(q&15)|int(bits>>i&1)<<4)
		yield(i+16, int(q>>4)|int(bits>>(i+16)&1)<<4)
	}
}

func dequantizeQ5_0(dst []float32, b []byte) {
	d := half(b)
	fifths(b[2:6], b[6:22], func(i, q int) { dst[i] = d * float32(q-16) })
}

func dequantizeQ5_1(dst []float32, b []byte) {
	d, m := half(b), half(b[2:])
	fifths(b[4:8], b[8:24], func(i, q int) { dst[i] = float32(d*float32(q)) + m })
}

func dequantizeQ8_0(dst []float32, b []byte) {
	d := half(b)
	for i, q := range b[2:34] {
		dst[i] = d * float32(int8(q))
	}
}

// KScales returns the 6-bit scale and minimum of sub-block j of a Q4_K or Q5_K block, from its 12 bytes
// of them.
func KScales(packed []byte, j int) (scale, minimum byte) {
	if j < 4 {
		return packed[j] & 63, packed[j+4] & 63
	}
	return packed[j+4]&15 | packed[j-4]>>6<<4, packed[j+4]>>4 | packed[j]>>6<<4
}

func dequantizeQ4_K(dst []float32, b []byte) {
	d, dmin := half(b), half(b[2:])
	codes := b[16:144]
	for j := range 8 {
		sc, m := KScales(b[4:16], j)
		scale, offset := d*float32(sc), dmin*float32(m)
		shift := j % 2 * 4
		for i, q := range codes[j/2*32:][:32] {
			dst[32*j+i] = float32(scale*float32(q>>shift&15)) - offset
		}
	}
}

func dequantizeQ5_K(dst []float32, b []byte) {
	d, dmin := half(b), half(b[2:])
	high, codes := b[16:48], b[48:176]
	for j := range 8 {
		sc, m := KScales(b[4:16], j)
		scale, offset := d*float32(sc), dmin*float32(m)
		shift := j % 2 * 4
		for i, q := range codes[j/2*32:][:32] {
			v := q>>shift&15 | high[i]>>j&1<<4
			dst[32*j+i] = float32(scale*float32(v)) - offset
		}
	}
}

// Sixths writes the 256 codes of a Q6_K block, each in [-32, 31].
func Sixths(dst *[SuperBlock]int8, block []byte) {
	low, high := block[:128], block[128:192]
	for j := range 8 {
		from, shift := low[j/4*64+j%2*32:], j/2%2*4
		for i := range 32 {
			q := from[i]>>shift&15 | high[j/4*32+i]>>(j%4*2)&3<<4
			dst[32*j+i] = int8(q) - 32
		}
	}
}

func dequantizeQ6_K(dst []float32, b []byte) {
	var codes [SuperBlock]int8
	Sixths(&codes, b)
	d := half(b[208:])
	for i, q := range codes {
		dst[i] = float32(d*float32(int8(b[192+i/16]))) * float32(q)
	}
}

// dequantizeQ8_K ignores the sums of 16 codes at the end of a block, which only speed up dot products.
func dequantizeQ8_K(dst []float32, b []byte) {
	d := math.Float32frombits(binary.LittleEndian.Uint32(b))
	for i, q := range b[4:260] {
		dst[i] = d * float32(int8(q))
	}
}

// levels are the 16 values of an IQ4_NL code.
var levels = [16]int8{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

func dequantizeIQ4_NL(dst []float32, b []byte) {
	d := half(b)
	for i, q := range b[2:18] {
		dst[i] = d * float32(levels[q&15])
		dst[i+16] = d * float32(levels[q>>4])
	}
}
