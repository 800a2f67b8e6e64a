package safetensors

import (
	"fmt"
	"math/bits"
	"slices"
	"strings"
)

// DType is an element type as a header spells it.
type DType string

// The element types this package reads. Sub-byte types (F4, F6_E2M3, F6_E3M2) are refused.
const (
	Bool   DType = "BOOL"
	U8     DType = "U8"
	I8     DType = "I8"
	F8E5M2 DType = "F8_E5M2"
	F8E4M3 DType = "F8_E4M3"
	F8E8M0 DType = "F8_E8M0"
	U16    DType = "U16"
	I16    DType = "I16"
	F16    DType = "F16"
	BF16   DType = "BF16"
	U32    DType = "U32"
	I32    DType = "I32"
	F32    DType = "F32"
	U64    DType = "U64"
	I64    DType = "I64"
	F64    DType = "F64"
	C64    DType = "C64"
)

var dtypeSizes = map[DType]int{
	Bool: 1, U8: 1, I8: 1, F8E5M2: 1, F8E4M3: 1, F8E8M0: 1,
	U16: 2, I16: 2, F16: 2, BF16: 2,
	U32: 4, I32: 4, F32: 4,
	U64: 8, I64: 8, F64: 8, C64: 8,
}

// Size returns the bytes of one element, or 0 for a type this package does not know.
func (t DType) Size() int { return dtypeSizes[t] }

func knownDTypes() string {
	names := make([]string, 0, len(dtypeSizes))
	for t := range dtypeSizes {
		names = append(names, string(t))
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// byteLen returns the bytes of a tensor of this type and shape, or an error when the type is
// unknown or the number does not fit an int64.
func byteLen(t DType, shape []uint64) (uint64, error) {
	size := t.Size()
	if size == 0 {
		return 0, fmt.Errorf("dtype %q is not supported (supported: %s)", clip(string(t)), knownDTypes())
	}
	n := uint64(size)
	for _, d := range shape {
		hi, lo := bits.Mul64(n, d)
		if hi != 0 || lo > 1<<63-1 {
			return 0, fmt.Errorf("shape %s × dtype %s overflows 63 bits", clip(fmt.Sprint(shape)), t)
		}
		n = lo
	}
	return n, nil
}

// clip shortens text from a file before it goes into an error message.
func clip(s string) string {
	const clipBytesMax = 120
	if len(s) <= clipBytesMax {
		return s
	}
	return s[:clipBytesMax] + "…"
}
