package gguf

import "fmt"

// Type is a tensor's element type, by its number in the format.
type Type uint32

// The types this package reads. https://github.com/ggml-org/ggml/blob/master/docs/gguf.md lists them all.
const (
	F32    Type = 0
	F16    Type = 1
	Q4_0   Type = 2
	Q4_1   Type = 3
	Q5_0   Type = 6
	Q5_1   Type = 7
	Q8_0   Type = 8
	Q4_K   Type = 12
	Q5_K   Type = 13
	Q6_K   Type = 14
	Q8_K   Type = 15
	IQ4_NL Type = 20
	BF16   Type = 30
)

// typeInfo says how a type lays out its elements: blocks of len elements in bytes bytes.
type typeInfo struct {
	name       string
	len, bytes int
	dequantize func(dst []float32, block []byte) // one block; nil for plain types
	scales     []scale                           // where a block keeps its scales, for the check of them
}

// scale is a floating-point field of a block.
type scale struct {
	name string
	at   int
	wide bool // float32 instead of float16
}

var (
	scaleD   = []scale{{name: "d"}}
	scaleDM  = []scale{{name: "d"}, {name: "m", at: 2}}
	scaleDD  = []scale{{name: "d"}, {name: "dmin", at: 2}}
	scaleD6K = []scale{{name: "d", at: 208}}
	scaleD8K = []scale{{name: "d", wide: true}}
)

// SuperBlock is the number of elements in a block of the K types.
const SuperBlock = 256

var types = map[Type]typeInfo{
	F32:    {name: "F32", len: 1, bytes: 4},
	F16:    {name: "F16", len: 1, bytes: 2},
	BF16:   {name: "BF16", len: 1, bytes: 2},
	Q4_0:   {"Q4_0", 32, 18, dequantizeQ4_0, scaleD},
	Q4_1:   {"Q4_1", 32, 20, dequantizeQ4_1, scaleDM},
	Q5_0:   {"Q5_0", 32, 22, dequantizeQ5_0, scaleD},
	Q5_1:   {"Q5_1", 32, 24, dequantizeQ5_1, scaleDM},
	Q8_0:   {"Q8_0", 32, 34, dequantizeQ8_0, scaleD},
	Q4_K:   {"Q4_K", SuperBlock, 144, dequantizeQ4_K, scaleDD},
	Q5_K:   {"Q5_K", SuperBlock, 176, dequantizeQ5_K, scaleDD},
	Q6_K:   {"Q6_K", SuperBlock, 210, dequantizeQ6_K, scaleD6K},
	Q8_K:   {"Q8_K", SuperBlock, 292, dequantizeQ8_K, scaleD8K},
	IQ4_NL: {"IQ4_NL", 32, 18, dequantizeIQ4_NL, scaleD},
}

// unread names types of the format that this package does not read, for messages.
var unread = map[Type]string{4: "Q4_2", 5: "Q4_3", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 16: "IQ2_XXS", 17: "IQ2_XS",
	18: "IQ3_XXS", 19: "IQ1_S", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64",
	28: "F64", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4"}

// supportedTypes is the list that error messages give.
const supportedTypes = "F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, Q8_K, IQ4_NL"

func (t Type) String() string {
	if info, ok := types[t]; ok {
		return info.name
	}
	if name, ok := unread[t]; ok {
		return name
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Known reports whether this package reads tensors of type t.
func (t Type) Known() bool { _, ok := types[t]; return ok }

// BlockLen returns the elements of one block, 1 for plain types, 0 for a type that is not Known.
func (t Type) BlockLen() int { return types[t].len }

// BlockBytes returns the bytes of one block, 0 for a type that is not Known.
func (t Type) BlockBytes() int { return types[t].bytes }

// Quantized reports whether elements of t share scales.
func (t Type) Quantized() bool { return types[t].len > 1 }

// Bytes returns the size of n elements, a multiple of BlockLen.
func (t Type) Bytes(n int) int {
	info := types[t]
	return n / info.len * info.bytes
}
