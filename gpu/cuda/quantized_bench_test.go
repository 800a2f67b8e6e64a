package cuda

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
)

// TestTimingsQuantized prints what products with quantized weights take at the shapes of an 8B model, as
// microseconds and, in parentheses, the share of the floor: bytes over this run's copy rate, or operations over its
// rate of bfloat16 products, twice that for 8-bit floats. TROUPE_CUDA_TIMINGS=1 asks for it.
func TestTimingsQuantized(t *testing.T) {
	if os.Getenv("TROUPE_CUDA_TIMINGS") != "1" {
		t.Skip("TROUPE_CUDA_TIMINGS=1 measures")
	}
	needDevice(t)
	d := open(t, Options{Compute: gpu.BF16})
	defer mustClose(t, d)
	b := &timings{T: t, d: d}
	b.note("%s", d.Info().Description)
	copyRate := b.deviceCopyRate()
	us := b.productTime(gpu.BF16, 8192, 8192, 8192, false)
	productRate := 2 * 8192.0 * 8192 * 8192 / us / 1e6
	b.note("copy %.0f GB/s, bfloat16 products %.0f TFLOP/s; us (share of the floor)", copyRate, productRate)
	shapes := [][2]int{{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}}
	b.note("%-12s %v", "", shapes)
	for _, dtype := range []gpu.DType{gpu.BF16, gpu.E4M3, gpu.E4M3_128, gpu.I8, gpu.Q8_0, gpu.Q4_0, gpu.Q4_1, gpu.I4_128} {
		for _, tokens := range []int{1, 8, 16, 256} {
			line := fmt.Sprintf("%-7v T=%-4d", dtype, tokens)
			for _, shape := range shapes {
				n, k := shape[0], shape[1]
				us := b.productTime(dtype, tokens, n, k, false)
				bytes := weightBytes(dtype, n, k) + 2*float64(tokens)*float64(n+k)
				rate := productRate
				if dtype == gpu.E4M3 {
					rate *= 2
				}
				floor := max(bytes/copyRate/1e3, 2*float64(tokens)*float64(n)*float64(k)/rate/1e6)
				line += fmt.Sprintf(" %7.1f (%2.0f)", us, 100*floor/us)
			}
			b.note("%s", line)
		}
	}
	t.Log("\n" + b.lines.String())
}

// weightBytes is what a matrix takes on the device.
func weightBytes(dtype gpu.DType, n, k int) float64 {
	if f := quantFormats[dtype]; f != nil {
		return float64(f.layout(n, k).bytes)
	}
	return float64(dtype.Size()) * float64(n) * float64(k)
}

// deviceCopyRate is copyRate without contents from the host.
func (b *timings) deviceCopyRate() float64 {
	const bytes = 1 << 30
	from, to := b.drawn(gpu.BF16, false, 2, bytes/4), b.drawn(gpu.BF16, false, 2, bytes/4)
	defer b.free()
	us := b.median(5, func(int) error {
		return b.d.check("cuMemcpyDtoDAsync", call(b.d.driver.cuMemcpyDtoDAsync, b.d.address(to), b.d.address(from), bytes, b.d.stream))
	})
	return 2 * bytes / us / 1e3
}

func (b *timings) drawn(dtype gpu.DType, packed bool, dims ...int) gpu.Tensor {
	t, err := b.d.Random("w", dtype, packed, uint64(len(b.live)), 1, dims...)
	if err != nil {
		b.Fatal(err)
	}
	b.live = append(b.live, t)
	return t
}

// productTime returns the microseconds of a product, which may add to what is there, from recordings of many over
// weights that no cache holds.
func (b *timings) productTime(dtype gpu.DType, tokens, n, k int, accumulate bool) float64 {
	const bytesMin, launchesMin = 256 << 20, 24
	x, out := b.drawn(gpu.BF16, false, tokens, k), b.drawn(gpu.BF16, false, tokens, n)
	defer b.free()
	var products []gpu.MatMul
	for bytes := 0.0; bytes < bytesMin; bytes += weightBytes(dtype, n, k) {
		products = append(products, gpu.MatMul{Out: out, X: x, W: b.drawn(dtype, true, n, k), Accumulate: accumulate})
	}
	all := func() error {
		for i := 0; i < max(len(products), launchesMin); i++ {
			if err := b.d.Launch(gpu.OpMatMul, &products[i%len(products)]); err != nil {
				return err
			}
		}
		return nil
	}
	if err := b.d.Launch(gpu.OpMatMul, &products[0]); err != nil { // chooses an algorithm
		b.Fatal(err)
	}
	r, err := b.d.Record(all)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Free()
	return b.median(1, func(int) error { return r.Replay() }) / float64(max(len(products), launchesMin))
}

// ringVariant is a format whose products are cut and started in another way.
type ringVariant struct {
	dtype                gpu.DType
	what                 string
	depth, teams, blocks int
	early                bool
	module               module
	code                 []byte
}

// TestTimingsQuantizedRings compares, for one token, ways to cut products into blocks and to let them overlap, each
// compiled for the purpose: microseconds of products that add to a residual, and of a layer's four with their norms and
// gate, one after another as in an 8B model, which is what a step is made of.
func TestTimingsQuantizedRings(t *testing.T) {
	if os.Getenv("TROUPE_CUDA_TIMINGS") != "1" {
		t.Skip("TROUPE_CUDA_TIMINGS=1 measures")
	}
	needDevice(t)
	d := open(t, Options{Compute: gpu.BF16})
	defer mustClose(t, d)
	b := &timings{T: t, d: d}
	copyRate := b.deviceCopyRate()
	b.note("copy %.0f GB/s; us (share of it), and of a layer", copyRate)
	measure := func(dtype gpu.DType, what string) {
		line := fmt.Sprintf("%-9v %-56s", dtype, what)
		for _, shape := range [][2]int{{4096, 4096}, {6144, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}} {
			us := b.productTime(dtype, 1, shape[0], shape[1], true)
			line += fmt.Sprintf(" %6.1f (%2.0f)", us, 100*weightBytes(dtype, shape[0], shape[1])/copyRate/1e3/us)
		}
		b.note("%s  %6.1f", line, b.layerTime(dtype))
	}
	measure(gpu.BF16, "")
	for _, v := range b.ringVariants(gpu.E4M3, gpu.E4M3_128, gpu.Q8_0, gpu.Q4_1, gpu.I4_128) {
		restore := v.apply()
		b.load(v)
		measure(v.dtype, fmt.Sprintf("%s: depth %d, %d teams, %d blocks", v.what, v.depth, v.teams, v.blocks))
		restore()
	}
	t.Log("\n" + b.lines.String())
}

// apply makes the formats that a variant's kernels are of fit them, until the returned function is called.
func (v *ringVariant) apply() (restore func()) {
	old := map[*quantFormat]quantFormat{}
	for _, f := range quantFormats {
		if f.kernels == quantFormats[v.dtype].kernels {
			old[f] = *f
			f.depth, f.teams, f.blocks, f.early = v.depth, v.teams, v.blocks, v.early
		}
	}
	return func() {
		for f, was := range old {
			*f = was
		}
	}
}

// layers returns the products of count layers, with their norms and gates and without attention, and the residual that
// they add to.
func (b *timings) layers(dtype gpu.DType, count, hidden, qkvWidth, width int) (products []gpu.MatMul, x gpu.Tensor) {
	act := func(n int) gpu.Tensor { return b.drawn(gpu.BF16, false, 1, n) }
	x, normed, qkv, attended, both, gated := act(hidden), act(hidden), act(qkvWidth), act(hidden), act(2*width), act(width)
	weight := b.drawn(gpu.F32, false, hidden)
	norm := func() *gpu.RMSNorm { return &gpu.RMSNorm{Out: normed, X: x, Weight: weight, Eps: 1e-5} }
	w := func(n, k int) gpu.Tensor { return b.drawn(dtype, true, n, k) }
	for range count {
		products = append(products,
			gpu.MatMul{Out: qkv, X: normed, W: w(qkvWidth, hidden), Norm: norm()},
			gpu.MatMul{Out: x, X: attended, W: w(hidden, hidden), Accumulate: true},
			gpu.MatMul{Out: both, X: normed, W: w(2*width, hidden), Norm: norm(), Gate: &gpu.ActMul{Out: gated, X: both, Act: gpu.SiLU}},
			gpu.MatMul{Out: x, X: gated, W: w(hidden, width), Accumulate: true})
	}
	return products, x
}

// launchAll launches products, each so often.
func (b *timings) launchAll(products []gpu.MatMul, rounds int) func() error {
	return func() error {
		for i := range rounds * len(products) {
			if err := b.d.Launch(gpu.OpMatMul, &products[i%len(products)]); err != nil {
				return err
			}
		}
		return nil
	}
}

// layerTime returns the microseconds of a layer of an 8B model for one token, from recordings of several, whose weights
// no cache holds.
func (b *timings) layerTime(dtype gpu.DType) float64 {
	const layers, rounds = 4, 2
	defer b.free()
	products, _ := b.layers(dtype, layers, 4096, 6144, 14336)
	all := b.launchAll(products, rounds)
	if err := all(); err != nil { // what is prepared at the first time is not recorded
		b.Fatal(err)
	}
	r, err := b.d.Record(all)
	if err != nil {
		b.Fatal(err)
	}
	defer r.Free()
	return b.median(1, func(int) error { return r.Replay() }) / (layers * rounds)
}

// TestQuantizedRings: however products are cut into blocks and overlap, the bits are the same.
func TestQuantizedRings(t *testing.T) {
	needDevice(t)
	d := open(t, Options{Compute: gpu.BF16})
	defer mustClose(t, d)
	b := &timings{T: t, d: d}
	residual := func(dtype gpu.DType) string {
		defer b.free()
		products, x := b.layers(dtype, 3, 1024, 1536, 2560)
		r, err := d.Record(b.launchAll(products, 2))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Free()
		out := make([]byte, x.Bytes())
		if err := errors.Join(r.Replay(), r.Replay(), d.Download(out, x)); err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	want := map[gpu.DType]string{}
	for _, v := range b.ringVariants(gpu.E4M3, gpu.E4M3_128, gpu.Q8_0, gpu.I4_128) {
		if want[v.dtype] == "" {
			want[v.dtype] = residual(v.dtype)
		}
		restore := v.apply()
		b.load(v)
		if residual(v.dtype) != want[v.dtype] {
			t.Errorf("%v, %s: the residual differs", v.dtype, v.what)
		}
		restore()
	}
}

// ringVariants compiles the variants of formats.
func (b *timings) ringVariants(dtypes ...gpu.DType) (list []*ringVariant) {
	n, _, err := loadNVRTC(hostSearch())
	if err != nil {
		b.Fatal(err)
	}
	const ofMultiprocessor = 227 << 10
	for _, dtype := range dtypes {
		f := quantFormats[dtype]
		alone := 6 // of a block's pieces, where two blocks fit
		if f.bits == 4 {
			alone = 10
		}
		for _, m := range quantModules() {
			if m.compute = gpu.BF16; m.define != "QUANT_"+f.kernels {
				continue
			}
			for _, v := range []ringVariant{
				{what: "two of a kernel, late", depth: f.depth, teams: 1, blocks: 2},
				{what: "two of a kernel, early", depth: f.depth, teams: 1, blocks: 2, early: true},
				{what: "one of a kernel, late", depth: f.depth, teams: 2, blocks: 1},
				{what: "one of a kernel, early", depth: f.depth, teams: 2, blocks: 1, early: true},
				{what: "one of each of two, early", depth: alone, teams: 1, blocks: 1, early: true},
			} {
				v.dtype, v.module = dtype, m
				sized := *f
				sized.depth = v.depth
				if sized.sharedBytes(quantTiles[1], v.teams)*v.blocks <= ofMultiprocessor {
					list = append(list, &v)
				}
			}
		}
	}
	var wait sync.WaitGroup
	errs := make([]error, len(list))
	for i, v := range list {
		wait.Go(func() {
			source := fmt.Sprintf("#define DEPTH %d\n#define TEAMS %d\n#define BLOCKS %d\n", v.depth, v.teams, v.blocks) + v.module.source()
			v.code, errs[i] = n.compile(v.module.name(), source, compileOptions(b.d.properties.arch()))
		})
	}
	wait.Wait()
	if err := errors.Join(errs...); err != nil {
		b.Fatal(err)
	}
	return list
}

// load makes a variant the one that runs.
func (b *timings) load(v *ringVariant) {
	if err := b.d.enter(); err != nil {
		b.Fatal(err)
	}
	defer b.d.leave()
	if err := errors.Join(b.d.loadModule(v.module, v.code), b.d.prepareQuantized()); err != nil {
		b.Fatal(err)
	}
}
