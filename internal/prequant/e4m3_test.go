package prequant

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

func TestToE4M3(t *testing.T) {
	for b := range 256 {
		if v := e4m3Values[b]; v == v && toE4M3(v) != byte(b) {
			t.Errorf("%#x is %v, which is %#x", b, v, toE4M3(v))
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	for range 20000 {
		v := float32(math.Ldexp(rng.Float64(), rng.IntN(20)-11))
		got, best := toE4M3(v), byte(0)
		for b := range byte(0x7f) {
			near, nearest := math.Abs(float64(e4m3Values[b]-v)), math.Abs(float64(e4m3Values[best]-v))
			if near < nearest || near == nearest && b%2 == 0 {
				best = b
			}
		}
		if got != best {
			t.Fatalf("%v is %#x, want %#x", v, got, best)
		}
	}
}

func TestQuantizeE4M3(t *testing.T) {
	const n, k = 7, 40
	rng := rand.New(rand.NewPCG(1, 2))
	values := make([]float32, n*k)
	var raw []byte
	for i := range values {
		values[i] = float32(rng.NormFloat64() * math.Ldexp(1, 20*(i/k)-60))
		if i/k == 2 {
			values[i] = 0
		}
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(values[i]))
	}
	rows, err := QuantizeE4M3(raw, k)
	if err != nil {
		t.Fatal(err)
	}
	for r := range n {
		row := rows[r*(k+4):][:k+4]
		scale, largest := math.Float32frombits(binary.LittleEndian.Uint32(row[k:])), 0.0
		for i, want := range values[r*k:][:k] {
			got := float64(scale * e4m3Values[row[i]])
			largest = max(largest, math.Abs(got))
			if math.Abs(got-float64(want)) > math.Abs(float64(want))/16+float64(scale)/1024*1.001 {
				t.Fatalf("[%d, %d] is %v, want %v", r, i, got, want)
			}
		}
		if r != 2 && math.Abs(largest/float64(scale)-448) > 1e-3 {
			t.Errorf("row %d does not use the whole range: %v of %v", r, largest, scale)
		}
	}
	binary.LittleEndian.PutUint32(raw[4*(3*k+5):], math.Float32bits(float32(math.Inf(1))))
	if _, err := QuantizeE4M3(raw, k); err == nil || !strings.Contains(err.Error(), "row 3: column 5 is +Inf") {
		t.Error(err)
	}
}
