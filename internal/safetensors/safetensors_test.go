package safetensors

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// raw builds a file from header text and data, whatever they claim.
func raw(header string, data []byte) []byte {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(out, header...), data...)
}

func sample(t testing.TB) []byte {
	t.Helper()
	var b bytes.Buffer
	err := Write(&b, []Named{
		{"b", View{BF16, []int{2, 3}, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}}},
		{"a", View{F32, []int{1}, []byte{13, 14, 15, 16}}},
		{"scalar", View{I64, []int{}, []byte{1, 0, 0, 0, 0, 0, 0, 0}}},
		{"empty", View{U8, []int{0, 7}, nil}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestRoundTrip(t *testing.T) {
	f, err := Parse("m", sample(t))
	if err != nil {
		t.Fatal(err)
	}
	v, err := f.Tensor("b")
	if err != nil {
		t.Fatal(err)
	}
	if v.DType != BF16 || !slices.Equal(v.Shape, []int{2, 3}) || !bytes.Equal(v.Data, []byte{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}) {
		t.Errorf("b = %+v", v)
	}
	if v, _ := f.Tensor("scalar"); len(v.Shape) != 0 || len(v.Data) != 8 {
		t.Errorf("scalar = %+v", v)
	}
	if v, _ := f.Tensor("empty"); len(v.Data) != 0 || len(v.Shape) != 2 {
		t.Errorf("empty = %+v", v)
	}
	if f.Bytes() != 24 {
		t.Errorf("Bytes = %d, want 24", f.Bytes())
	}
	if _, err := f.Tensor("zz"); err == nil || !strings.Contains(err.Error(), `m has no tensor "zz"`) {
		t.Errorf("missing tensor: %v", err)
	}
	if cap(v.Data) != len(v.Data) {
		t.Error("a view must not reach into its neighbour by append")
	}
}

// TestHostileFiles holds the parser to an error that names the tensor or field.
func TestHostileFiles(t *testing.T) {
	entry := func(dtype, shape, offsets string) string {
		return fmt.Sprintf(`{"w":{"dtype":%q,"shape":%s,"data_offsets":%s}}`, dtype, shape, offsets)
	}
	two := func(a, b string) string {
		return `{"a":{"dtype":"U8","shape":[4],"data_offsets":` + a + `},"b":{"dtype":"U8","shape":[4],"data_offsets":` + b + `}}`
	}
	cases := []struct {
		name string
		file []byte
		want string // in the error
	}{
		{"empty file", nil, "0 bytes"},
		{"short length", []byte{1, 2, 3}, "3 bytes"},
		{"length beyond file", binary.LittleEndian.AppendUint64(nil, 100), "header length 100"},
		{"huge length", binary.LittleEndian.AppendUint64(nil, 1<<63), "exceeds the limit"},
		{"empty header", raw("", nil), "begin with '{'"},
		{"not an object", raw("[1]", nil), "begin with '{'"},
		{"cut header", raw(`{"w":{"dtype":"F32"`, nil), `tensor "w"`},
		{"cut after key", raw(`{"w"`, nil), "does not parse"},
		{"trailing text", raw(`{} {}`, nil), "after its closing"},
		{"bad metadata", raw(`{"__metadata__":{"a":1}}`, nil), "__metadata__"},
		{"entry is a number", raw(`{"w":1}`, nil), `tensor "w"`},
		{"negative shape", raw(entry("U8", "[-4]", "[0,4]"), make([]byte, 4)), `tensor "w"`},
		{"fractional shape", raw(entry("U8", "[1.5]", "[0,4]"), make([]byte, 4)), `tensor "w"`},
		{"no shape", raw(`{"w":{"dtype":"U8","data_offsets":[0,4]}}`, make([]byte, 4)), "entry needs"},
		{"no offsets", raw(`{"w":{"dtype":"U8","shape":[4]}}`, make([]byte, 4)), "entry needs"},
		{"three offsets", raw(entry("U8", "[4]", "[0,4,8]"), make([]byte, 4)), "3 offsets"},
		{"unknown dtype", raw(entry("Q4", "[4]", "[0,4]"), make([]byte, 4)), `dtype "Q4"`},
		{"sub-byte dtype", raw(entry("F4", "[4]", "[0,2]"), make([]byte, 2)), `dtype "F4"`},
		{"reversed range", raw(entry("U8", "[4]", "[4,0]"), make([]byte, 4)), "not a range"},
		{"size mismatch", raw(entry("F32", "[2]", "[0,4]"), make([]byte, 4)), "needs 8"},
		{"overflowing shape", raw(entry("F32", "[4294967296,4294967296]", "[0,0]"), nil), "overflows"},
		{"overflow of 63 bits", raw(entry("U8", "[9223372036854775808]", "[0,0]"), nil), "overflows"},
		{"absurd beside zero", raw(entry("U8", "[0,18446744073709551615]", "[0,0]"), nil), "beyond any memory"},
		{"too many dimensions", raw(entry("U8", "[1"+strings.Repeat(",1", 16)+"]", "[0,1]"), make([]byte, 1)), "17 dimensions"},
		{"out of bounds", raw(entry("U8", "[8]", "[0,8]"), make([]byte, 4)), "truncated"},
		{"offsets near 2^63", raw(entry("U8", "[1]", "[9223372036854775807,9223372036854775808]"), make([]byte, 4)), "not a range"},
		{"overlap", raw(two("[0,4]", "[2,6]"), make([]byte, 8)), "inside another tensor"},
		{"same range", raw(two("[0,4]", "[0,4]"), make([]byte, 4)), "inside another tensor"},
		{"hole", raw(two("[0,4]", "[5,9]"), make([]byte, 9)), "belong to no tensor"},
		{"tail", raw(two("[0,4]", "[4,8]"), make([]byte, 9)), "after the last tensor"},
		{"duplicate name", raw(`{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}`, make([]byte, 2)), "appears twice"},
		{"misaligned", raw(`{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}}`, make([]byte, 5)), "multiple of the 4 bytes"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("bad.safetensors", c.file)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "bad.safetensors") {
				t.Fatalf("error = %v, want it to name the file and contain %q", err, c.want)
			}
		})
	}
}

func TestErrorsStayShort(t *testing.T) {
	long := strings.Repeat("9", 1<<20)
	for _, header := range []string{`{"` + long + `":1}`, `{"w":{"dtype":"` + long + `","shape":[],"data_offsets":[0,0]}}`, `{"w":{"dtype":"U8","shape":[` + long + `]}}`} {
		if _, err := Parse("f", raw(header, nil)); err == nil || len(err.Error()) > 1000 {
			t.Errorf("error of %d bytes: want a short one", len(fmt.Sprint(err)))
		}
	}
}

func TestUnalignedHeaderIsRealigned(t *testing.T) {
	header := `{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} `
	for len(header)%8 != 3 {
		header += " "
	}
	f, err := Parse("old", raw(header, []byte{1, 2, 3, 4}))
	if err != nil {
		t.Fatal(err)
	}
	if v, _ := f.Tensor("w"); !bytes.Equal(v.Data, []byte{1, 2, 3, 4}) {
		t.Errorf("data = %v", v.Data)
	}
}

func TestOpenMapsAndCloses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "model.safetensors")
	if err := os.WriteFile(path, sample(t), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, open := range map[string]func() (*File, error){
		"Open":    func() (*File, error) { return Open(path) },
		"OpenDir": func() (*File, error) { return OpenDir(os.DirFS(dir)) },
	} {
		f, err := open()
		if err != nil {
			t.Fatal(name, err)
		}
		v, err := f.Tensor("a")
		if err != nil || !bytes.Equal(v.Data, []byte{13, 14, 15, 16}) {
			t.Errorf("%s: a = %v, %v", name, v, err)
		}
		if err := f.Close(); err != nil {
			t.Error(name, err)
		}
	}
}

func shard(t *testing.T, names ...string) *fstest.MapFile {
	t.Helper()
	var tensors []Named
	for i, n := range names {
		tensors = append(tensors, Named{n, View{U8, []int{1}, []byte{byte(i)}}})
	}
	var b bytes.Buffer
	if err := Write(&b, tensors); err != nil {
		t.Fatal(err)
	}
	return &fstest.MapFile{Data: b.Bytes()}
}

func TestShards(t *testing.T) {
	fsys := fstest.MapFS{
		indexName:         {Data: []byte(`{"metadata":{"total_size":3},"weight_map":{"a":"m-1.safetensors","b":"m-1.safetensors","c":"m-2.safetensors"}}`)},
		"m-1.safetensors": shard(t, "a", "b"),
		"m-2.safetensors": shard(t, "c", "unlisted"),
	}
	f, err := OpenDir(fsys)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := f.Names(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("Names = %v", got)
	}
	if f.Origin("c") != "m-2.safetensors" {
		t.Errorf("Origin(c) = %s", f.Origin("c"))
	}
}

func TestHostileIndex(t *testing.T) {
	cases := []struct{ name, index, want string }{
		{"traversal", `{"weight_map":{"a":"../m-1.safetensors"}}`, `weight_map["a"]`},
		{"absolute", `{"weight_map":{"a":"/etc/x.safetensors"}}`, `weight_map["a"]`},
		{"sub-directory", `{"weight_map":{"a":"sub/m-1.safetensors"}}`, `weight_map["a"]`},
		{"backslash", `{"weight_map":{"a":"..\\m-1.safetensors"}}`, `weight_map["a"]`},
		{"other kind of file", `{"weight_map":{"a":"passwd"}}`, `weight_map["a"]`},
		{"long name", `{"weight_map":{"a":"` + strings.Repeat("x", 5000) + `.safetensors"}}`, `weight_map["a"]`},
		{"missing shard", `{"weight_map":{"a":"m-9.safetensors"}}`, "m-9.safetensors"},
		{"missing tensor", `{"weight_map":{"a":"m-1.safetensors","zz":"m-1.safetensors"}}`, `holds tensor "zz"`},
		{"no map", `{}`, "weight_map"},
		{"no JSON", `weight_map`, "does not parse"},
		{"map of numbers", `{"weight_map":{"a":1}}`, "does not parse"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			fsys := fstest.MapFS{indexName: {Data: []byte(c.index)}, "m-1.safetensors": shard(t, "a")}
			_, err := OpenDir(fsys)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), indexName) {
				t.Fatalf("error = %v, want it to name the index and contain %q", err, c.want)
			}
		})
	}
	if _, err := OpenDir(fstest.MapFS{}); err == nil || !strings.Contains(err.Error(), singleName) {
		t.Errorf("empty directory: %v", err)
	}
}

func TestWriteRefuses(t *testing.T) {
	one := View{U8, []int{1}, []byte{1}}
	for name, tensors := range map[string][]Named{
		"twice":    {{"a", one}, {"a", one}},
		"reserved": {{metadataKey, one}},
		"size":     {{"a", View{F32, []int{2}, []byte{1}}}},
		"dtype":    {{"a", View{"F5", []int{1}, []byte{1}}}},
	} {
		if err := Write(&bytes.Buffer{}, tensors); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzParse: whatever the bytes, an error or tensors that lie inside the file and survive a
// round trip; never a panic.
func FuzzParse(f *testing.F) {
	f.Add(sample(f))
	f.Add(raw(`{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, make([]byte, 4)))
	f.Add(raw(`{"__metadata__":{"a":"b"}}`, nil))
	f.Add(binary.LittleEndian.AppendUint64(nil, 1<<62))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("fuzz", data)
		if err != nil {
			return
		}
		var again []Named
		for _, name := range file.Names() {
			v, err := file.Tensor(name)
			if err != nil {
				t.Fatal(err)
			}
			n := v.DType.Size()
			for _, d := range v.Shape {
				n *= d
			}
			if n != len(v.Data) || n > len(data) {
				t.Fatalf("%q: %d bytes for %s%v of a %d-byte file", name, len(v.Data), v.DType, v.Shape, len(data))
			}
			again = append(again, Named{name, v})
		}
		var b bytes.Buffer
		if err := Write(&b, again); err != nil {
			t.Fatal(err)
		}
		if _, err := Parse("again", b.Bytes()); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzIndex: no index text may panic or open a file outside the directory.
func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"weight_map":{"a":"m.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"a":"../m.safetensors"}}`))
	f.Fuzz(func(t *testing.T, index []byte) {
		file, err := OpenDir(guardedFS{t, fstest.MapFS{indexName: {Data: index}}})
		if err == nil {
			file.Close()
		}
	})
}

// guardedFS fails the test when a name with a separator is asked for.
type guardedFS struct {
	t *testing.T
	fs.FS
}

func (g guardedFS) Open(name string) (fs.File, error) {
	if strings.ContainsAny(name, "/\\") {
		g.t.Fatalf("opened %q", name)
	}
	return g.FS.Open(name)
}
