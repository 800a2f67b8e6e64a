package ref

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/troupe-engine/troupe/gpu"
)

// Epsilon is the relative step of a type that devices compute in.
func Epsilon(dtype gpu.DType) float64 {
	switch dtype {
	case gpu.BF16:
		return 1.0 / 128
	case gpu.F16:
		return 1.0 / 1024
	}
	return 1.0 / (1 << 23)
}

// Encode rounds to dtype, to nearest even, little-endian.
func Encode(dtype gpu.DType, values []float32) []byte {
	b := make([]byte, 0, len(values)*dtype.Size())
	for _, v := range values {
		switch dtype {
		case gpu.F32:
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(v))
		case gpu.BF16:
			b = binary.LittleEndian.AppendUint16(b, toBF16(v))
		case gpu.F16:
			b = binary.LittleEndian.AppendUint16(b, toF16(v))
		default:
			panic(fmt.Sprintf("ref: Encode %v", dtype))
		}
	}
	return b
}

// Decode widens elements of dtype.
func Decode(dtype gpu.DType, b []byte) []float32 {
	out := make([]float32, len(b)/dtype.Size())
	for i := range out {
		switch dtype {
		case gpu.F32:
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		case gpu.BF16:
			out[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[2*i:])) << 16)
		case gpu.F16:
			out[i] = fromF16(binary.LittleEndian.Uint16(b[2*i:]))
		default:
			panic(fmt.Sprintf("ref: Decode %v", dtype))
		}
	}
	return out
}

func toBF16(v float32) uint16 {
	bits := math.Float32bits(v)
	if v != v {
		return uint16(bits>>16) | 0x40
	}
	return uint16((bits + 0x7fff + bits>>16&1) >> 16)
}

// toF16 rounds by arithmetic: the value in units of the half's last place, to nearest even.
func toF16(v float32) uint16 {
	sign := uint16(math.Float32bits(v) >> 31 << 15)
	a := math.Abs(float64(v))
	switch {
	case v != v:
		return sign | 0x7e00
	case a >= 65520:
		return sign | 0x7c00
	case a < 0x1p-14:
		return sign | uint16(math.RoundToEven(a*0x1p24)) // subnormal; 0x400 is the least normal
	}
	fraction, exponent := math.Frexp(a) // fraction in [0.5, 1)
	units := uint16(math.RoundToEven(fraction * 0x800))
	return sign | (uint16(exponent+13)<<10 + units)
}

func fromF16(h uint16) float32 {
	exponent, fraction := int(h>>10&31), float64(h&0x3ff)
	var v float64
	switch exponent {
	case 0:
		v = fraction * 0x1p-24
	case 31:
		v = math.Inf(1)
		if fraction != 0 {
			v = math.NaN()
		}
	default:
		v = math.Ldexp(1024+fraction, exponent-25)
	}
	if h>>15 != 0 {
		v = -v
	}
	return float32(v)
}
