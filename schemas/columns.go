package schemas

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"
)

// Columns hold one value per row of a batched message. On the wire each is one msgpack bin field of
// little-endian elements; in JSON an array.
type (
	// I32 is a column of 32-bit integers: tokens, positions, blocks, counts.
	I32 []int32
	// U64 is a column of 64-bit integers: sequence ids, seeds. Hexadecimal strings in JSON.
	U64 []uint64
	// F32 is a column of floats.
	F32 []float32
	// U8 is a column of small codes. In JSON an array of numbers, not base64.
	U8 []byte
)

var nativeLittleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// EncodeMsgpack writes the column as one bin field.
func (c I32) EncodeMsgpack(e *msgpack.Encoder) error { return encodeColumn(e, c) }

// EncodeMsgpack writes the column as one bin field.
func (c U64) EncodeMsgpack(e *msgpack.Encoder) error { return encodeColumn(e, c) }

// EncodeMsgpack writes the column as one bin field.
func (c F32) EncodeMsgpack(e *msgpack.Encoder) error { return encodeColumn(e, c) }

// EncodeMsgpack writes the column as one bin field.
func (c U8) EncodeMsgpack(e *msgpack.Encoder) error { return e.EncodeBytes(nonNil(c)) }

// DecodeMsgpack reads the column from one bin field.
func (c *I32) DecodeMsgpack(d *msgpack.Decoder) (err error) {
	*c, err = decodeColumn[int32](d, "I32")
	return err
}

// DecodeMsgpack reads the column from one bin field.
func (c *U64) DecodeMsgpack(d *msgpack.Decoder) (err error) {
	*c, err = decodeColumn[uint64](d, "U64")
	return err
}

// DecodeMsgpack reads the column from one bin field.
func (c *F32) DecodeMsgpack(d *msgpack.Decoder) (err error) {
	*c, err = decodeColumn[float32](d, "F32")
	return err
}

// DecodeMsgpack reads the column from one bin field.
func (c *U8) DecodeMsgpack(d *msgpack.Decoder) (err error) {
	*c, err = d.DecodeBytes()
	return err
}

type columnElement interface{ int32 | uint64 | float32 }

func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{} // nil would become msgpack nil: one more case for every reader
	}
	return b
}

func encodeColumn[T columnElement](e *msgpack.Encoder, c []T) error {
	if len(c) == 0 {
		return e.EncodeBytes([]byte{})
	}
	size := int(unsafe.Sizeof(c[0]))
	if len(c) > math.MaxInt32/size {
		return fmt.Errorf("column of %d elements is over the 2 GiB wire limit", len(c))
	}
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&c[0])), len(c)*size)
	if !nativeLittleEndian {
		raw = swapped(raw, size)
	}
	return e.EncodeBytes(raw)
}

func decodeColumn[T columnElement](d *msgpack.Decoder, name string) ([]T, error) {
	raw, err := d.DecodeBytes()
	if err != nil || len(raw) == 0 {
		return nil, err
	}
	var zero T
	size := int(unsafe.Sizeof(zero))
	if len(raw)%size != 0 {
		return nil, fmt.Errorf("%s column: %d bytes is no multiple of %d", name, len(raw), size)
	}
	if !nativeLittleEndian {
		raw = swapped(raw, size)
	}
	n := len(raw) / size
	if uintptr(unsafe.Pointer(&raw[0]))%uintptr(size) != 0 {
		// DecodeBytes may hand out memory of any alignment; elements need theirs.
		c := make([]T, n)
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&c[0])), len(raw)), raw)
		return c, nil
	}
	return unsafe.Slice((*T)(unsafe.Pointer(&raw[0])), n), nil
}

func swapped(b []byte, size int) []byte {
	out := make([]byte, len(b))
	for i := 0; i < len(b); i += size {
		for j := range size {
			out[i+j] = b[i+size-1-j]
		}
	}
	return out
}

// MarshalJSON writes hexadecimal strings: JavaScript numbers cannot hold 64 bits.
func (c U64) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, 2+len(c)*19)
	b = append(b, '[')
	for i, v := range c {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, '"')
		b = append(b, fmt.Sprintf("%016x", v)...)
		b = append(b, '"')
	}
	return append(b, ']'), nil
}

// UnmarshalJSON reads hexadecimal strings.
func (c *U64) UnmarshalJSON(b []byte) error {
	var texts []string
	if err := json.Unmarshal(b, &texts); err != nil {
		return fmt.Errorf("U64 column: want an array of hexadecimal strings: %w", err)
	}
	*c = make(U64, len(texts))
	for i, s := range texts {
		v, err := strconv.ParseUint(s, 16, 64)
		if err != nil {
			return fmt.Errorf("U64 column: element %d: want hexadecimal digits, got %.40q", i, s)
		}
		(*c)[i] = v
	}
	return nil
}

// MarshalJSON writes an array of numbers.
func (c U8) MarshalJSON() ([]byte, error) {
	b := make([]byte, 0, 2+len(c)*4)
	b = append(b, '[')
	for i, v := range c {
		if i > 0 {
			b = append(b, ',')
		}
		b = strconv.AppendUint(b, uint64(v), 10)
	}
	return append(b, ']'), nil
}

// UnmarshalJSON reads an array of numbers.
func (c *U8) UnmarshalJSON(b []byte) error {
	var values []uint16
	if err := json.Unmarshal(b, &values); err != nil {
		return fmt.Errorf("U8 column: want an array of numbers: %w", err)
	}
	*c = make(U8, len(values))
	for i, v := range values {
		if v > 255 {
			return fmt.Errorf("U8 column: element %d: %d is over 255", i, v)
		}
		(*c)[i] = byte(v)
	}
	return nil
}
