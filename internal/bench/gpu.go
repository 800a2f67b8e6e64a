package bench

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"time"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/gpu"
)

// shapeFiles hold the config.json of well-known models. Their weights are drawn on the device.
//
//go:embed shapes
var shapeFiles embed.FS

// GPUConfig says what to measure on a device.
type GPUConfig struct {
	Shapes   []string  // of models: see GPUShapes
	Batches  []int     // sequences that decode together
	Contexts int       // tokens that each has before the first measured one
	Steps    int       // measured decode steps of a batch
	Prompts  []int     // tokens of a prefill, in one step
	Rounds   int       // of everything that is not a decode step
	Kernels  bool      // also matrix products by themselves
	Experts  bool      // also a layer's experts by themselves
	Weights  gpu.DType // of matrices: BF16, or a quantized type
	Progress func(string)
}

// DefaultGPUConfig measures the shape that most benchmarks use.
func DefaultGPUConfig() GPUConfig {
	return GPUConfig{Shapes: []string{"llama-3.1-8b"}, Batches: []int{1, 32, 128, 256}, Contexts: 512, Steps: 64,
		Prompts: []int{2048, 8192}, Rounds: 5, Kernels: true, Experts: true, Weights: gpu.BF16}
}

// GPUShapes lists the shapes that can be measured.
func GPUShapes() []string {
	entries, err := shapeFiles.ReadDir("shapes")
	if err != nil {
		panic(err) // embedded when this was built
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// GPUReport is what was measured. Times are medians; shares are of the floor, which is the larger of the
// bytes that must move over the copy rate, and of the operations over the matrix product rate, both of this run.
type GPUReport struct {
	Device      string  `json:"device"`
	Description string  `json:"description"`
	Compute     string  `json:"compute"`
	Weights     string  `json:"weights"`
	Host        string  `json:"host"`
	CopyRate    float64 `json:"copy_gb_per_s"` // bytes read plus bytes written
	ProductRate float64 `json:"matmul_tflop_per_s"`

	Kernels []GPUKernel  `json:"kernels,omitempty"`
	Experts []GPUExperts `json:"experts,omitempty"`
	Decode  []GPUStep    `json:"decode,omitempty"`
	Prefill []GPUStep    `json:"prefill,omitempty"`
	Loads   []GPULoad    `json:"loads"`
}

// GPUKernel is a matrix product with weights [N, K].
type GPUKernel struct {
	Name   string  `json:"implementation"`
	Tokens int     `json:"tokens"`
	N      int     `json:"n"`
	K      int     `json:"k"`
	Us     float64 `json:"us"`
	FloorU float64 `json:"floor_us"`
	Share  float64 `json:"share_of_floor"`
}

// GPUStep is a step of a model: a decode of Sequences, or a prefill.
type GPUStep struct {
	Shape           string  `json:"shape"`
	Sequences       int     `json:"sequences"`
	Context         int     `json:"context"` // mean, of a decode
	Tokens          int     `json:"tokens"`  // of the step
	Ms              float64 `json:"ms"`
	P10Ms           float64 `json:"p10_ms"`
	P90Ms           float64 `json:"p90_ms"`
	TokensPerSecond float64 `json:"tokens_per_s"`
	FloorMs         float64 `json:"floor_ms"`
	Share           float64 `json:"share_of_floor"`

	Parts  *GPUParts   `json:"parts,omitempty"`  // of a decode: where the host's time goes
	Ledger []GPULedger `json:"ledger,omitempty"` // of a decode: where the device's time goes
}

// GPUParts is where the time of a decode step goes on the host, in microseconds, means over the measured steps. The parts follow
// each other and add up to Wall, which is measured by itself.
type GPUParts struct {
	Wall    float64 `json:"wall_us"`    // from the tokens of one step to those of the next
	Prepare float64 `json:"prepare_us"` // making the step's input
	Launch  float64 `json:"launch_us"`  // model and sampler, until the device has all of it
	Fetch   float64 `json:"fetch_us"`   // asking for the tokens
	Wait    float64 `json:"wait_us"`    // until those of the step before are there: what is left to the device alone
}

// GPULedger is what all launches of one kind take in a step, when they run one after another. The last entry is the rest of
// the step, so that all together are its time: below zero where kernels overlap, above where the device waits.
type GPULedger struct {
	Kind     string  `json:"kind"`
	Launches int     `json:"launches,omitempty"`
	Us       float64 `json:"us"`
}

// GPULoad is how long a model took to be drawn and allocated.
type GPULoad struct {
	Shape      string  `json:"shape"`
	Parameters int64   `json:"parameters"`
	Seconds    float64 `json:"seconds"`
}

type gpuBench struct {
	cfg GPUConfig
	dev gpu.Device
	r   *GPUReport
}

// Validate says what of a configuration makes no sense.
func (c *GPUConfig) Validate() error {
	known := GPUShapes()
	for _, s := range c.Shapes {
		if !slices.Contains(known, s) {
			return fmt.Errorf("bench: no shape %q; there are %q", s, known)
		}
	}
	for _, list := range [][]int{c.Batches, c.Prompts, {c.Contexts, c.Steps, c.Rounds}} {
		for _, n := range list {
			if n < 1 || n > 1<<17 {
				return fmt.Errorf("bench: %d is outside 1..%d", n, 1<<17)
			}
		}
	}
	if c.Contexts+c.Steps > 1<<17 {
		return fmt.Errorf("bench: a context of %d and %d steps is longer than the models' %d", c.Contexts, c.Steps, 1<<17)
	}
	return nil
}

// RunGPU measures a device by itself: no scheduler, no bus.
func RunGPU(ctx context.Context, dev gpu.Device, cfg GPUConfig) (*GPUReport, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	info := dev.Info()
	b := &gpuBench{cfg: cfg, dev: dev, r: &GPUReport{Device: info.Name, Description: info.Description, Compute: info.Compute.String(), Weights: cfg.Weights.String(),
		Host: fmt.Sprintf("%s/%s, %d processors, %s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), time.Now().UTC().Format(time.DateOnly))}}
	if err := b.ceilings(); err != nil {
		return nil, err
	}
	if cfg.Kernels {
		if err := b.kernels(ctx); err != nil {
			return nil, err
		}
	}
	if cfg.Experts {
		if err := b.expertLayers(ctx); err != nil {
			return nil, err
		}
	}
	for _, shape := range cfg.Shapes {
		if err := b.shape(ctx, shape); err != nil {
			return nil, fmt.Errorf("%s: %w", shape, err)
		}
	}
	return b.r, nil
}

func (b *gpuBench) note(format string, args ...any) {
	if b.cfg.Progress != nil {
		b.cfg.Progress(fmt.Sprintf(format, args...))
	}
}

// timed returns the median seconds of what launch launches, over rounds after one to warm up.
func (b *gpuBench) timed(launch func() error) ([]float64, error) {
	var list []float64
	for round := range b.cfg.Rounds + 1 {
		if err := b.dev.Sync(); err != nil {
			return nil, err
		}
		began := time.Now()
		if err := launch(); err != nil {
			return nil, err
		}
		if err := b.dev.Sync(); err != nil {
			return nil, err
		}
		if round > 0 {
			list = append(list, time.Since(began).Seconds())
		}
	}
	slices.Sort(list)
	return list, nil
}

// random allocates random weights, packed, or activations.
func (b *gpuBench) random(packed bool, dims ...int) (gpu.Tensor, error) {
	maker, ok := b.dev.(gpu.RandomMaker)
	if !ok {
		return gpu.Tensor{}, fmt.Errorf("%w: %s makes no random weights", gpu.ErrNotSupported, b.dev.Info().Name)
	}
	dtype := b.dev.Info().Compute
	if packed {
		dtype = b.cfg.Weights
	}
	return maker.Random("bench", dtype, packed, uint64(dims[0]), 1, dims...)
}

// ceilings measures the rates that everything else is held to.
func (b *gpuBench) ceilings() error {
	const blockBytes, copies = 1 << 30, 8
	pool, err := b.dev.Alloc(gpu.F32, 2, 1, 1, blockBytes/4)
	if err != nil {
		return err
	}
	pairs := make([]int32, 0, 2*copies)
	for range copies {
		pairs = append(pairs, 0, 1)
	}
	times, err := b.timed(func() error { return b.dev.Launch(gpu.OpKVCopy, &gpu.KVCopy{Pools: []gpu.Tensor{pool}, Pairs: pairs}) })
	b.dev.Free(pool)
	if err != nil {
		return err
	}
	b.r.CopyRate = 2 * blockBytes * copies / median(times) / 1e9
	const size = 8192
	plain := *b
	plain.cfg.Weights = gpu.BF16
	us, err := plain.product(size, size, size)
	b.r.ProductRate = 2 * float64(size) * size * size / us / 1e6
	b.note("copy %.0f GB/s, matrix products %.0f TFLOP/s", b.r.CopyRate, b.r.ProductRate)
	return err
}

// weightBytesMin is what the weights of a kernel's measurement take together, so that no cache holds them.
const weightBytesMin = 256 << 20

// product returns the microseconds of W[n, k] times tokens activations.
func (b *gpuBench) product(tokens, n, k int) (us float64, err error) {
	var live []gpu.Tensor
	defer func() {
		for _, t := range live {
			b.dev.Free(t)
		}
	}()
	allocate := func(packed bool, rows, cols int) gpu.Tensor {
		t, e := b.random(packed, rows, cols)
		if e == nil {
			live = append(live, t)
		}
		err = errors.Join(err, e)
		return t
	}
	x, out := allocate(false, tokens, k), allocate(false, tokens, n)
	var launches []gpu.MatMul
	for bytes := 0.0; bytes < weightBytesMin && err == nil; bytes += float64(n) * float64(k) * elementBytes(b.cfg.Weights) {
		launches = append(launches, gpu.MatMul{Out: out, X: x, W: allocate(true, n, k)})
	}
	if err != nil {
		return 0, err
	}
	all := func() error {
		for i := range launches {
			if err := b.dev.Launch(gpu.OpMatMul, &launches[i]); err != nil {
				return err
			}
		}
		return nil
	}
	return b.launched(len(launches), all)
}

// launched returns the microseconds of one of count launches.
func (b *gpuBench) launched(count int, all func() error) (us float64, err error) {
	if err := all(); err != nil { // chooses an algorithm
		return 0, err
	}
	if recorder, ok := b.dev.(gpu.Recorder); ok { // without the host's part
		r, err := recorder.Record(func() error { return errors.Join(all(), all(), all(), all()) })
		if err != nil {
			return 0, err
		}
		defer r.Free()
		all, count = r.Replay, 4*count
	}
	times, err := b.timed(all)
	if err != nil {
		return 0, err
	}
	return median(times) * 1e6 / float64(count), nil
}

// elementBytes is what an element of a type takes, its share of scales included.
func elementBytes(t gpu.DType) float64 {
	const row = 4096
	return float64(t.RowBytes(row)) / row
}

// kernels measures the matrix products of an 8B model.
func (b *gpuBench) kernels(ctx context.Context) error {
	for _, shape := range [][2]int{{6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}, {128256, 4096}} {
		for _, tokens := range []int{1, 8, 16, 32, 64, 128, 256, 2048} {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, k := shape[0], shape[1]
			if err := b.kernel(tokens, n, k); err != nil {
				return err
			}
		}
		b.note("products with [%d, %d] measured", shape[0], shape[1])
	}
	return nil
}

// kernel measures a product with every implementation, but for many tokens only with the active one.
func (b *gpuBench) kernel(tokens, n, k int) (err error) {
	const fewTokens = 64
	for _, im := range b.dev.Implementations(gpu.OpMatMul) {
		if im.Active {
			defer func() { err = errors.Join(err, b.dev.Select(gpu.OpMatMul, im.Name)) }()
		} else if tokens > fewTokens {
			continue
		}
		if err := b.dev.Select(gpu.OpMatMul, im.Name); err != nil {
			return err
		}
		us, err := b.product(tokens, n, k)
		if err != nil {
			return err
		}
		bytes := elementBytes(b.cfg.Weights)*float64(n)*float64(k) + 2*float64(tokens)*float64(n+k)
		floor := max(bytes/b.r.CopyRate/1e3, 2*float64(tokens)*float64(n)*float64(k)/b.r.ProductRate/1e6)
		b.r.Kernels = append(b.r.Kernels, GPUKernel{Name: im.Name, Tokens: tokens, N: n, K: k, Us: us, FloorU: floor, Share: floor / us})
	}
	return nil
}

// shape measures a model.
func (b *gpuBench) shape(ctx context.Context, name string) (err error) {
	files, err := fs.Sub(shapeFiles, "shapes/"+name)
	if err != nil {
		return err
	}
	spec, err := model.ReadSpec(files)
	if err != nil {
		return err
	}
	m, err := b.load(name, files, spec)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	d := &gpuModel{gpuBench: b, m: m, name: name}
	for _, tokens := range b.cfg.Prompts {
		if err := errors.Join(ctx.Err(), d.prefill(tokens)); err != nil {
			return err
		}
	}
	for _, batch := range b.cfg.Batches {
		if err := errors.Join(ctx.Err(), d.decode(batch)); err != nil {
			return err
		}
	}
	return nil
}
