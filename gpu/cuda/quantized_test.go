package cuda

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// drawRows returns n rows of k random elements of a quantized type.
func drawRows(rng *rand.Rand, dtype gpu.DType, n, k int) []byte {
	raw := make([]byte, n*dtype.RowBytes(k))
	for i := range raw {
		raw[i] = byte(rng.Uint32())
	}
	half := func(at int) { binary.LittleEndian.PutUint16(raw[at:], uint16(rng.Uint32()&0x83ff|0x2000)) }
	_, size := dtype.Block()
	f := quantFormats[dtype]
	for at := 0; at < len(raw) && f.shared != rowScale; at += size {
		half(at)
		switch f.shared {
		case groupFloat:
			makeNumbers(raw[at+4 : at+size])
			binary.LittleEndian.PutUint32(raw[at:], math.Float32bits(float32(rng.NormFloat64())))
		case groupMinimum:
			half(at + 2)
		case groupZero:
			raw[at+2] = byte(rng.IntN(zeroMax + 1))
		}
	}
	for row := raw; len(row) > 0 && f.shared == rowScale; row = row[k+4:] {
		if f.floats {
			makeNumbers(row[:k])
		}
		binary.LittleEndian.PutUint32(row[k:], math.Float32bits(float32(rng.NormFloat64())))
	}
	return raw
}

// makeNumbers makes zeros of the 8-bit floats that are NaN.
func makeNumbers(codes []byte) {
	for i, q := range codes {
		if q&0x7f == 0x7f {
			codes[i] = 0
		}
	}
}

// packed is what the device's memory would hold.
func packed(dtype gpu.DType, n, k int, parts ...[]byte) (*quantLayout, []byte, error) {
	l := quantFormats[dtype].layout(n, k)
	memory := make([]byte, l.bytes)
	err := packTiles(l, rowsOf{name: "w", bytes: dtype.RowBytes(k), parts: parts}, func(to int64, b []byte) error {
		copy(memory[to:], b)
		return nil
	})
	return l, memory, err
}

// element reads a weight as quantized.cuh describes the layout.
func (l *quantLayout) element(memory []byte, row, column int) float64 {
	f, meta := l.format, memory[l.meta:]
	piece := row/16*l.pieces + column/128
	code := float64(0)
	if f.bits == 8 {
		code = float64(int8(memory[row*l.stride+column]))
		if f.floats {
			one := binary.LittleEndian.AppendUint32([]byte{memory[row*l.stride+column]}, math.Float32bits(1))
			code = float64(ref.DequantizeRows("e4m3", 1, one)[0])
		}
	} else {
		lane := row%8*4 + column/8%4
		word := binary.LittleEndian.Uint32(memory[piece*1024+column/64%2*512+lane*16+column/32%2*8+row/8%2*4:])
		position := []int{0, 4, 1, 5, 2, 6, 3, 7}[column%8] // of the column's nibble
		code = float64(word >> (4 * position) & 15)
	}
	if f.shared == rowScale {
		return code * float64(math.Float32frombits(binary.LittleEndian.Uint32(meta[4*row:])))
	}
	group := (piece*(128/f.group)+column%128/f.group)*16 + row%16
	switch f.shared {
	case groupFloat:
		return code * float64(math.Float32frombits(binary.LittleEndian.Uint32(meta[4*group:])))
	case groupScale:
		if f.bits == 4 {
			code -= 8
		}
		return code * float64(fromHalf(binary.LittleEndian.Uint16(meta[2*group:])))
	case groupMinimum:
		return code*float64(fromHalf(binary.LittleEndian.Uint16(meta[4*group:]))) + float64(fromHalf(binary.LittleEndian.Uint16(meta[4*group+2:])))
	}
	offset := math.Float32frombits(uint32(binary.LittleEndian.Uint16(meta[4*group+2:])) << 16) // a bfloat16
	return (code + 128 + float64(offset)) * float64(fromHalf(binary.LittleEndian.Uint16(meta[4*group:])))
}

// TestQuantizedLayouts: what is packed is what the reference makes of the same bytes.
func TestQuantizedLayouts(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for dtype, f := range quantFormats {
		for _, shape := range [][2]int{{1, 256}, {16, 512}, {37, 768}, {700, 256}} {
			n, k := shape[0], shape[1]
			raw := drawRows(rng, dtype, n, k)
			cut := rng.IntN(n+1) * dtype.RowBytes(k)
			l, memory, err := packed(dtype, n, k, raw[:cut], raw[cut:])
			if err != nil {
				t.Fatal(err)
			}
			tolerance := 1e-6
			if dtype == gpu.Q4_K { // its scales are products, rounded to float16, of up to 1 and codes of up to 15
				tolerance = 16 * 0x1p-11
			}
			want := ref.DequantizeRows(dtype.String(), k, raw)
			for i, w := range want {
				got := l.element(memory, i/k, i%k)
				if math.Abs(got-float64(w)) > tolerance*(math.Abs(float64(w))+1) {
					t.Fatalf("%s [%d, %d]: element [%d, %d] is %v, want %v", f.kernels, n, k, i/k, i%k, got, w)
				}
			}
		}
	}
}

// TestQuantizedRefuses: what is no number is an error that says where it is.
func TestQuantizedRefuses(t *testing.T) {
	const n, k = 20, 256
	for name, c := range map[string]struct {
		dtype gpu.DType
		spoil func(row []byte)
		want  string
	}{
		"NaN":              {gpu.E4M3, func(row []byte) { row[7] = 0xff }, "row 18: column 7 is NaN"},
		"row scale":        {gpu.I8, func(row []byte) { copy(row[k:], []byte{0, 0, 0x80, 0x7f}) }, "row 18: its scale is +Inf"},
		"group scale":      {gpu.Q8_0, func(row []byte) { row[34+1] = 0x7c }, "row 18: the scale of its group 1 is not finite"},
		"float32 scale":    {gpu.E4M3_128, func(row []byte) { copy(row[132:], []byte{0, 0, 0xc0, 0x7f}) }, "row 18: the scale of its group 1 is NaN"},
		"NaN in a group":   {gpu.E4M3_128, func(row []byte) { row[132+4+3] = 0x7f }, "row 18: column 131 is NaN"},
		"minimum":          {gpu.Q4_1, func(row []byte) { row[3] = 0xfc }, "row 18: the minimum of its group 0 is not finite"},
		"K scale overflow": {gpu.Q4_K, func(row []byte) { row[1], row[4] = 0x7b, 63 }, "row 18: the scale of its group 0 is not finite"},
		"zero":             {gpu.I4_128, func(row []byte) { row[68+2] = 17 }, "row 18: the zero of its group 1 is 17, want 0 to 16"},
	} {
		raw := drawRows(rand.New(rand.NewPCG(5, 6)), c.dtype, n, k)
		c.spoil(raw[18*c.dtype.RowBytes(k):])
		if _, _, err := packed(c.dtype, n, k, raw); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestHalf(t *testing.T) {
	for h := range 1 << 16 {
		if v := fromHalf(uint16(h)); v == v && toHalf(v) != uint16(h) {
			t.Fatalf("%#x is %v, which is %#x", h, v, toHalf(v))
		}
	}
}

// A block of every format fits into any supported GPU, and all that are meant to run
// on a multiprocessor into a Hopper.
func TestQuantizedSharedMemory(t *testing.T) {
	const static, ofAnyBlock, ofBlock, ofMultiprocessor = 1 << 10, 99 << 10, 227 << 10, 228 << 10
	for _, f := range quantFormats {
		for major, most := range map[int]int{8: ofAnyBlock, 9: ofBlock, 10: ofBlock, 11: ofBlock, 12: ofAnyBlock} {
			d := &Device{properties: properties{major: major}}
			teams, blocks := d.cut(f)
			for _, tokens := range quantTiles {
				bytes := f.sharedBytes(tokens, teams) + static + reservedSharedBytes
				if bytes > most || major == 9 && bytes*blocks > ofMultiprocessor {
					t.Errorf("%s: a block for %d tokens takes %d bytes on sm_%d0", f.kernels, tokens, bytes, major)
				}
			}
		}
	}
}

// Blocks of experts' kernels fit, too: of many tokens into any supported GPU, and of few, with the choices of 64 tokens for 8 of 128
// experts, two at once on a Hopper's multiprocessor.
func TestQuantizedExpertsSharedMemory(t *testing.T) {
	const ofAnyBlock, ofMultiprocessor = 99 << 10, 228 << 10
	e := &experts{pairs: 64 * 8, count: 128}
	for _, f := range quantFormats {
		for _, k := range quantMoEKernels {
			switch bytes := (&Device{}).moeShared(&k, f); {
			case k.file == tileFile && bytes > ofAnyBlock:
				t.Errorf("%s for %s: a block takes %d bytes", k.name, f.kernels, bytes)
			case k.file == fewFile && fewBlocksPer*(k.fewShared(e, f)+reservedSharedBytes) > ofMultiprocessor:
				t.Errorf("%s for %s: a block takes %d bytes", k.name, f.kernels, k.fewShared(e, f))
			}
		}
	}
}

// Host and kernels agree on how products are cut on each architecture.
func TestKernelsCompileCuts(t *testing.T) {
	n, _, err := loadNVRTC(hostSearch())
	if err != nil {
		t.Skipf("SKIPPED: no kernel was compiled: %v", err)
	}
	f := quantFormats[gpu.Q4_0]
	for arch, major := range map[string]int{"sm_80": 8, "sm_90a": 9, "sm_120": 12} {
		t.Run("quantized_"+arch, func(t *testing.T) {
			if major >= quantTeamsEnd && strings.HasPrefix(n.version, "12.") {
				t.Skipf("SKIPPED: NVRTC %s may not know %s; 13 does", n.version, arch)
			}
			teams, blocks := (&Device{properties: properties{major: major}}).cut(f)
			for _, m := range quantModules() {
				if m.define != "QUANT_"+f.kernels {
					continue
				}
				m.compute = gpu.BF16
				agree := fmt.Sprintf("static_assert(TEAMS == %d && BLOCKS == %d && DEPTH == %d, \"cut\");\n", teams, blocks, f.depth)
				if _, err := n.compile(m.name(), m.source()+agree, compileOptions(arch)); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// The smallest 8-bit floats are subnormal, and so are they as the factors of products: none may be taken for 0.
func TestSubnormalFloats(t *testing.T) {
	needDevice(t)
	d := open(t, Options{Compute: gpu.BF16})
	defer mustClose(t, d)
	const n, k = 16, 128
	var raw []byte
	for row := range n {
		for range k {
			raw = append(raw, byte(row&7|row>>3<<7)) // 0 to 7 times 2^-9, and negative
		}
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(1))
	}
	w, err := d.PackMatrix("w", gpu.E4M3, n, k, raw)
	if err != nil {
		t.Fatal(err)
	}
	ones := make([]byte, 2*k)
	for i := range k {
		binary.LittleEndian.PutUint16(ones[2*i:], 0x3f80)
	}
	x, err := d.Alloc(gpu.BF16, 1, k)
	if err == nil {
		err = d.Upload(x, ones)
	}
	if err != nil {
		t.Fatal(err)
	}
	out, err := d.Alloc(gpu.F32, 1, n)
	if err == nil {
		err = d.Launch(gpu.OpMatMul, &gpu.MatMul{Out: out, X: x, W: w})
	}
	got := make([]byte, 4*n)
	if err == nil {
		err = d.Download(got, out)
	}
	if err != nil {
		t.Fatal(err)
	}
	for row := range n {
		want := float32(row&7) * k / 512
		if row >= 8 {
			want = -want
		}
		if v := math.Float32frombits(binary.LittleEndian.Uint32(got[4*row:])); v != want {
			t.Errorf("row %d: %v, want %v", row, v, want)
		}
	}
	for _, tensor := range []gpu.Tensor{w, x, out} {
		d.Free(tensor)
	}
}
