package gguf

import (
	"bytes"
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func vectors(t testing.TB) *File {
	t.Helper()
	f, err := Open("testdata/vectors.gguf")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func tensor(t testing.TB, f *File, name string) Tensor {
	t.Helper()
	v, err := f.Tensor(name)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func floats(v Tensor) []float32 {
	out := make([]float32, len(v.Data)/v.Type.BlockBytes()*v.Type.BlockLen())
	Dequantize(v.Type, out, v.Data)
	return out
}

// TestVectors: every type dequantizes to the bits that the reference package gives.
func TestVectors(t *testing.T) {
	f := vectors(t)
	checked := 0
	for kind, info := range types {
		if kind == F32 || kind == Q8_K { // the one is plain; the reference does not read the other
			continue
		}
		v := tensor(t, f, info.name)
		if v.Type != kind {
			t.Fatalf("%s has type %v", info.name, v.Type)
		}
		want := tensor(t, f, info.name+".expected")
		if !slices.Equal(v.Dims, want.Dims) {
			t.Errorf("%s: dims %v, want %v", info.name, v.Dims, want.Dims)
		}
		got, exact := floats(v), floats(want)
		for i := range exact {
			if math.Float32bits(got[i]) != math.Float32bits(exact[i]) {
				t.Fatalf("%s: element %d is %v, want exactly %v", info.name, i, got[i], exact[i])
			}
		}
		if err := CheckScales(kind, v.Data); err != nil {
			t.Errorf("%s: %v", info.name, err)
		}
		checked++
	}
	if checked != 11 {
		t.Errorf("checked %d types", checked)
	}
}

// TestQuantize: values become the blocks that the reference package makes of them.
func TestQuantize(t *testing.T) {
	f := vectors(t)
	for _, kind := range []Type{Q8_0, Q4_0, Q4_1} {
		plain := floats(tensor(t, f, kind.String()+".plain"))
		want := tensor(t, f, kind.String()+".quantized")
		got, err := Quantize(kind, nil, plain)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want.Data) {
			t.Errorf("%v: blocks differ\n got %x\nwant %x", kind, got, want.Data)
		}
		for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), 3e38} {
			plain[40] = bad
			if _, err := Quantize(kind, nil, plain); err == nil || !strings.Contains(err.Error(), "elements 32 to 63") {
				t.Errorf("%v of %v: %v", kind, bad, err)
			}
		}
	}
}

// TestTranscode: Q8_0 holds some other types without a loss.
func TestTranscode(t *testing.T) {
	f := vectors(t)
	for kind, info := range types {
		v := tensor(t, f, Q8_0.String())
		if kind != F32 && kind != Q8_K {
			v = tensor(t, f, info.name)
		}
		blocks, ok := Transcode(nil, kind, v.Data)
		if ok != (kind == Q5_0 || kind == IQ4_NL || kind == Q4_0) {
			t.Errorf("Transcode(%v) = %v", kind, ok)
		}
		if ok && !slices.Equal(floats(Tensor{Type: Q8_0, Data: blocks}), floats(v)) {
			t.Errorf("Transcode(%v) changes values", kind)
		}
	}
}

// TestHalfRoundTrips: every float16 survives, and what lies between two goes to the nearest, ties to even.
func TestHalfRoundTrips(t *testing.T) {
	value := func(h int) float32 { return half([]byte{byte(h), byte(h >> 8)}) }
	for h := range 1 << 16 {
		v := value(h)
		if v != v {
			if g := toHalf(v); g&0x7c00 != 0x7c00 || g&0x3ff == 0 {
				t.Fatalf("NaN %#04x becomes %#04x", h, g)
			}
			continue
		}
		if g := toHalf(v); int(g) != h {
			t.Fatalf("%#04x = %v becomes %#04x", h, v, g)
		}
		if h&0x7fff >= 0x7bff {
			continue
		}
		middle := float32((float64(v) + float64(value(h+1))) / 2)
		even := h + h&1
		if g := toHalf(middle); int(g) != even {
			t.Fatalf("%v, between %#04x and the next, becomes %#04x, want %#04x", middle, h, g, even)
		}
		if g := toHalf(math.Nextafter32(middle, v)); int(g) != h {
			t.Fatalf("just below the middle after %#04x becomes %#04x", h, g)
		}
	}
}

func TestQ8K(t *testing.T) {
	block := make([]byte, 292)
	binary.LittleEndian.PutUint32(block, math.Float32bits(0.3))
	block[4], block[259] = 0x80, 7
	var out [256]float32
	Dequantize(Q8_K, out[:], block)
	if out[0] != -128*float32(0.3) || out[1] != 0 || out[255] != 7*float32(0.3) {
		t.Errorf("%v %v %v", out[0], out[1], out[255])
	}
}

func TestMetadata(t *testing.T) {
	f := vectors(t)
	get := func(key string) Value {
		v, ok := f.Meta(key)
		if !ok {
			t.Fatalf("no %q in %v", key, f.Keys())
		}
		return v
	}
	if s, ok := get("general.architecture").Text(); !ok || s != "vectors" {
		t.Errorf("architecture %q", s)
	}
	if s, ok := get("vectors.strings").Texts(); !ok || !slices.Equal(s, []string{"a", "", "ü"}) {
		t.Errorf("strings %q", s)
	}
	if x, ok := get("vectors.floats").Floats(); !ok || !slices.Equal(x, []float64{0.5, -2}) {
		t.Errorf("floats %v", x)
	}
	if x, ok := get("vectors.ints").Ints(); !ok || !slices.Equal(x, []int64{1, -2, 3}) {
		t.Errorf("ints %v", x)
	}
	if b, ok := get("vectors.bool").Bool(); !ok || !b {
		t.Error("bool")
	}
	u64 := get("vectors.u64")
	if n, ok := u64.Uint(); !ok || n != 1<<63 {
		t.Errorf("u64 %d", n)
	}
	if n, ok := u64.Int(); ok {
		t.Errorf("2^63 as int64: %d", n)
	}
	if _, ok := get("vectors.ints").Texts(); ok {
		t.Error("ints read as strings")
	}
}

func TestCheckScalesNamesTheField(t *testing.T) {
	for kind, info := range types {
		for _, s := range info.scales {
			data := make([]byte, 2*info.bytes)
			at := info.bytes + s.at
			if s.wide {
				binary.LittleEndian.PutUint32(data[at:], math.Float32bits(float32(math.NaN())))
			} else {
				binary.LittleEndian.PutUint16(data[at:], 0xfc00) // -Inf
			}
			err := CheckScales(kind, data)
			if err == nil || !strings.Contains(err.Error(), "block 1 of "+info.name+" has a scale \""+s.name+"\"") {
				t.Errorf("%v.%s: %v", kind, s.name, err)
			}
		}
	}
}

// image builds a file byte by byte, so that tests can make it wrong.
type image struct{ bytes.Buffer }

func (b *image) u32(v uint32) *image { b.Write(binary.LittleEndian.AppendUint32(nil, v)); return b }
func (b *image) u64(v uint64) *image { b.Write(binary.LittleEndian.AppendUint64(nil, v)); return b }
func (b *image) text(s string) *image {
	b.u64(uint64(len(s)))
	b.WriteString(s)
	return b
}

func head(version uint32, tensors, pairs uint64) *image {
	b := &image{}
	b.WriteString("GGUF")
	return b.u32(version).u64(tensors).u64(pairs)
}

func (b *image) tensor(name string, kind Type, offset uint64, dims ...uint64) *image {
	b.text(name).u32(uint32(len(dims)))
	for _, d := range dims {
		b.u64(d)
	}
	return b.u32(uint32(kind)).u64(offset)
}

// data pads to the alignment and appends n bytes.
func (b *image) data(n int) []byte {
	for b.Len()%32 != 0 {
		b.WriteByte(0)
	}
	b.Write(make([]byte, n))
	return b.Bytes()
}

func TestParseRefuses(t *testing.T) {
	nested := head(3, 0, 1).text("deep").u32(uint32(Array))
	for range NestingMax {
		nested.u32(uint32(Array)).u64(1)
	}
	nested.u32(uint32(Uint8)).u64(0)
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"empty":             {nil, "magic"},
		"other format":      {[]byte("PK\x03\x04 and more"), "magic"},
		"version cut":       {[]byte("GGUF\x03"), "version needs 4 bytes"},
		"version 1":         {head(1, 0, 0).Bytes(), "version is 1"},
		"big-endian":        {head(3<<24, 0, 0).Bytes(), "big-endian"},
		"many tensors":      {head(3, 1<<60, 0).Bytes(), "tensor_count is"},
		"many pairs":        {head(3, 0, 1<<60).Bytes(), "metadata_kv_count is"},
		"long key":          {head(3, 0, 1).u64(1 << 40).u64(0).u64(0).Bytes(), "metadata key 0 has 1099511627776 bytes"},
		"unknown kind":      {head(3, 0, 1).text("k").u32(99).u64(0).Bytes(), `metadata "k" has the unknown type 99`},
		"bad bool":          {append(head(3, 0, 1).text("k").u32(uint32(Bool)).Bytes(), 7), `metadata "k" is the boolean 7`},
		"long string":       {head(3, 0, 1).text("k").u32(uint32(String)).u64(1 << 61).Bytes(), `metadata "k" needs`},
		"long array":        {head(3, 0, 1).text("k").u32(uint32(Array)).u32(uint32(Uint64)).u64(1 << 60).Bytes(), `length of metadata array "k" is`},
		"array of unknown":  {append(head(3, 0, 1).text("k").u32(uint32(Array)).u32(77).u64(1).Bytes(), 0), `unknown type 77`},
		"deep array":        {nested.Bytes(), "nests arrays more than 4 deep"},
		"key twice":         {append(append(head(3, 0, 2).text("k").u32(0).Bytes(), 1), append((&image{}).text("k").u32(0).Bytes(), 1)...), `metadata key "k" appears twice`},
		"alignment":         {head(3, 0, 1).text(alignmentKey).u32(uint32(Uint32)).u32(24).Bytes(), `metadata "general.alignment" is 24`},
		"alignment type":    {head(3, 0, 1).text(alignmentKey).u32(uint32(String)).text("32").Bytes(), `metadata "general.alignment" is "32"`},
		"rank":              {head(3, 1, 0).tensor("w", F32, 0, 1, 1, 1, 1, 1).data(32), `tensor "w": n_dimensions is 5`},
		"overflow":          {head(3, 1, 0).tensor("w", F32, 0, 1<<40, 1<<40).data(32), `tensor "w": dimensions [1099511627776 1099511627776] overflow`},
		"unsupported type":  {head(3, 1, 0).tensor("w", 16, 0, 256).data(256), `tensor "w": type is IQ2_XXS, supported are F32`},
		"half a block":      {head(3, 1, 0).tensor("w", Q8_0, 0, 40).data(64), `must be a multiple of 32`},
		"no dimension":      {head(3, 1, 0).tensor("w", Q8_0, 0).data(64), `must be a multiple of 32`},
		"truncated":         {head(3, 1, 0).tensor("w", F32, 0, 32).data(127), `tensor "w": offset 0 and size 128 exceed the 127 bytes`},
		"no data":           {head(3, 1, 0).tensor("w", F32, 0, 32).Bytes(), `tensor data begins at offset`},
		"far offset":        {head(3, 1, 0).tensor("w", F32, 1<<63, 32).data(128), `tensor "w": offset 9223372036854775808`},
		"unaligned":         {head(3, 1, 0).tensor("w", F32, 4, 4).data(128), `offset 4 is no multiple of the alignment 32`},
		"overlapping":       {head(3, 2, 0).tensor("a", F32, 0, 16).tensor("b", F32, 32, 8).data(128), `tensor "b": offset 32 lies inside tensor "a", which ends at 64`},
		"name twice":        {head(3, 2, 0).tensor("a", F32, 0, 8).tensor("a", F32, 32, 8).data(128), `tensor "a" appears twice`},
		"entry cut":         {head(3, 1, 0).text("w").u32(2).u64(4).u64(4).Bytes(), `tensor "w" type needs 4 bytes`},
		"tensor name bytes": {head(3, 1, 0).text(strings.Repeat("n", NameBytesMax+1)).u64(0).Bytes(), "name of tensor 0 has 257 bytes"},
	} {
		f, err := Parse(name, c.data)
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v, %v; want %q", name, f, err, c.want)
		}
	}
}

func TestParseAccepts(t *testing.T) {
	good := head(2, 2, 0).tensor("a", F32, 0, 8).tensor("b", Q4_0, 32, 32, 2).data(68)
	f, err := Parse("good", good)
	if err != nil {
		t.Fatal(err)
	}
	b := tensor(t, f, "b")
	if len(b.Data) != 36 || !slices.Equal(b.Dims, []int{32, 2}) || f.Bytes() != 68 {
		t.Errorf("%+v, %d bytes", b, f.Bytes())
	}
	for n := range good { // every truncation is an error, not a panic
		if _, err := Parse("cut", good[:n:n]); err == nil {
			t.Fatalf("accepted the first %d of %d bytes", n, len(good))
		}
	}
	if _, err := Parse("empty", head(3, 0, 0).Bytes()); err != nil {
		t.Errorf("a file without tensors: %v", err)
	}
	if _, err := f.Tensor("c"); err == nil || !strings.Contains(err.Error(), `good has no tensor "c"`) {
		t.Error(err)
	}
}

func TestOpen(t *testing.T) {
	if _, err := Open(filepath.Join(t.TempDir(), "none.gguf")); err == nil || !os.IsNotExist(err) && !strings.Contains(err.Error(), "none.gguf") {
		t.Error(err)
	}
	data, err := os.ReadFile("testdata/vectors.gguf")
	if err != nil {
		t.Fatal(err)
	}
	f, err := OpenFS(fstest.MapFS{"m.gguf": {Data: data}}, "m.gguf")
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Tensors()) != 28 || !f.Has("Q6_K") || f.Has("Q7_K") {
		t.Errorf("%d tensors", len(f.Tensors()))
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(head(3, 2, 0).tensor("a", F32, 0, 8).tensor("b", Q4_0, 32, 32, 2).data(68))
	if data, err := os.ReadFile("testdata/vectors.gguf"); err == nil {
		f.Add(data[:4096])
	}
	f.Add(head(3, 0, 1).text("k").u32(uint32(Array)).u32(uint32(String)).u64(2).text("x").text("y").Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("fuzz", data)
		if err != nil {
			return
		}
		for _, key := range file.Keys() {
			v, _ := file.Meta(key)
			_ = v.String()
			v.Uint()
			v.Texts()
			v.Ints()
			v.Floats()
		}
		for _, info := range file.Tensors() {
			v, err := file.Tensor(info.Name)
			if err != nil {
				t.Fatal(err)
			}
			if len(v.Data) < 1<<16 && len(v.Data) > 0 {
				floats(v)
				_ = CheckScales(v.Type, v.Data)
			}
		}
	})
}
