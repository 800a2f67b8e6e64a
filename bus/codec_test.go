package bus

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/troupe-engine/troupe/schemas"
)

// slowScan is Prescan in the plainest words: the number of bytes of the value at the start of b, or -1 if
// it is malformed or too deep. It counts the values it meets.
func slowScan(b []byte, depth int, values *int) int {
	*values++
	if len(b) == 0 || *values > PayloadValuesMax {
		return -1
	}
	number := func(bytes int) int {
		if len(b) < 1+bytes {
			return -1
		}
		padded := make([]byte, 8)
		copy(padded[8-bytes:], b[1:1+bytes])
		return int(binary.BigEndian.Uint64(padded))
	}
	plain := func(size int) int {
		if size > len(b) {
			return -1
		}
		return size
	}
	counted := func(lengthBytes, extra int) int {
		n := number(lengthBytes)
		if n < 0 {
			return -1
		}
		return plain(1 + lengthBytes + extra + n)
	}
	container := func(header, children int) int {
		if children < 0 || children > 0 && depth == PayloadDepthMax {
			return -1
		}
		at := header
		for range children {
			if at > len(b) {
				return -1
			}
			size := slowScan(b[at:], depth+1, values)
			if size < 0 {
				return -1
			}
			at += size
		}
		return at
	}
	twice := func(n int) int {
		if n < 0 {
			return n
		}
		return 2 * n
	}
	switch c := b[0]; {
	case c <= 0x7f, c >= 0xe0, c == 0xc0, c == 0xc2, c == 0xc3:
		return 1
	case c <= 0x8f:
		return container(1, 2*int(c&15))
	case c <= 0x9f:
		return container(1, int(c&15))
	case c <= 0xbf:
		return plain(1 + int(c&31))
	case c == 0xc4, c == 0xd9:
		return counted(1, 0)
	case c == 0xc5, c == 0xda:
		return counted(2, 0)
	case c == 0xc6, c == 0xdb:
		return counted(4, 0)
	case c == 0xc7:
		return counted(1, 1)
	case c == 0xc8:
		return counted(2, 1)
	case c == 0xc9:
		return counted(4, 1)
	case c == 0xcc, c == 0xd0:
		return plain(2)
	case c == 0xcd, c == 0xd1, c == 0xd4:
		return plain(3)
	case c == 0xd5:
		return plain(4)
	case c == 0xca, c == 0xce, c == 0xd2:
		return plain(5)
	case c == 0xd6:
		return plain(6)
	case c == 0xcb, c == 0xcf, c == 0xd3:
		return plain(9)
	case c == 0xd7:
		return plain(10)
	case c == 0xd8:
		return plain(18)
	case c == 0xdc:
		return container(3, number(2))
	case c == 0xdd:
		return container(5, number(4))
	case c == 0xde:
		return container(3, twice(number(2)))
	case c == 0xdf:
		return container(5, twice(number(4)))
	}
	return -1
}

// Run a fuzz target with -fuzzminimizetime 20x: garbage collection makes the coverage vary, and minimizing
// would take all the time.
func FuzzPrescan(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add(seed)
	}
	f.Add(bytes.Repeat([]byte{0x91}, PayloadDepthMax+1))
	f.Add(append(bytes.Repeat([]byte{0x91}, PayloadDepthMax), 0xc0))
	f.Add(append(bytes.Repeat([]byte{0x81, 0x01}, PayloadDepthMax), 0x90))
	f.Add([]byte("\xdd\xff\xff\xff\xff"))
	f.Add([]byte("\xdf\xff\xff\xff\xff\x01\x01"))
	f.Add([]byte("\xc6\x00\x00\x00\x02ab"))
	f.Add([]byte("\xd8\x01aaaaaaaaaaaaaaaa"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		values := 0
		want := slowScan(payload, 0, &values) == len(payload)
		if err := Prescan(payload); (err == nil) != want {
			t.Fatalf("%x: Prescan says %v, the slow checker %v", payload, err, want)
		}
	})
}

// seeds are the wire forms of all examples.
func seeds(t testing.TB) (all [][]byte) {
	for _, e := range schemas.Endpoints() {
		for _, example := range []any{e.RequestExample, e.ReplyExample} {
			wire, err := Marshal(example)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, wire)
		}
	}
	return all
}

// targets are the messages that take the most from outside.
func targets() []any {
	return []any{&schemas.StepPlan{}, &schemas.ReserveRequest{}, &schemas.SubmitRequest{}, &schemas.EncodeRequest{},
		&schemas.TokenBatch{}, &schemas.DeltaBatch{}, &schemas.ComputeState{}, &schemas.Error{}}
}

// A payload of n bytes may make the decoder allocate so much: an element of one byte can be a structure.
const (
	allocatedBase    = 128 << 10
	allocatedPerByte = 512
)

// allocated runs f and fails if it allocated more than a payload of n bytes justifies.
func allocated(t *testing.T, n int, f func()) {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > uint64(allocatedBase+allocatedPerByte*n) {
		t.Fatalf("a payload of %d bytes made the decoder allocate %d", n, got)
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, seed := range seeds(f) {
		f.Add(seed)
	}
	f.Add([]byte("\x81\xa6errors\xdc\x00\x05\xc0\xc0\xc0\xc0\xc0"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, v := range targets() {
			untouched := bytes.Clone(payload)
			var err error
			allocated(t, len(payload), func() { err = Unmarshal(payload, v) })
			if !bytes.Equal(payload, untouched) {
				t.Fatal("the payload was changed")
			}
			if err != nil {
				continue
			}
			again, err := Marshal(v)
			if err != nil {
				t.Fatalf("%T from %x cannot be encoded: %v", v, payload, err)
			}
			back := reflect.New(reflect.TypeOf(v).Elem()).Interface()
			if err := Unmarshal(again, back); err != nil {
				t.Fatalf("%T from %x became %x: %v", v, payload, again, err)
			}
			if third, err := Marshal(back); err != nil || !bytes.Equal(third, again) {
				t.Fatalf("%T from %x became %x and then %x, %v", v, payload, again, third, err)
			}
		}
	})
}

func FuzzJSON(f *testing.F) {
	for _, v := range targets() {
		example := reflect.ValueOf(v).MethodByName("Example").Call(nil)[0].Interface()
		text, err := json.Marshal(example)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte(`{"seq":["ff"],"errors":[{},{}]}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, v := range targets() {
			var err error
			allocated(t, len(payload), func() { err = jsonEncoding.decode(payload, v) })
			if err != nil {
				continue
			}
			again, err := jsonEncoding.encode(v)
			if err != nil {
				t.Fatalf("%T from %q cannot be encoded: %v", v, payload, err)
			}
			back := reflect.New(reflect.TypeOf(v).Elem()).Interface()
			if err := jsonEncoding.decode(again, back); err != nil {
				t.Fatalf("%T from %q became %s: %v", v, payload, again, err)
			}
		}
	})
}

func TestPayloadLimits(t *testing.T) {
	wide := append([]byte("\x81\xa6errors\xdd\x00\x7f\xff\x00"), bytes.Repeat([]byte{0xc0}, 0x7fff00)...)
	allocated(t, 0, func() {
		if err := Unmarshal(wide, &schemas.TokenBatch{}); err == nil || !strings.Contains(err.Error(), "262144 values") {
			t.Errorf("8 million errors of one byte: %v", err)
		}
	})
	text := []byte(`{"errors":[` + strings.Repeat("{},", 1<<20) + `{}]}`)
	allocated(t, 0, func() {
		if err := jsonEncoding.decode(text, &schemas.TokenBatch{}); err == nil || !strings.Contains(err.Error(), "262144 values") {
			t.Errorf("a million errors in JSON: %v", err)
		}
	})
	for _, ok := range []string{`{"prompt":"` + strings.Repeat(`,[{\"`, PayloadValuesMax) + `"}`, ``, " \n", `{}`} {
		if err := jsonEncoding.decode([]byte(ok), &schemas.EncodeRequest{}); err != nil {
			t.Errorf("%.40q: %v", ok, err)
		}
	}
	for _, bad := range []string{`{"prompt":"x"} {}`, `[]`, `{"promt":"x"}`, `{"messages":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, `nul`, "{\"prompt\":\"\xff\\"} {
		if err := jsonEncoding.decode([]byte(bad), &schemas.EncodeRequest{}); err == nil {
			t.Errorf("%.40q was accepted", bad)
		}
	}
}

func TestEncodingOf(t *testing.T) {
	plan, err := Marshal(&schemas.StepPlan{Step: 1})
	if err != nil {
		t.Fatal(err)
	}
	asMap, err := msgpack.Marshal(map[string]int{"step": 1})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		contentType string
		payload     []byte
		want        encoding
	}{{"", plan, msgpackEncoding}, {"", asMap, msgpackEncoding}, {"", []byte(" {}"), jsonEncoding}, {"", nil, jsonEncoding},
		{"application/json", plan, jsonEncoding}, {"application/problem+json; charset=utf-8", plan, jsonEncoding},
		{"application/msgpack", []byte("{}"), msgpackEncoding}} {
		if got := encodingOf(c.contentType, c.payload); got != c.want {
			t.Errorf("%q, %q: %v", c.contentType, c.payload, got)
		}
	}
	if got := headerSafe("a\r\nb\x00ü" + strings.Repeat("é", headerBytesMax)); strings.ContainsAny(got, "\r\n\x00") || len(got) > headerBytesMax+8 || !strings.HasPrefix(got, "a  b ü") {
		t.Errorf("got %.20q of %d bytes", got, len(got))
	}
}
