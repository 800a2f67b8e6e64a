package cpu

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
)

func TestDivideWork(t *testing.T) {
	for _, c := range []struct{ panels, group, tiles, threads, wantGroup, wantGroups, wantParts int }{
		{256, 8, 1, 2, 8, 32, 1},  // plenty of panels
		{256, 8, 1, 64, 4, 64, 1}, // smaller groups for more threads
		{2, 4, 40, 16, 1, 2, 8},   // a narrow matrix: divide the tokens
		{1, 8, 1, 64, 1, 1, 1},    // nothing to divide
		{12, 4, 2, 2, 2, 6, 1},    // three groups for two threads would leave one idle
		{12, 8, 1, 2, 4, 3, 1},    // one token: smaller groups have slower kernels
	} {
		group, groups, parts := divideWork(c.panels, c.group, c.tiles, c.threads)
		if group != c.wantGroup || groups != c.wantGroups || parts != c.wantParts {
			t.Errorf("%+v: got %d %d %d", c, group, groups, parts)
		}
	}
}

// TestThreadsDoNotChangeBits: the same product on one thread and on many, for shapes that
// divide in every way.
func TestThreadsDoNotChangeBits(t *testing.T) {
	product := func(threads, tokens, n, k int) string {
		d := open(t, Options{Threads: threads})
		rng := rand.New(rand.NewPCG(uint64(n), uint64(tokens)))
		raw := make([]byte, 2*n*k)
		for i := range raw {
			raw[i] = byte(rng.Uint32()) & 0xbf
		}
		w, err := d.PackMatrix("w", gpu.BF16, n, k, raw)
		if err != nil {
			t.Fatal(err)
		}
		x, err := d.Alloc(gpu.F32, tokens, k)
		if err != nil {
			t.Fatal(err)
		}
		out, err := d.Alloc(gpu.F32, tokens, n)
		if err != nil {
			t.Fatal(err)
		}
		copy(d.Float32s(x), random(rng, tokens*k, 1))
		if err := d.Launch(gpu.OpMatMul, &gpu.MatMul{Out: out, X: x, W: w}); err != nil {
			t.Fatal(err)
		}
		result := fmt.Sprint(d.Float32s(out))
		for _, x := range []gpu.Tensor{w, x, out} {
			d.Free(x)
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		return result
	}
	for _, shape := range [][3]int{{1, 600, 300}, {50, 20, 300}, {100, 64, 200}, {3, 1000, 100}} {
		want := product(1, shape[0], shape[1], shape[2])
		for _, threads := range []int{2, 7, 16} {
			if product(threads, shape[0], shape[1], shape[2]) != want {
				t.Errorf("T=%d N=%d K=%d on %d threads differs from one thread", shape[0], shape[1], shape[2], threads)
			}
		}
	}
}
