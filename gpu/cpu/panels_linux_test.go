package cpu

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
)

// TestSharedPanels: weights that are large enough get one file, whichever device packs them first; a second device maps
// it, and both multiply as one with memory of its own.
func TestSharedPanels(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "weights")
	rng := rand.New(rand.NewPCG(41, 42))
	const tokens, n, k = 3, 1000, 1312 // more than a chunk of the digest
	for dtype := range map[gpu.DType]bool{gpu.BF16: true, gpu.Q8_0: true} {
		blocks := make([]byte, n*k*2)
		if dtype.Quantized() {
			blocks = randomBlocks(rng, dtype, n, k)
		} else {
			for i := range n * k {
				h := toBF16(float32(rng.NormFloat64()))
				blocks[2*i], blocks[2*i+1] = byte(h), byte(h>>8)
			}
		}
		x := random(rng, tokens*k, 1)
		want := sharedProduct(t, "", dtype, blocks, x, tokens, n, k)
		for range 2 { // makes the file, and maps it
			if got := sharedProduct(t, dir, dtype, blocks, x, tokens, n, k); !slices.Equal(got, want) {
				t.Fatalf("%v: shared weights multiply to something else", dtype)
			}
		}
	}
	files, err := filepath.Glob(filepath.Join(dir, "*"+panelsExtension))
	if all, _ := os.ReadDir(dir); err != nil || len(files) != 2 || len(all) != 2 {
		t.Fatalf("the directory holds %v, want a file for each of two matrices", all)
	}
}

// TestDamagedPanels: a file that is cut, altered or of another matrix is replaced, and never used.
func TestDamagedPanels(t *testing.T) {
	dir := t.TempDir()
	const tokens, n, k = 1, 1024, 1024
	rng := rand.New(rand.NewPCG(43, 44))
	blocks, x := randomBlocks(rng, gpu.Q8_0, n, k), random(rng, tokens*k, 1)
	want := sharedProduct(t, dir, gpu.Q8_0, blocks, x, tokens, n, k)
	files, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(files) != 1 {
		t.Fatalf("files: %v", files)
	}
	sound, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	for name, damage := range map[string]func([]byte) []byte{
		"empty":            func([]byte) []byte { return nil },
		"cut":              func(b []byte) []byte { return b[:len(b)-1] },
		"longer":           func(b []byte) []byte { return append(b, 0) },
		"a flipped bit":    func(b []byte) []byte { b[len(b)/2] ^= 4; return b },
		"another layout":   func(b []byte) []byte { b[14]++; return b },
		"of another":       func(b []byte) []byte { b[20]++; return b },
		"another checksum": func(b []byte) []byte { b[48]++; return b },
		"another size":     func(b []byte) []byte { b[57]++; return b },
	} {
		if err := os.Remove(files[0]); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(files[0], damage(bytes.Clone(sound)), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := sharedProduct(t, dir, gpu.Q8_0, blocks, x, tokens, n, k); !slices.Equal(got, want) {
			t.Errorf("%s: the product differs", name)
		}
		if again, err := os.ReadFile(files[0]); err != nil || !bytes.Equal(again, sound) {
			t.Errorf("%s: the file was not made anew (%v)", name, err)
		}
	}
}

// TestPanelsWithoutPlace: where there can be no directory, Open says so; where one goes away later, weights are packed
// into memory.
func TestPanelsWithoutPlace(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "weights")
	d := open(t, Options{Threads: 1, WeightsDir: dir})
	defer d.Close()
	if err := os.Remove(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{Threads: 1, WeightsDir: dir}); err == nil {
		t.Error("a file in place of the directory is accepted")
	}
	const n, k = 1024, 1024
	w, err := d.PackMatrix("w", gpu.Q8_0, n, k, randomBlocks(rand.New(rand.NewPCG(45, 46)), gpu.Q8_0, n, k))
	if err != nil {
		t.Fatal(err)
	}
	d.Free(w)
}

// sharedProduct multiplies on a device that keeps packed weights in dir, "" for none.
func sharedProduct(t *testing.T, dir string, dtype gpu.DType, blocks []byte, x []float32, tokens, n, k int) []float32 {
	t.Helper()
	d := open(t, Options{Threads: 2, WeightsDir: dir})
	w, err := d.PackMatrix("w", dtype, n, k, blocks)
	if err != nil {
		t.Fatal(err)
	}
	in, err := d.Alloc(gpu.F32, tokens, k)
	if err != nil {
		t.Fatal(err)
	}
	result, err := d.Alloc(gpu.F32, tokens, n)
	if err != nil {
		t.Fatal(err)
	}
	copy(d.Float32s(in), x)
	if err := d.Launch(gpu.OpMatMul, &gpu.MatMul{Out: result, X: in, W: w}); err != nil {
		t.Fatal(err)
	}
	out := slices.Clone(d.Float32s(result))
	for _, x := range []gpu.Tensor{w, in, result} {
		d.Free(x)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	return out
}
