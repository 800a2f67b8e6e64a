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
	us := b.productTime(gpu.BF16, 8192, 8192, 8192)
	productRate := 2 * 8192.0 * 8192 * 8192 / us / 1e6
	b.note("copy %.0f GB/s, bfloat16 products %.0f TFLOP/s; us (share of the floor)", copyRate, productRate)
	shapes := [][2]int{{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}}
	b.note("%-12s %v", "", shapes)
	for _, dtype := range []gpu.DType{gpu.BF16, gpu.E4M3, gpu.I8, gpu.Q8_0, gpu.Q4_0, gpu.Q4_1, gpu.I4_128} {
		for _, tokens := range []int{1, 8, 16, 256} {
			line := fmt.Sprintf("%-7v T=%-4d", dtype, tokens)
			for _, shape := range shapes {
				n, k := shape[0], shape[1]
				us := b.productTime(dtype, tokens, n, k)
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

// productTime returns the microseconds of a product, from recordings of many over weights that no cache holds.
func (b *timings) productTime(dtype gpu.DType, tokens, n, k int) float64 {
	const bytesMin, launchesMin = 256 << 20, 24
	x, out := b.drawn(gpu.BF16, false, tokens, k), b.drawn(gpu.BF16, false, tokens, n)
	defer b.free()
	var products []gpu.MatMul
	for bytes := 0.0; bytes < bytesMin; bytes += weightBytes(dtype, n, k) {
		products = append(products, gpu.MatMul{Out: out, X: x, W: b.drawn(dtype, true, n, k)})
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

// ringVariant is a format with another depth of rings and number of blocks.
type ringVariant struct {
	dtype         gpu.DType
	depth, blocks int
	module        module
	code          []byte
}

// TestTimingsQuantizedRings compares depths of rings and numbers of blocks, each compiled for the purpose.
func TestTimingsQuantizedRings(t *testing.T) {
	if os.Getenv("TROUPE_CUDA_TIMINGS") != "1" {
		t.Skip("TROUPE_CUDA_TIMINGS=1 measures")
	}
	needDevice(t)
	d := open(t, Options{Compute: gpu.BF16})
	defer mustClose(t, d)
	b := &timings{T: t, d: d}
	copyRate := b.deviceCopyRate()
	b.note("copy %.0f GB/s; us (share of it)", copyRate)
	for _, v := range b.ringVariants(gpu.E4M3, gpu.Q4_1, gpu.I4_128) {
		f := quantFormats[v.dtype]
		old := *f
		f.depth, f.blocks = v.depth, v.blocks
		b.load(v)
		for _, tokens := range []int{1, 16} {
			line := fmt.Sprintf("%-7v depth %d, %d blocks T=%-3d", v.dtype, f.depth, f.blocks, tokens)
			for _, shape := range [][2]int{{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}} {
				us := b.productTime(v.dtype, tokens, shape[0], shape[1])
				line += fmt.Sprintf(" %7.1f (%2.0f)", us, 100*weightBytes(v.dtype, shape[0], shape[1])/copyRate/1e3/us)
			}
			b.note("%s", line)
		}
		*f = old
	}
	t.Log("\n" + b.lines.String())
}

// ringVariants compiles the variants of formats that fit.
func (b *timings) ringVariants(dtypes ...gpu.DType) (list []*ringVariant) {
	n, _, err := loadNVRTC(hostSearch())
	if err != nil {
		b.Fatal(err)
	}
	const static, ofMultiprocessor = 2 << 10, 227 << 10
	for _, dtype := range dtypes {
		f := *quantFormats[dtype]
		for _, m := range quantModules() {
			for _, v := range [][2]int{{2, 1}, {4, 1}, {2, 2}, {3, 2}, {4, 2}, {2, 3}, {3, 3}} {
				f.depth, f.blocks = v[0], v[1]
				if m.compute = gpu.BF16; m.define == "QUANT_"+f.kernels && (f.sharedBytes(quantTiles[1])+static)*f.blocks <= ofMultiprocessor {
					list = append(list, &ringVariant{dtype: dtype, depth: v[0], blocks: v[1], module: m})
				}
			}
		}
	}
	var wait sync.WaitGroup
	errs := make([]error, len(list))
	for i, v := range list {
		wait.Go(func() {
			source := fmt.Sprintf("#define DEPTH %d\n#define BLOCKS %d\n", v.depth, v.blocks) + v.module.source()
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
