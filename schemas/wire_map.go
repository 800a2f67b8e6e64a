package schemas

import (
	"bytes"
	"reflect"
	"runtime"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"
)

// MarshalMap encodes a message, given as a pointer, as a map by JSON name, columns as bin fields. It is for
// receivers that are not part of Troupe: they read what they know by name, and Unmarshal reads it too.
func MarshalMap(v any) ([]byte, error) {
	t := reflect.TypeOf(v)
	if !isMessage(t) || reflect.ValueOf(v).IsNil() {
		return Marshal(v)
	}
	b := encoders.Get().(*encoderBuffer)
	b.buf.Reset()
	if err := layoutOf(t.Elem()).encodeMap(b.enc, reflect.ValueOf(v).UnsafePointer()); err != nil {
		return nil, err // the encoder may be in any state: it is not reused
	}
	runtime.KeepAlive(v)
	out := bytes.Clone(b.buf.Bytes())
	if b.buf.Cap() <= encoderKeepMax {
		encoders.Put(b)
	}
	return out, nil
}

func (l *layout) encodeMap(e *msgpack.Encoder, p unsafe.Pointer) error {
	if err := e.EncodeMapLen(len(l.fields)); err != nil {
		return err
	}
	for i := range l.fields {
		f := &l.fields[i]
		if err := e.EncodeString(f.name); err != nil {
			return err
		}
		if err := f.encode(e, unsafe.Add(p, f.offset)); err != nil {
			return err
		}
	}
	return nil
}
