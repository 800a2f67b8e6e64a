package schemas

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"unsafe"

	"github.com/vmihailenco/msgpack/v5"
)

// The wire form of a message is what msgpack/v5 makes of it with compact ints: an array of the fields
// in declaration order. This file does the same from a table per type, made once, because the messages of
// a step must cost microseconds, and because msgpack/v5 refuses an array whose length it does not expect:
// here a shorter array leaves the last fields zero and what a longer one adds is skipped, so that versions
// can live side by side. A map with the JSON names as keys is understood as well.

// Marshal encodes a message, given as a pointer, in its wire form.
func Marshal(v any) ([]byte, error) { return Append(nil, v) }

// Append appends a message, given as a pointer, in its wire form to dst.
func Append(dst []byte, v any) ([]byte, error) {
	b := encoders.Get().(*encoderBuffer)
	b.buf.Reset()
	if err := encodeMessage(b.enc, v); err != nil {
		return dst, err // the encoder may be in any state: it is not reused
	}
	dst = append(dst, b.buf.Bytes()...)
	if b.buf.Cap() <= encoderKeepMax {
		encoders.Put(b)
	}
	return dst, nil
}

// Unmarshal decodes one message into v, a pointer, overwriting it. Columns of v may share memory with the
// payload, so neither may change afterwards. It trusts the payload's lengths: bus.Prescan checks them.
func Unmarshal(payload []byte, v any) error {
	b := decoders.Get().(*decoderBuffer)
	b.payload.data = payload
	b.dec.Reset(&b.payload)
	b.dec.SetCustomStructTag("json")
	err := decodeMessage(b.dec, v)
	b.payload = payloadReader{}
	decoders.Put(b)
	return err
}

type encoderBuffer struct {
	buf bytes.Buffer
	enc *msgpack.Encoder
}

var encoders = sync.Pool{New: func() any {
	b := &encoderBuffer{}
	b.enc = msgpack.NewEncoder(&b.buf)
	b.enc.UseCompactInts(true)
	b.enc.SetCustomStructTag("json")
	return b
}}

// encoderKeepMax is the largest buffer a pooled encoder keeps, in bytes.
const encoderKeepMax = 1 << 20

type decoderBuffer struct {
	payload payloadReader
	dec     *msgpack.Decoder
}

var decoders = sync.Pool{New: func() any { return &decoderBuffer{dec: msgpack.NewDecoder(nil)} }}

func encodeMessage(e *msgpack.Encoder, v any) error {
	t := reflect.TypeOf(v)
	if !isMessage(t) || reflect.ValueOf(v).IsNil() {
		return e.Encode(v)
	}
	err := layoutOf(t.Elem()).encode(e, reflect.ValueOf(v).UnsafePointer())
	runtime.KeepAlive(v)
	return err
}

func decodeMessage(d *msgpack.Decoder, v any) error {
	t := reflect.TypeOf(v)
	if !isMessage(t) || reflect.ValueOf(v).IsNil() {
		return d.Decode(v)
	}
	reflect.ValueOf(v).Elem().SetZero()
	err := layoutOf(t.Elem()).decode(d, reflect.ValueOf(v).UnsafePointer())
	runtime.KeepAlive(v)
	return err
}

// isMessage reports whether t is a pointer to a struct that is encoded as an array.
func isMessage(t reflect.Type) bool {
	return t != nil && t.Kind() == reflect.Pointer && isArrayStruct(t.Elem())
}

func isArrayStruct(t reflect.Type) bool {
	if t.Kind() != reflect.Struct {
		return false
	}
	f, ok := t.FieldByName("_msgpack")
	return ok && strings.Contains(f.Tag.Get("msgpack"), "as_array")
}

// layout is how a message type is laid out in memory and on the wire.
type layout struct {
	fields []field
	byName map[string]*field // by JSON name
}

type field struct {
	name   string // in JSON
	offset uintptr
	fieldCodec
}

// fieldCodec encodes the value that p points to, and decodes into it. The value is zero before.
type fieldCodec struct {
	encode func(e *msgpack.Encoder, p unsafe.Pointer) error
	decode func(d *msgpack.Decoder, p unsafe.Pointer) error
}

var layouts sync.Map // reflect.Type -> *layout

func layoutOf(t reflect.Type) *layout {
	if l, ok := layouts.Load(t); ok {
		return l.(*layout)
	}
	l := &layout{byName: map[string]*field{}}
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() {
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "" {
				name = f.Name
			}
			l.fields = append(l.fields, field{name, f.Offset, codecOf(f.Type)})
		}
	}
	for i := range l.fields {
		l.byName[l.fields[i].name] = &l.fields[i]
	}
	stored, _ := layouts.LoadOrStore(t, l)
	return stored.(*layout)
}

func (l *layout) encode(e *msgpack.Encoder, p unsafe.Pointer) error {
	if err := e.EncodeArrayLen(len(l.fields)); err != nil {
		return err
	}
	for i := range l.fields {
		f := &l.fields[i]
		if err := f.encode(e, unsafe.Add(p, f.offset)); err != nil {
			return fmt.Errorf("field %s: %w", f.name, err)
		}
	}
	return nil
}

func (l *layout) decode(d *msgpack.Decoder, p unsafe.Pointer) error {
	code, err := d.PeekCode()
	if err != nil {
		return err
	}
	if code>>4 == 0x8 || code == 0xde || code == 0xdf {
		return l.decodeMap(d, p)
	}
	n, err := d.DecodeArrayLen() // -1 for nil: a zero message
	if err != nil {
		return fmt.Errorf("want an array of the message's fields, or a map of them by name: %w", err)
	}
	for i := range n {
		if i >= len(l.fields) {
			if err := d.Skip(); err != nil { // of a newer version
				return err
			}
			continue
		}
		if err := l.fields[i].decodeInto(d, p); err != nil {
			return err
		}
	}
	return nil
}

func (l *layout) decodeMap(d *msgpack.Decoder, p unsafe.Pointer) error {
	n, err := d.DecodeMapLen()
	if err != nil {
		return err
	}
	for range n {
		name, err := d.DecodeString()
		if err != nil {
			return fmt.Errorf("want field names as keys: %w", err)
		}
		f := l.byName[name]
		if f == nil {
			// People write these: a misspelt name must not be ignored.
			return fmt.Errorf("unknown field %.40q", name)
		}
		if err := f.decodeInto(d, p); err != nil {
			return err
		}
	}
	return nil
}

func (f *field) decodeInto(d *msgpack.Decoder, p unsafe.Pointer) error {
	if err := f.decode(d, unsafe.Add(p, f.offset)); err != nil {
		return fmt.Errorf("field %s: %w", f.name, err)
	}
	return nil
}

// payloadReader reads a payload for a msgpack.Decoder, and hands out parts of it without a copy.
type payloadReader struct {
	data []byte
	at   int
}

func (r *payloadReader) Read(b []byte) (int, error) {
	if r.at >= len(r.data) {
		return 0, io.EOF
	}
	n := copy(b, r.data[r.at:])
	r.at += n
	return n, nil
}

func (r *payloadReader) ReadByte() (byte, error) {
	if r.at >= len(r.data) {
		return 0, io.EOF
	}
	r.at++
	return r.data[r.at-1], nil
}

func (r *payloadReader) UnreadByte() error {
	r.at--
	return nil
}

// next returns the next n bytes of the payload itself.
func (r *payloadReader) next(n int) ([]byte, error) {
	if n > len(r.data)-r.at {
		return nil, io.ErrUnexpectedEOF
	}
	r.at += n
	return r.data[r.at-n : r.at : r.at], nil
}
