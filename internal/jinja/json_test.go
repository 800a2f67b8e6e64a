package jinja

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestFromJSON(t *testing.T) {
	v, err := FromJSON([]byte(` {"z": 1, "a": [1.0, -0, 1e2, true, null, "é\u0041"], "z": 2, "n": 123456789012345678901234567890} `))
	if err != nil {
		t.Fatal(err)
	}
	got, err := renderString("{{ v }}|{{ v | tojson }}|{{ v.z is integer }}{{ v.a[0] is float }}{{ v.n is integer }}", map[string]any{"v": v})
	want := "{'z': 2, 'a': [1.0, 0, 100.0, True, None, 'éA'], 'n': 123456789012345678901234567890}|" +
		`{"z": 2, "a": [1.0, 0, 100.0, true, null, "éA"], "n": 123456789012345678901234567890}|TrueTrueTrue`
	if err != nil || got != want {
		t.Errorf("got  %s, %v\nwant %s", got, err, want)
	}
}

func TestFromJSONRejects(t *testing.T) {
	for _, doc := range []string{
		"", "{", "[1,]", `{"a"}`, `{1: 2}`, "1 2", "nul", `"\x"`, "NaN", "01", "[1", `{"a": 1`, `{"a": 1]`,
		strings.Repeat("[", 100000), strings.Repeat("9", 5000), "\x00",
	} {
		if v, err := FromJSON([]byte(doc)); err == nil {
			t.Errorf("%.20q: got %v, expected an error", doc, v)
		}
	}
}

func TestDict(t *testing.T) {
	d := NewDict(0)
	for round := range 2 { // beyond and below the size at which it gets an index
		for i := range 3 * dictLinearMax {
			d.Set(string(rune('z'-i)), i+round)
		}
	}
	i := 0
	for k, v := range d.All() {
		if k != string(rune('z'-i)) || v != i+1 {
			t.Fatalf("entry %d is %s: %v", i, k, v)
		}
		if got, ok := d.Get(k); !ok || got != v {
			t.Fatalf("Get(%s) is %v, %v", k, got, ok)
		}
		i++
	}
	if _, ok := d.Get("missing"); ok || d.Len() != i || i != 3*dictLinearMax {
		t.Errorf("Len is %d after %d entries", d.Len(), i)
	}
}

func TestDictKeepsOrderThroughJSON(t *testing.T) {
	var request struct{ Tool Dict }
	if err := json.Unmarshal([]byte(`{"tool": {"b": 1, "a": {"y": 1, "x": 2}}}`), &request); err != nil {
		t.Fatal(err)
	}
	got, err := renderString("{{ tool | tojson }}", map[string]any{"tool": &request.Tool})
	if want := `{"b": 1, "a": {"y": 1, "x": 2}}`; err != nil || got != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
	encoded, err := json.Marshal(request)
	if want := `{"Tool":{"b":1,"a":{"y":1,"x":2}}}`; err != nil || string(encoded) != want {
		t.Errorf("got %s, %v, want %s", encoded, err, want)
	}
	if err := json.Unmarshal([]byte(`{"tool": [1]}`), &request); err == nil {
		t.Error("a list became a Dict")
	}
}
