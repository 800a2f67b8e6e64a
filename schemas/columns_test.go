package schemas

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/vmihailenco/msgpack/v5"
)

func TestColumnsInJSON(t *testing.T) {
	type columns struct {
		I I32 `json:"i"`
		U U64 `json:"u"`
		F F32 `json:"f"`
		B U8  `json:"b"`
	}
	full := columns{I32{math.MinInt32, 0, math.MaxInt32}, U64{0, math.MaxUint64, 256}, F32{0, -1.5, 1e-30, 0.1}, U8{0, 255}}
	text, err := json.Marshal(full)
	want := `{"i":[-2147483648,0,2147483647],"u":["0000000000000000","ffffffffffffffff","0000000000000100"],"f":[0,-1.5,1e-30,0.1],"b":[0,255]}`
	if err != nil || string(text) != want {
		t.Errorf("got  %s, %v\nwant %s", text, err, want)
	}
	var back columns
	if err := json.Unmarshal(text, &back); err != nil || !reflect.DeepEqual(back, full) {
		t.Errorf("got %+v, %v", back, err)
	}
	if text, err := json.Marshal(columns{}); err != nil || string(text) != `{"i":[],"u":[],"f":[],"b":[]}` {
		t.Errorf("empty columns: %s, %v", text, err)
	}
	for _, empty := range []string{`{"i":[],"u":[],"f":[],"b":[]}`, `{"i":null,"u":null,"f":null,"b":null}`, `{}`} {
		got := columns{}
		if err := json.Unmarshal([]byte(empty), &got); err != nil || !reflect.DeepEqual(got, columns{}) {
			t.Errorf("%s: got %#v, %v", empty, got, err)
		}
	}
	strange := F32{float32(math.NaN()), float32(math.Inf(1)), 2}
	if text, err := json.Marshal(strange); err != nil || string(text) != `[null,null,2]` {
		t.Errorf("got %s, %v", text, err)
	}
	if err := json.Unmarshal([]byte(`[null,2]`), &strange); err != nil || !math.IsNaN(float64(strange[0])) || strange[1] != 2 {
		t.Errorf("got %v, %v", strange, err)
	}
	for bad, text := range map[string]string{
		`{"i":[2147483648]}`:              "I32",
		`{"i":[1.5]}`:                     "I32",
		`{"i":"AQID"}`:                    "I32 column: want an array of numbers",
		`{"u":["xyz"]}`:                   "U64 column: element 0: want at most 16 hexadecimal digits",
		`{"u":["1","00000000000000000"]}`: "",
		`{"u":["11112222333344445"]}`:     "U64 column: element 0",
		`{"u":["-1"]}`:                    "U64 column: element 0",
		`{"u":[1]}`:                       "U64 column: want an array of hexadecimal strings",
		`{"f":[1e39]}`:                    "F32",
		`{"b":[256]}`:                     "U8 column: element 0: 256 is over 255",
		`{"b":[-1]}`:                      "U8",
		`{"b":"AQID"}`:                    "U8 column: want an array of numbers",
	} {
		var got columns
		if err := json.Unmarshal([]byte(bad), &got); (err == nil) != (text == "") || err != nil && !strings.Contains(err.Error(), text) {
			t.Errorf("%s: got %+v, %v; want an error with %q", bad, got, err, text)
		}
	}
}

// A column lies wherever its payload puts it.
func TestColumnsAtEveryAlignment(t *testing.T) {
	want := StepPlan{Seq: U64{1, math.MaxUint64}, Slot: I32{-1, 7}, InitTopP: F32{0.5, -2}, Sample: U8{1, 0}}
	wire, err := Marshal(&want)
	if err != nil {
		t.Fatal(err)
	}
	for offset := range 16 {
		shifted := append(make([]byte, offset, offset+len(wire)), wire...)[offset:]
		var got StepPlan
		if err := Unmarshal(shifted, &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("offset %d: got %+v, %v", offset, got, err)
		}
		if cap(got.Slot) != len(got.Slot) {
			t.Errorf("offset %d: an append to the column would write into the payload", offset)
		}
	}
}

// Columns also work with a decoder of msgpack/v5 itself, whatever length a field claims.
func TestColumnsWithAForeignDecoder(t *testing.T) {
	wire, err := msgpack.Marshal([]any{I32{1, 2}})
	if err != nil {
		t.Fatal(err)
	}
	var got []I32
	if err := msgpack.Unmarshal(wire, &got); err != nil || got[0][1] != 2 {
		t.Errorf("got %v, %v", got, err)
	}
	var c I32
	if err := msgpack.Unmarshal([]byte("\xc6\xff\xff\xff\xff1234"), &c); err == nil {
		t.Errorf("a column of 4 GiB in 9 bytes: %v", c)
	}
	if err := msgpack.Unmarshal([]byte("\xdd\xff\xff\xff\xff\x01"), &c); err == nil {
		t.Errorf("four billion numbers in 6 bytes: %v", c)
	}
}

func TestIDs(t *testing.T) {
	r := NewRequestID(0xff123456, 0xffffffff)
	if r != 0x123456ffffffff00 || r.Seq(127).Choice() != 127 || r.Seq(127).Request() != r || r.String() != "123456ffffffff00" {
		t.Errorf("got %s, %s", r, r.Seq(127))
	}
	for text, want := range map[string]RequestID{`"123456ffffffff00"`: r, `"100"`: 0x100, `"0"`: 0, `"FF00"`: 0xff00} {
		var got RequestID
		if err := json.Unmarshal([]byte(text), &got); err != nil || got != want {
			t.Errorf("%s: got %s, %v", text, got, err)
		}
	}
	for _, bad := range []string{`"101"`, `""`, `"0x100"`, `"10000000000000000"`, `256`, `null`, `["1"]`, `"-100"`, `"1_00"`} {
		var got RequestID
		if err := json.Unmarshal([]byte(bad), &got); err == nil && bad != "null" {
			t.Errorf("%s: got %s", bad, got)
		}
	}
	var s SeqID
	if err := json.Unmarshal([]byte(`"0000000000000101"`), &s); err != nil || s.Choice() != 1 {
		t.Errorf("got %s, %v", s, err)
	}
	if text, err := json.Marshal(struct {
		R RequestID
		S SeqID
	}{0x100, 0x101}); err != nil || string(text) != `{"R":"0000000000000100","S":"0000000000000101"}` {
		t.Errorf("got %s, %v", text, err)
	}
	for _, choice := range []int{-1, ChoicesMax} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("choice %d was accepted", choice)
				}
			}()
			r.Seq(choice)
		}()
	}
}

func FuzzColumnsJSON(f *testing.F) {
	f.Add([]byte(`[1,2]`))
	f.Add([]byte(`["ff"]`))
	f.Add([]byte(`[null,1e3]`))
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, c := range []interface {
			json.Marshaler
			json.Unmarshaler
		}{new(I32), new(U64), new(F32), new(U8)} {
			if json.Unmarshal(text, c) != nil {
				continue
			}
			again, err := json.Marshal(c)
			if err != nil {
				t.Fatal(err)
			}
			back := reflect.New(reflect.TypeOf(c).Elem()).Interface()
			if err := json.Unmarshal(again, back); err != nil {
				t.Fatalf("%s became %s: %v", text, again, err)
			}
			third, err := json.Marshal(back)
			if err != nil || string(third) != string(again) {
				t.Fatalf("%s became %s and then %s, %v", text, again, third, err)
			}
		}
	})
}
