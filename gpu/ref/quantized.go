package ref

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Dequantize returns the elements of blocks of a quantized type, which is called as gpu.DType prints it. The layouts
// are those of GGUF: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md and the block structs of
// ggml-common.h there. Values are exact in float64 and rounded once.
func Dequantize(dtype string, blocks []byte) []float32 {
	size, block := quantized[dtype].bytes, quantized[dtype].block
	if block == nil || len(blocks)%size != 0 {
		panic(fmt.Sprintf("ref: Dequantize of %d bytes of %s", len(blocks), dtype))
	}
	var out []float32
	for ; len(blocks) > 0; blocks = blocks[size:] {
		for _, v := range block(blocks[:size]) {
			out = append(out, float32(v))
		}
	}
	return out
}

// DequantizeRows returns the elements of rows of k, of a type that Dequantize knows or of those whose scale is one per
// row: e4m3 and i8, codes followed by a float32.
func DequantizeRows(dtype string, k int, rows []byte) []float32 {
	code := map[string]func(byte) float64{"e4m3": e4m3, "i8": func(q byte) float64 { return float64(int8(q)) }}[dtype]
	if code == nil {
		return Dequantize(dtype, rows)
	}
	var out []float32
	for ; len(rows) > 0; rows = rows[k+4:] {
		scale := math.Float32frombits(binary.LittleEndian.Uint32(rows[k:]))
		for _, q := range rows[:k] {
			out = append(out, float32(float64(scale)*code(q)))
		}
	}
	return out
}

// e4m3 is the value of an 8-bit float with a bias of 7. Micikevicius et al. 2022, arXiv:2209.05433.
func e4m3(b byte) float64 {
	sign, exponent, fraction := 1-2*float64(b>>7), int(b>>3&15), float64(b&7)
	switch {
	case b&0x7f == 0x7f:
		return math.NaN()
	case exponent == 0:
		return sign * math.Ldexp(fraction, -9)
	}
	return sign * math.Ldexp(8+fraction, exponent-10)
}

var quantized = map[string]struct {
	bytes int
	block func(b []byte) []float64
}{
	"q8_0": {34, blockQ8_0}, "q4_0": {18, blockQ4_0}, "q4_1": {20, blockQ4_1}, "q4_k": {144, blockQ4K}, "q6_k": {210, blockQ6K},
	"i4_32": {20, blockI4}, "i4_64": {36, blockI4}, "i4_128": {68, blockI4},
	"e4m3_128": {132, blockE4M3},
}

// half is the float16 at the start of b.
func half(b []byte) float64 {
	h := binary.LittleEndian.Uint16(b)
	sign, exponent, fraction := 1-2*float64(h>>15), int(h>>10&31), float64(h&0x3ff)
	switch exponent {
	case 0:
		return sign * math.Ldexp(fraction, -24)
	case 31:
		if fraction != 0 {
			return math.NaN()
		}
		return sign * math.Inf(1)
	}
	return sign * math.Ldexp(1024+fraction, exponent-25)
}

func blockQ8_0(b []byte) (out []float64) {
	for _, q := range b[2:] {
		out = append(out, half(b)*float64(int8(q)))
	}
	return out
}

// nibbles are the low halves of bytes, and then the high ones.
func nibbles(b []byte) (out []float64) {
	for _, q := range b {
		out = append(out, float64(q&15))
	}
	for _, q := range b {
		out = append(out, float64(q>>4))
	}
	return out
}

func blockQ4_0(b []byte) (out []float64) {
	for _, q := range nibbles(b[2:]) {
		out = append(out, half(b)*(q-8))
	}
	return out
}

func blockQ4_1(b []byte) (out []float64) {
	for _, q := range nibbles(b[4:]) {
		out = append(out, half(b)*q+half(b[2:]))
	}
	return out
}

// blockQ4K: eight sub-blocks of 32, each with a scale and a minimum of 6 bits; two sub-blocks share 32 bytes.
func blockQ4K(b []byte) (out []float64) {
	packed := b[4:16]
	for j := range 8 {
		scale, minimum := packed[j%4]&63, packed[4+j%4]&63
		if j >= 4 { // the upper bits are those that the first four leave free
			scale, minimum = packed[4+j]&15|packed[j-4]>>6<<4, packed[4+j]>>4|packed[j]>>6<<4
		}
		for _, q := range nibbles(b[16+j/2*32:][:32])[j%2*32:][:32] {
			out = append(out, half(b)*float64(scale)*q-half(b[2:])*float64(minimum))
		}
	}
	return out
}

// blockQ6K: 128 bytes of low bits, 64 of two high bits, 16 scales, each for 16 elements.
func blockQ6K(b []byte) (out []float64) {
	for i := range 256 {
		part, within := i/128, i%128 // each half: 64 bytes of low and 32 of high bits
		low := b[part*64+within%64] >> (within / 64 * 4) & 15
		high := b[128+part*32+within%32] >> (within / 32 * 2) & 3
		code := float64(int(low|high<<4) - 32)
		out = append(out, half(b[208:])*float64(int8(b[192+i/16]))*code)
	}
	return out
}

// blockE4M3: 8-bit floats behind a float32.
func blockE4M3(b []byte) (out []float64) {
	scale := float64(math.Float32frombits(binary.LittleEndian.Uint32(b)))
	for _, q := range b[4:] {
		out = append(out, scale*e4m3(q))
	}
	return out
}

// blockI4: codes less an integer zero.
func blockI4(b []byte) (out []float64) {
	for _, q := range nibbles(b[4:]) {
		out = append(out, half(b)*(q-float64(b[2])))
	}
	return out
}
