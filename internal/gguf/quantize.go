package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
)

// CanQuantize reports whether Quantize makes blocks of type t.
func CanQuantize(t Type) bool {
	switch t {
	case F32, F16, BF16, Q8_0, Q4_0, Q4_1:
		return true
	}
	return false
}

// Quantize appends the elements of src, whole blocks, as type t: F32, F16, BF16, Q8_0, Q4_0 or Q4_1. It
// rounds as the format's reference implementation does, bit for bit. An element that is NaN, or too large
// for the type, is an error that says which.
func Quantize(t Type, dst []byte, src []float32) ([]byte, error) {
	length := t.BlockLen()
	if !CanQuantize(t) || len(src)%length != 0 {
		panic(fmt.Sprintf("gguf: Quantize of %d elements to %v", len(src), t))
	}
	for at := 0; at < len(src); at += length {
		block := src[at : at+length]
		from := len(dst)
		switch t {
		case F32:
			dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(block[0]))
		case F16:
			dst = binary.LittleEndian.AppendUint16(dst, toHalf(block[0]))
		case BF16:
			dst = binary.LittleEndian.AppendUint16(dst, toBF16(block[0]))
		case Q8_0:
			dst = quantizeQ8_0(dst, block)
		case Q4_0:
			dst = quantizeQ4_0(dst, block)
		case Q4_1:
			dst = quantizeQ4_1(dst, block)
		}
		if length > 1 {
			if err := checkBlock(t, dst[from:], block); err != nil {
				return nil, fmt.Errorf("elements %d to %d: %w", at, at+length-1, err)
			}
		}
	}
	return dst, nil
}

// checkBlock refuses a block whose scale is not finite, or whose elements hide a NaN.
func checkBlock(t Type, packed []byte, block []float32) error {
	for i, v := range block {
		if v-v != 0 {
			return fmt.Errorf("element %d is %v, which %v cannot hold", i, v, t)
		}
	}
	if CheckScales(t, packed) != nil {
		return fmt.Errorf("they are too large for the float16 scale of %v", t)
	}
	return nil
}

// inverse is 1/d, or 0 for 0.
func inverse(d float32) float32 {
	if d == 0 {
		return 0
	}
	return 1 / d
}

func quantizeQ8_0(dst []byte, block []float32) []byte {
	largest := float32(0)
	for _, v := range block {
		largest = max(largest, float32(math.Abs(float64(v))))
	}
	d := largest / 127
	factor := inverse(d)
	dst = binary.LittleEndian.AppendUint16(dst, toHalf(d))
	for _, v := range block {
		dst = append(dst, byte(int8(math.Round(float64(v*factor))))) // halves away from zero
	}
	return dst
}

// quantizeQ4_0 gives the element of largest size the code 0, which is -8: its sign has the longer side.
func quantizeQ4_0(dst []byte, block []float32) []byte {
	largest := float32(0)
	for _, v := range block {
		if math.Abs(float64(v)) > math.Abs(float64(largest)) {
			largest = v
		}
	}
	d := largest / -8
	factor := inverse(d)
	dst = binary.LittleEndian.AppendUint16(dst, toHalf(d))
	return appendNibbles(dst, block, func(v float32) float32 { return float32(v*factor) + 8.5 })
}

func quantizeQ4_1(dst []byte, block []float32) []byte {
	low, high := block[0], block[0]
	for _, v := range block {
		low, high = min(low, v), max(high, v)
	}
	d := (high - low) / 15
	factor := inverse(d)
	dst = binary.LittleEndian.AppendUint16(dst, toHalf(d))
	dst = binary.LittleEndian.AppendUint16(dst, toHalf(low))
	return appendNibbles(dst, block, func(v float32) float32 { return float32((v-low)*factor) + 0.5 })
}

// appendNibbles pairs the first half's codes with the second's; code gives one before truncation.
func appendNibbles(dst []byte, block []float32, code func(float32) float32) []byte {
	nibble := func(v float32) byte { return byte(min(max(code(v), 0), 15)) }
	for i := range 16 {
		dst = append(dst, nibble(block[i])|nibble(block[i+16])<<4)
	}
	return dst
}

// Transcode appends src, blocks of type t, as Q8_0 without a loss, and reports whether t allows that: its
// codes, less an offset, must be bytes with a float16 scale for 32.
func Transcode(dst []byte, t Type, src []byte) ([]byte, bool) {
	if t != Q5_0 && t != IQ4_NL && t != Q4_0 {
		return dst, false
	}
	size := t.BlockBytes()
	for ; len(src) > 0; src = src[size:] {
		dst = append(dst, src[:2]...)
		var codes [32]byte
		switch t {
		case Q5_0:
			fifths(src[2:6], src[6:22], func(i, q int) { codes[i] = byte(q - 16) })
		default:
			for i, q := range src[2:18] {
				low, high := int8(q&15)-8, int8(q>>4)-8
				if t == IQ4_NL {
					low, high = levels[q&15], levels[q>>4]
				}
				codes[i], codes[i+16] = byte(low), byte(high)
			}
		}
		dst = append(dst, codes[:]...)
	}
	return dst, true
}

func toBF16(v float32) uint16 {
	bits := math.Float32bits(v)
	if v != v {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// toHalf rounds to the nearest float16, ties to even. Adding a power of two makes the sum's last bit that of
// the result, so float32 arithmetic does the rounding.
func toHalf(v float32) uint16 {
	bits := math.Float32bits(v)
	sign, size := uint16(bits>>16&0x8000), bits&0x7fffffff
	switch {
	case size > 0x7f800000:
		return sign | 0x7e00
	case size >= 0x477ff000: // 65520, from where the nearest is infinity
		return sign | 0x7c00
	case size < 0x38800000: // 2^-14: subnormal, in steps of 2^-24
		return sign | uint16(math.Float32bits(math.Float32frombits(size)+0.5)-math.Float32bits(0.5))
	}
	size += 0xfff + size>>13&1
	return sign | uint16((size-0x38000000)>>13)
}
