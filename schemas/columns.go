package schemas

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"runtime"
	"strconv"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"
)

// Columns hold one value per row of a batched message. On the wire each is one msgpack bin field of
// little-endian elements; in JSON an array. An array of numbers is understood in both. Empty columns are
// decoded as nil.
type (
	// I32 is a column of 32-bit integers: tokens, positions, blocks, counts.
	I32 []int32
	// U64 is a column of 64-bit integers: sequence ids, seeds. Hexadecimal strings in JSON.
	U64 []uint64
	// F32 is a column of floats. In JSON null stands for NaN and the infinities, which JSON does not have.
	F32 []float32
	// U8 is a column of small codes. In JSON an array of numbers, not base64.
	U8 []byte
)

type columnElement interface {
	int32 | uint64 | float32 | uint8
}

// unalignedReads says that the processor reads numbers at any address, so that a column can be used where
// it lies in its payload, wherever that is. (The Go compiler relies on it too, when it combines loads.)
const unalignedReads = runtime.GOARCH == "amd64" || runtime.GOARCH == "arm64"

var nativeLittleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// EncodeMsgpack writes the column as one bin field.
func (c I32) EncodeMsgpack(e *msgpack.Encoder) error { return encodeColumn(e, c) }

// EncodeMsgpack writes the column as one bin field.
func (c U64) EncodeMsgpack(e *msgpack.Encoder) error { return encodeColumn(e, c) }

// EncodeMsgpack writes the column as one bin field.
func (c F32) EncodeMsgpack(e *msgpack.Encoder) error { return encodeColumn(e, c) }

// EncodeMsgpack writes the column as one bin field.
func (c U8) EncodeMsgpack(e *msgpack.Encoder) error { return encodeColumn(e, c) }

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
	*c, err = decodeColumn[uint8](d, "U8")
	return err
}

func columnCodec[T columnElement](name string) fieldCodec {
	return fieldCodec{
		func(e *msgpack.Encoder, p unsafe.Pointer) error { return encodeColumn(e, *(*[]T)(p)) },
		func(d *msgpack.Decoder, p unsafe.Pointer) (err error) {
			*(*[]T)(p), err = decodeColumn[T](d, name)
			return err
		},
	}
}

func encodeColumn[T columnElement](e *msgpack.Encoder, c []T) error {
	if len(c) == 0 {
		return e.EncodeBytes([]byte{}) // nil would become msgpack nil: one more case for every reader
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
	code, err := d.PeekCode()
	if err != nil {
		return nil, err
	}
	if code>>4 == 0x9 || code == 0xdc || code == 0xdd {
		return decodeNumbers[T](d, name)
	}
	raw, err := nextBytes(d)
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
	if unalignedReads || uintptr(unsafe.Pointer(&raw[0]))%uintptr(size) == 0 {
		return unsafe.Slice((*T)(unsafe.Pointer(&raw[0])), n), nil
	}
	c := make([]T, n)
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&c[0])), len(raw)), raw)
	return c, nil
}

// nextBytes reads a bin or str field, without a copy from a payload in memory.
func nextBytes(d *msgpack.Decoder) ([]byte, error) {
	n, err := d.DecodeBytesLen()
	if err != nil || n <= 0 {
		return nil, err
	}
	if r, ok := d.Buffered().(*payloadReader); ok {
		return r.next(n)
	}
	// Somebody else's decoder: the length is not to be trusted with an allocation.
	raw, err := io.ReadAll(io.LimitReader(d.Buffered(), int64(n)))
	if err == nil && len(raw) < n {
		err = io.ErrUnexpectedEOF
	}
	return raw, err
}

// decodeNumbers reads a column that a client wrote as a plain array.
func decodeNumbers[T columnElement](d *msgpack.Decoder, name string) ([]T, error) {
	n, err := d.DecodeArrayLen()
	if err != nil || n <= 0 {
		return nil, err
	}
	var c []T // grows as elements come: the length alone is not to be trusted
	for i := range n {
		var v T
		switch p := any(&v).(type) {
		case *int32:
			var x int64
			x, err = decodeInt(d, 32)
			*p = int32(x)
		case *uint64:
			*p, err = decodeUint(d, 64)
		case *uint8:
			var x uint64
			x, err = decodeUint(d, 8)
			*p = uint8(x)
		case *float32:
			var x float64
			x, err = d.DecodeFloat64()
			*p = float32(x)
		}
		if err != nil {
			return nil, fmt.Errorf("%s column: element %d: %w", name, i, err)
		}
		c = append(c, v)
	}
	return c, nil
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

// MarshalJSON writes an array of numbers.
func (c I32) MarshalJSON() ([]byte, error) {
	return marshalColumn(c, func(b []byte, v int32) []byte { return strconv.AppendInt(b, int64(v), 10) }), nil
}

// MarshalJSON writes hexadecimal strings: JavaScript numbers cannot hold 64 bits.
func (c U64) MarshalJSON() ([]byte, error) {
	return marshalColumn(c, func(b []byte, v uint64) []byte { return fmt.Appendf(b, `"%016x"`, v) }), nil
}

// MarshalJSON writes an array of numbers, with null for what is not finite.
func (c F32) MarshalJSON() ([]byte, error) {
	return marshalColumn(c, func(b []byte, v float32) []byte {
		if x := float64(v); math.IsNaN(x) || math.IsInf(x, 0) {
			return append(b, "null"...)
		}
		return strconv.AppendFloat(b, float64(v), 'g', -1, 32)
	}), nil
}

// MarshalJSON writes an array of numbers.
func (c U8) MarshalJSON() ([]byte, error) {
	return marshalColumn(c, func(b []byte, v uint8) []byte { return strconv.AppendUint(b, uint64(v), 10) }), nil
}

func marshalColumn[T columnElement](c []T, element func([]byte, T) []byte) []byte {
	b := append(make([]byte, 0, 2+len(c)*8), '[')
	for i, v := range c {
		if i > 0 {
			b = append(b, ',')
		}
		b = element(b, v)
	}
	return append(b, ']')
}

// UnmarshalJSON reads an array of numbers.
func (c *I32) UnmarshalJSON(b []byte) (err error) {
	*c, err = unmarshalColumn(b, "I32", "numbers", func(v int32) (int32, error) { return v, nil })
	return err
}

// UnmarshalJSON reads hexadecimal strings.
func (c *U64) UnmarshalJSON(b []byte) (err error) {
	*c, err = unmarshalColumn(b, "U64", "hexadecimal strings", parseHex)
	return err
}

// UnmarshalJSON reads an array of numbers; null becomes NaN.
func (c *F32) UnmarshalJSON(b []byte) (err error) {
	*c, err = unmarshalColumn(b, "F32", "numbers", func(v *float32) (float32, error) {
		if v == nil {
			return float32(math.NaN()), nil
		}
		return *v, nil
	})
	return err
}

// UnmarshalJSON reads an array of numbers.
func (c *U8) UnmarshalJSON(b []byte) (err error) {
	*c, err = unmarshalColumn(b, "U8", "numbers", func(v uint16) (uint8, error) {
		if v > 255 {
			return 0, fmt.Errorf("%d is over 255", v)
		}
		return uint8(v), nil
	})
	return err
}

func unmarshalColumn[From any, T columnElement](b []byte, name, want string, element func(From) (T, error)) ([]T, error) {
	var values []From
	if err := json.Unmarshal(b, &values); err != nil {
		return nil, fmt.Errorf("%s column: want an array of %s: %w", name, want, err)
	}
	if len(values) == 0 {
		return nil, nil
	}
	c := make([]T, len(values))
	for i, v := range values {
		var err error
		if c[i], err = element(v); err != nil {
			return nil, fmt.Errorf("%s column: element %d: %w", name, i, err)
		}
	}
	return c, nil
}

func parseHex(text string) (uint64, error) {
	v, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("want at most 16 hexadecimal digits, got %.40q", text)
	}
	return v, nil
}
