package schemas

import (
	"encoding/json"
	"fmt"
	"reflect"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"
)

// codecOf makes the codec of a field of type t. Types it does not know are left to msgpack/v5.
func codecOf(t reflect.Type) fieldCodec {
	switch t {
	case reflect.TypeFor[I32]():
		return columnCodec[int32]("I32")
	case reflect.TypeFor[U64]():
		return columnCodec[uint64]("U64")
	case reflect.TypeFor[F32]():
		return columnCodec[float32]("F32")
	case reflect.TypeFor[U8]():
		return columnCodec[uint8]("U8")
	case reflect.TypeFor[json.RawMessage](), reflect.TypeFor[[]byte]():
		return reflectCodec(t)
	}
	if t.Implements(reflect.TypeFor[msgpack.CustomEncoder]()) || reflect.PointerTo(t).Implements(reflect.TypeFor[msgpack.CustomDecoder]()) {
		return reflectCodec(t)
	}
	switch t.Kind() {
	case reflect.Int32:
		return intCodec[int32](32)
	case reflect.Int64:
		return intCodec[int64](64)
	case reflect.Uint8:
		return uintCodec[uint8](8)
	case reflect.Uint32:
		return uintCodec[uint32](32)
	case reflect.Uint64:
		return uintCodec[uint64](64)
	case reflect.Bool:
		return plainCodec((*msgpack.Encoder).EncodeBool, (*msgpack.Decoder).DecodeBool)
	case reflect.Float32:
		return plainCodec((*msgpack.Encoder).EncodeFloat32, (*msgpack.Decoder).DecodeFloat32)
	case reflect.Float64:
		return plainCodec((*msgpack.Encoder).EncodeFloat64, (*msgpack.Decoder).DecodeFloat64)
	case reflect.String:
		return plainCodec((*msgpack.Encoder).EncodeString, (*msgpack.Decoder).DecodeString)
	case reflect.Struct:
		if isArrayStruct(t) {
			l := layoutOf(t)
			return fieldCodec{l.encode, l.decode}
		}
	case reflect.Pointer:
		if isArrayStruct(t.Elem()) {
			return pointerCodec(t)
		}
	case reflect.Slice:
		return sliceCodec(t)
	}
	return reflectCodec(t)
}

func reflectCodec(t reflect.Type) fieldCodec {
	return fieldCodec{
		func(e *msgpack.Encoder, p unsafe.Pointer) error { return e.EncodeValue(reflect.NewAt(t, p).Elem()) },
		func(d *msgpack.Decoder, p unsafe.Pointer) error { return d.DecodeValue(reflect.NewAt(t, p).Elem()) },
	}
}

func plainCodec[T any](encode func(*msgpack.Encoder, T) error, decode func(*msgpack.Decoder) (T, error)) fieldCodec {
	return fieldCodec{
		func(e *msgpack.Encoder, p unsafe.Pointer) error { return encode(e, *(*T)(p)) },
		func(d *msgpack.Decoder, p unsafe.Pointer) (err error) {
			*(*T)(p), err = decode(d)
			return err
		},
	}
}

func intCodec[T int32 | int64](bits uint) fieldCodec {
	return fieldCodec{
		func(e *msgpack.Encoder, p unsafe.Pointer) error { return e.EncodeInt(int64(*(*T)(p))) },
		func(d *msgpack.Decoder, p unsafe.Pointer) error {
			v, err := decodeInt(d, bits)
			*(*T)(p) = T(v)
			return err
		},
	}
}

func uintCodec[T uint8 | uint32 | uint64](bits uint) fieldCodec {
	return fieldCodec{
		func(e *msgpack.Encoder, p unsafe.Pointer) error { return e.EncodeUint(uint64(*(*T)(p))) },
		func(d *msgpack.Decoder, p unsafe.Pointer) error {
			v, err := decodeUint(d, bits)
			*(*T)(p) = T(v)
			return err
		},
	}
}

// decodeInt reads an integer that fits bits bits; msgpack/v5 would cut it.
func decodeInt(d *msgpack.Decoder, bits uint) (int64, error) {
	code, err := d.PeekCode()
	if err != nil {
		return 0, err
	}
	v, err := d.DecodeInt64()
	if err != nil {
		return 0, err
	}
	if low := int64(-1) << (bits - 1); v < low || v > -1-low || code == 0xcf && v < 0 {
		return 0, fmt.Errorf("want an integer of %d bits, got one outside", bits)
	}
	return v, nil
}

// decodeUint reads a non-negative integer that fits bits bits.
func decodeUint(d *msgpack.Decoder, bits uint) (uint64, error) {
	code, err := d.PeekCode()
	if err != nil {
		return 0, err
	}
	v, err := d.DecodeUint64()
	if err != nil {
		return 0, err
	}
	if signed := code >= 0xe0 || code >= 0xd0 && code <= 0xd3; signed && int64(v) < 0 {
		return 0, fmt.Errorf("want 0 or more, got %d", int64(v))
	}
	if bits < 64 && v>>bits != 0 {
		return 0, fmt.Errorf("want an integer of %d bits, got %d", bits, v)
	}
	return v, nil
}

// pointerCodec is for a pointer to a message: nil, or the message.
func pointerCodec(t reflect.Type) fieldCodec {
	l := layoutOf(t.Elem())
	return fieldCodec{
		func(e *msgpack.Encoder, p unsafe.Pointer) error {
			if to := *(*unsafe.Pointer)(p); to != nil {
				return l.encode(e, to)
			}
			return e.EncodeNil()
		},
		func(d *msgpack.Decoder, p unsafe.Pointer) error {
			if code, err := d.PeekCode(); err != nil || code == 0xc0 {
				return d.DecodeNil()
			}
			to := reflect.New(t.Elem())
			reflect.NewAt(t, p).Elem().Set(to)
			return l.decode(d, to.UnsafePointer())
		},
	}
}

// sliceCodec is for slices of messages, strings and numbers. An empty slice is decoded as nil.
func sliceCodec(t reflect.Type) fieldCodec {
	element := codecOf(t.Elem())
	return fieldCodec{
		func(e *msgpack.Encoder, p unsafe.Pointer) error {
			v := reflect.NewAt(t, p).Elem()
			if v.IsNil() {
				return e.EncodeNil()
			}
			if err := e.EncodeArrayLen(v.Len()); err != nil {
				return err
			}
			for i := range v.Len() {
				if err := element.encode(e, v.Index(i).Addr().UnsafePointer()); err != nil {
					return fmt.Errorf("element %d: %w", i, err)
				}
			}
			return nil
		},
		func(d *msgpack.Decoder, p unsafe.Pointer) error {
			n, err := d.DecodeArrayLen()
			if err != nil || n <= 0 {
				return err
			}
			v := reflect.MakeSlice(t, n, n)
			reflect.NewAt(t, p).Elem().Set(v)
			for i := range n {
				if err := element.decode(d, v.Index(i).Addr().UnsafePointer()); err != nil {
					return fmt.Errorf("element %d: %w", i, err)
				}
			}
			return nil
		},
	}
}
