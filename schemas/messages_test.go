package schemas

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// messages are all messages that actors exchange, and those inside them, as pointers to their examples.
func messages(t *testing.T) map[string]any {
	found := map[string]any{}
	var add func(reflect.Type)
	add = func(typ reflect.Type) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		if _, seen := found[typ.Name()]; seen || !isArrayStruct(typ) {
			return
		}
		method := reflect.New(typ).MethodByName("Example")
		if !method.IsValid() {
			t.Errorf("%s has no Example", typ)
			return
		}
		found[typ.Name()] = method.Call(nil)[0].Interface()
		for i := range typ.NumField() {
			add(typ.Field(i).Type)
		}
	}
	for _, e := range Endpoints() {
		add(e.Request)
		add(e.Reply)
	}
	add(reflect.TypeFor[Error]())
	add(reflect.TypeFor[TensorHandle]())
	add(reflect.TypeFor[JournalBatch]())
	add(reflect.TypeFor[ReplicaReport]())
	return found
}

// wrapped is hexadecimal in lines of 32 bytes.
func wrapped(b []byte) string {
	var s strings.Builder
	for len(b) > 32 {
		s.WriteString(hex.EncodeToString(b[:32]) + "\n")
		b = b[32:]
	}
	return s.String() + hex.EncodeToString(b) + "\n"
}

// The bytes on the wire are a promise to other versions: a change here is a new protocol version, unless it
// only appends.
func TestGolden(t *testing.T) {
	for name, example := range messages(t) {
		wire, err := Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.MarshalIndent(example, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		got := wrapped(wire) + "\n" + string(text) + "\n"
		path := filepath.Join("testdata", name+".golden")
		if *update {
			if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Errorf("%v (run the test with -update)", err)
			continue
		}
		if got != string(want) {
			t.Errorf("%s is encoded as\n%s\nwant\n%s", name, got, want)
		}
		// What an older version wrote can be read.
		old, _, _ := strings.Cut(string(want), "\n\n")
		oldWire, err := hex.DecodeString(strings.ReplaceAll(old, "\n", ""))
		if err != nil {
			t.Fatal(err)
		}
		back := reflect.New(reflect.TypeOf(example).Elem()).Interface()
		if err := Unmarshal(oldWire, back); err != nil || !reflect.DeepEqual(back, example) {
			t.Errorf("%s: the golden bytes are read as %+v, %v", name, back, err)
		}
	}
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(files) != len(messages(t)) {
		t.Errorf("%d golden files for %d messages (%v)", len(files), len(messages(t)), err)
	}
}

// fill gives every field of v a random value that is not empty.
func fill(v reflect.Value, rng *rand.Rand) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				fill(v.Field(i), rng)
			}
		}
	case reflect.Pointer:
		if rng.IntN(4) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			fill(v.Elem(), rng)
		}
	case reflect.Slice:
		if v.Type() == reflect.TypeFor[json.RawMessage]() {
			v.SetBytes([]byte(fmt.Sprintf(`{"n":%d}`, rng.IntN(1000))))
			return
		}
		if n := rng.IntN(40); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
		}
		for i := range v.Len() {
			fill(v.Index(i), rng)
		}
	case reflect.String:
		v.SetString(strings.Repeat("ü", rng.IntN(30)))
	case reflect.Bool:
		v.SetBool(rng.IntN(2) == 0)
	case reflect.Float32, reflect.Float64:
		v.SetFloat(float64(float32(rng.NormFloat64())))
	default:
		bits := rng.Uint64() >> rng.IntN(64)
		if v.CanInt() {
			v.SetInt(int64(bits))
		} else {
			v.SetUint(bits)
		}
	}
}

// columnsNotNil makes nil columns empty, in v and in what it contains. msgpack/v5 would write nil for them
// without asking; on the wire a column is always bytes.
func columnsNotNil(v reflect.Value) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				columnsNotNil(v.Field(i))
			}
		}
	case reflect.Pointer:
		if !v.IsNil() {
			inner := reflect.New(v.Type().Elem())
			inner.Elem().Set(v.Elem())
			columnsNotNil(inner.Elem())
			v.Set(inner)
		}
	case reflect.Slice:
		switch v.Interface().(type) {
		case I32, U64, F32, U8:
			if v.IsNil() {
				v.Set(reflect.MakeSlice(v.Type(), 0, 0))
			}
			return
		}
		if v.Len() > 0 && isArrayStruct(v.Type().Elem()) {
			v.Set(reflect.AppendSlice(reflect.MakeSlice(v.Type(), 0, v.Len()), v)) // v's elements stay as they are
			for i := range v.Len() {
				columnsNotNil(v.Index(i))
			}
		}
	}
}

// The table-driven encoding is msgpack/v5's own, byte for byte.
func TestWireIsWhatMsgpackWrites(t *testing.T) {
	for name, example := range messages(t) {
		for seed := range uint64(30) {
			v := reflect.New(reflect.TypeOf(example).Elem())
			if seed > 0 {
				fill(v.Elem(), rand.New(rand.NewPCG(seed, 0)))
			}
			got, err := Marshal(v.Interface())
			if err != nil {
				t.Fatal(err)
			}
			var want bytes.Buffer
			e := msgpack.NewEncoder(&want)
			e.UseCompactInts(true)
			reference := reflect.New(v.Type().Elem())
			reference.Elem().Set(v.Elem())
			columnsNotNil(reference.Elem())
			if err := e.Encode(reference.Interface()); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want.Bytes()) {
				t.Fatalf("%s, seed %d:\ngot  %x\nwant %x", name, seed, got, want.Bytes())
			}
			back := reflect.New(v.Type().Elem())
			if err := Unmarshal(got, back.Interface()); err != nil {
				t.Fatalf("%s, seed %d: %v", name, seed, err)
			}
			if !reflect.DeepEqual(back.Interface(), v.Interface()) {
				t.Fatalf("%s, seed %d:\ngot  %+v\nwant %+v", name, seed, back.Elem(), v.Elem())
			}
			if err := msgpack.Unmarshal(got, reference.Interface()); err != nil {
				t.Fatalf("%s, seed %d: msgpack/v5: %v", name, seed, err)
			}
		}
	}
}

func TestJSONRoundTrip(t *testing.T) {
	for name, example := range messages(t) {
		text, err := json.Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		back := reflect.New(reflect.TypeOf(example).Elem()).Interface()
		d := json.NewDecoder(bytes.NewReader(text))
		d.DisallowUnknownFields()
		if err := d.Decode(back); err != nil || !reflect.DeepEqual(back, example) {
			t.Errorf("%s: %s\ngot  %+v, %v\nwant %+v", name, text, back, err, example)
		}
	}
}

// Python and JavaScript clients send maps with the JSON names; numbers in columns may be plain arrays.
func TestMapsByJSONName(t *testing.T) {
	for name, example := range messages(t) {
		text, err := json.Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		var generic map[string]any
		if err := json.Unmarshal(text, &generic); err != nil {
			t.Fatal(err)
		}
		typ := reflect.TypeOf(example).Elem()
		asMap := map[string]any{}
		for i := range typ.NumField() {
			f := typ.Field(i)
			key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if _, written := generic[key]; f.IsExported() && written {
				asMap[key] = reflect.ValueOf(example).Elem().Field(i).Interface()
			}
		}
		wire, err := msgpack.Marshal(asMap)
		if err != nil {
			t.Fatal(err)
		}
		back := reflect.New(typ).Interface()
		if err := Unmarshal(wire, back); err != nil || !reflect.DeepEqual(back, example) {
			t.Errorf("%s: got %+v, %v\nwant %+v", name, back, err, example)
		}
	}
	wire, err := msgpack.Marshal(map[string]any{"step": 1, "seq": []uint64{256}, "slot": []int{0, -1}, "sample": []int{1}, "init_top_p": []any{0.5, 1}})
	if err != nil {
		t.Fatal(err)
	}
	var p StepPlan
	if err := Unmarshal(wire, &p); err != nil || p.Step != 1 || p.Seq[0] != 256 || p.Slot[1] != -1 || p.Sample[0] != 1 || p.InitTopP[1] != 1 {
		t.Errorf("got %+v, %v", p, err)
	}
}

func TestVersionsLiveSideBySide(t *testing.T) {
	for name, example := range messages(t) {
		wire, err := Marshal(example)
		if err != nil {
			t.Fatal(err)
		}
		var elements []msgpack.RawMessage
		if err := msgpack.Unmarshal(wire, &elements); err != nil {
			t.Fatal(err)
		}
		for n := range len(elements) + 1 {
			older, err := msgpack.Marshal(elements[:n])
			if err != nil {
				t.Fatal(err)
			}
			back := reflect.New(reflect.TypeOf(example).Elem())
			fill(back.Elem(), rand.New(rand.NewPCG(1, 1))) // must be overwritten
			if err := Unmarshal(older, back.Interface()); err != nil {
				t.Fatalf("%s, %d of %d fields: %v", name, n, len(elements), err)
			}
			want, seen := reflect.New(back.Type().Elem()), 0
			for i := range back.Type().Elem().NumField() {
				if back.Type().Elem().Field(i).IsExported() {
					if seen < n {
						want.Elem().Field(i).Set(reflect.ValueOf(example).Elem().Field(i))
					}
					seen++
				}
			}
			if !reflect.DeepEqual(back.Interface(), want.Interface()) {
				t.Errorf("%s, %d fields: got %+v, want %+v", name, n, back.Elem(), want.Elem())
			}
		}
		newer, err := msgpack.Marshal(append(elements, []byte("\x01"), []byte("\xa3new"), []byte("\x92\xc4\x01x\x81\x01\x02")))
		if err != nil {
			t.Fatal(err)
		}
		back := reflect.New(reflect.TypeOf(example).Elem()).Interface()
		if err := Unmarshal(newer, back); err != nil || !reflect.DeepEqual(back, example) {
			t.Errorf("%s with more fields: got %+v, %v", name, back, err)
		}
	}
}

func TestDecodeErrorsNameTheField(t *testing.T) {
	encode := func(v any) []byte {
		b, err := msgpack.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for text, wire := range map[string][]byte{
		"field slot: I32 column: 3 bytes":                            encode(map[string]any{"slot": []byte{1, 2, 3}}),
		"field slot: I32 column: element 1: want an integer of 32":   encode(map[string]any{"slot": []int64{1, 1 << 31}}),
		"field slot: I32 column: element 0: want an integer of 32 b": encode(map[string]any{"slot": []uint64{1 << 63}}),
		"field sample: U8 column: element 0: want an integer of 8":   encode(map[string]any{"sample": []int{256}}),
		"field seq: U64 column: element 0: want 0 or more, got -1":   encode(map[string]any{"seq": []int{-1}}),
		"field step: want 0 or more, got -3":                         encode(map[string]any{"step": -3}),
		"field step":                                                 encode(map[string]any{"step": "one"}),
		"unknown field \"stpe\"":                                     encode(map[string]any{"stpe": 1}),
		"want field names as keys":                                   encode(map[int]any{1: 1}),
		"want an array of the message's fields":                      encode("hello"),
	} {
		var p StepPlan
		if err := Unmarshal(wire, &p); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("got %v, want %q", err, text)
		}
	}
	var c CancelRequest
	if err := Unmarshal(encode([]any{nil, 300}), &c); err == nil || !strings.Contains(err.Error(), "field finish: want an integer of 8 bits, got 300") {
		t.Errorf("got %v", err)
	}
	var b TokenBatch
	if err := Unmarshal(encode(map[string]any{"errors": []any{[]any{1, []any{"internal", 7}}}}), &b); err == nil || !strings.Contains(err.Error(), "field errors: element 0: field error: field op") {
		t.Errorf("got %v", err)
	}
}
