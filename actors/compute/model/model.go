package model

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"slices"

	"github.com/troupe-engine/troupe/gpu"
)

// Limits on Options.
const (
	SequencesMaxLimit     = 1 << 16
	TokensPerStepMaxLimit = 1 << 20
	BlockSizeLimit        = 1 << 12 // tokens
)

// SampleRing is the number of Sample results that exist at once: a result stays readable
// until Sample was called SampleRing more times, so that the host may read a step's tokens
// after later steps were launched.
const SampleRing = 4

// Options sizes a Model. Everything is allocated once for these.
type Options struct {
	SequencesMax     int // slots: sequences that may have state at once
	TokensPerStepMax int // tokens of one step over all sequences
	ContextMax       int // tokens of one sequence; 0 is the model's own limit
	BlockSize        int // tokens per KV block
	KVBlocks         int // blocks in the pool
	// SizeKV, if not nil, chooses KVBlocks when weights and work space are there and so many bytes are free.
	SizeKV func(freeBytes int64) (blocks int, err error)
	// RoPEBF16 rounds the rotary frequencies to bfloat16, as a torch model computes that was cast as a
	// whole by model.to(torch.bfloat16). transformers' from_pretrained keeps them in float32.
	RoPEBF16 bool
	// Quantize makes weights that are not quantized so when they are loaded: QuantizeQ8, QuantizeQ4, QuantizeFP8 or, as
	// they are stored, QuantizeOff. Norms, biases and experts' routers stay as they are.
	Quantize string
	// KV is the type of keys and values in their pools, one of gpu.Info.KV; 0 is the type that the device computes in.
	KV gpu.DType
	// RandomSeed, if not nil, draws the weights from a seed; files then need a config.json alone.
	RandomSeed *uint64
	// RandomType is the type of drawn matrices, BF16 if 0; of quantized ones, the output projection is Q8_0 or, with
	// 8-bit floats, BF16.
	RandomType gpu.DType
}

// Model is a decoder on a device: weights, paged key-value pools and work space. It is used by
// one goroutine at a time, the device's executor.
type Model struct {
	spec    *Spec
	options Options
	dev     gpu.Device
	mem     memory
	weights weights
	scratch scratch
	unused  []string
	widened []Widened
	// parameters counts the elements of all weights.
	parameters int64

	kPools, vPools []gpu.Tensor // per layer [blocks, kv_heads, block_size, D], Options.KV
	blockTables    gpu.Tensor   // [SequencesMax * blocksPerSequence] I32, row by slot
	tableColumns   int          // blocks per sequence
	lastToken      gpu.Tensor   // [SequencesMax] I32, the newest token of each slot

	program program
	replays replays
	head    head
	input   input
	reports reports

	sampled   [SampleRing]gpu.Tensor // [TokensPerStepMax] I32
	sampleAt  int
	sample    gpu.Sample
	kvCopy    gpu.KVCopy
	blockIDs  []byte // staging of SetBlocks
	destroyed bool
}

// Load reads the model in files (config.json, generation_config.json, and safetensors or model.gguf) onto dev.
// progress, which may be nil, hears the bytes loaded so far. On error nothing stays allocated.
func Load(dev gpu.Device, files fs.FS, opts Options, progress func(done, total int64)) (*Model, error) {
	spec, err := ReadSpec(files)
	if err != nil {
		return nil, err
	}
	if opts.RoPEBF16 {
		spec.roundFrequencies()
	}
	return load(dev, files, spec, opts, progress)
}

// load is Load for a spec that was read, and in tests changed, before.
func load(dev gpu.Device, files fs.FS, spec *Spec, opts Options, progress func(done, total int64)) (*Model, error) {
	if err := opts.check(spec, dev.Info()); err != nil {
		return nil, err
	}
	file, err := opts.open(files, spec)
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	defer file.Close() // the device has copies
	m := &Model{spec: spec, options: opts, dev: dev, mem: memory{dev: dev}}
	m.replays.recorder, _ = dev.(gpu.Recorder)
	if err := m.build(file, progress); err != nil {
		m.mem.freeAll()
		return nil, err
	}
	return m, nil
}

// check validates o and fills in what has a default.
func (o *Options) check(s *Spec, dev gpu.Info) error {
	o.KV = cmp.Or(o.KV, dev.Compute)
	if !slices.Contains(dev.KV, o.KV) {
		return fmt.Errorf("model: %w: keys and values in %v (Options.KV): %s has them in %v", gpu.ErrNotSupported, o.KV, dev.Name, dev.KV)
	}
	if o.ContextMax == 0 {
		o.ContextMax = s.ContextMax
	}
	for _, c := range []struct {
		name       string
		value, max int
	}{
		{"SequencesMax", o.SequencesMax, SequencesMaxLimit},
		{"TokensPerStepMax", o.TokensPerStepMax, TokensPerStepMaxLimit},
		{"ContextMax", o.ContextMax, s.ContextMax},
		{"BlockSize", o.BlockSize, BlockSizeLimit},
	} {
		if c.value < 1 || c.value > c.max {
			return fmt.Errorf("model: Options.%s is %d, want 1..%d", c.name, c.value, c.max)
		}
	}
	if o.Quantize != QuantizeOff && !slices.Contains(quantizations, o.Quantize) {
		return fmt.Errorf("model: Options.Quantize is %q, want %q or one of %q", clip(o.Quantize), QuantizeOff, quantizations)
	}
	if o.SizeKV != nil {
		return nil
	}
	return o.checkKVBlocks()
}

func (o *Options) checkKVBlocks() error {
	if most := math.MaxInt32 / o.BlockSize; o.KVBlocks < 1 || o.KVBlocks > most {
		return fmt.Errorf("model: Options.KVBlocks is %d, want 1..%d with blocks of %d tokens", o.KVBlocks, most, o.BlockSize)
	}
	return nil
}

func (m *Model) build(file source, progress func(done, total int64)) error {
	l := &loader{mem: &m.mem, file: file, spec: m.spec, used: map[string]bool{}, quantize: m.options.Quantize, progress: progress}
	if seed := m.options.RandomSeed; seed != nil {
		l.random = &drawnWeights{*seed, cmp.Or(m.options.RandomType, gpu.BF16)}
	}
	var err error
	if m.weights, m.unused, err = l.load(); err != nil {
		return err
	}
	m.parameters, m.widened = l.parameters, l.widened
	if err := m.allocate(); err != nil {
		return fmt.Errorf("model: allocating for %d KV blocks and %d tokens per step: %w", m.options.KVBlocks, m.options.TokensPerStepMax, err)
	}
	m.compile()
	return nil
}

// allocate makes the pools, the tables and the work space.
func (m *Model) allocate() error {
	s, o := m.spec, m.options
	compute := m.dev.Info().Compute
	var errs []error
	alloc := func(dtype gpu.DType, dims ...int) gpu.Tensor {
		if len(errs) > 0 {
			return gpu.Tensor{}
		}
		t, err := m.mem.alloc(dtype, dims...)
		if err != nil {
			errs = append(errs, err)
		}
		return t
	}
	m.tableColumns = (o.ContextMax + o.BlockSize - 1) / o.BlockSize
	m.blockTables = alloc(gpu.I32, o.SequencesMax*m.tableColumns)
	m.lastToken = alloc(gpu.I32, o.SequencesMax)
	for i := range m.sampled {
		m.sampled[i] = alloc(gpu.I32, o.TokensPerStepMax)
	}
	m.input.allocate(o, alloc)
	m.scratch.allocate(s, &m.weights, o, compute, alloc)
	for i := range s.RoPE {
		freq := s.RoPE[i].Frequencies(o.ContextMax)
		t := alloc(gpu.F32, len(freq))
		m.scratch.invFreq = append(m.scratch.invFreq, t)
		if len(errs) == 0 {
			if err := m.dev.Upload(t, floatBytes(freq)); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := m.head.grow(m, min(o.SequencesMax, o.TokensPerStepMax)); err != nil {
		return err
	}
	return m.allocatePools()
}

// allocatePools comes last: the pools may be what is left.
func (m *Model) allocatePools() error {
	s, o := m.spec, &m.options
	if o.SizeKV != nil {
		var err error
		if o.KVBlocks, err = o.SizeKV(m.dev.Info().MemoryFree); err != nil {
			return err
		}
		if err := o.checkKVBlocks(); err != nil {
			return err
		}
	}
	for _, pools := range []*[]gpu.Tensor{&m.kPools, &m.vPools} {
		for range s.Layers {
			t, err := m.mem.alloc(o.KV, o.KVBlocks, s.KVHeads, o.BlockSize, s.HeadDim)
			if err != nil {
				return err
			}
			*pools = append(*pools, t)
		}
	}
	m.kvCopy.Pools = slices.Concat(m.kPools, m.vPools)
	return nil
}

// Spec returns what the model is. The caller must not modify it.
func (m *Model) Spec() *Spec { return m.spec }

// Options returns how the model was sized, with defaults filled in.
func (m *Model) Options() Options { return m.options }

// Parameters counts the elements of all weights; tied ones count once.
func (m *Model) Parameters() int64 { return m.parameters }

// OutputType is the type of the output projection's weights.
func (m *Model) OutputType() gpu.DType { return m.weights.output.DType }

// KVPools returns the layers' key and value pools, [blocks, kv_heads, block_size, D] each: all keys, then
// all values, in layer order.
func (m *Model) KVPools() []gpu.Tensor { return m.kvCopy.Pools }

// UnusedTensors lists tensors of the checkpoint that this architecture has no place for.
// Some converters leave such (a tied lm_head); many of them hint at a wrong config.
func (m *Model) UnusedTensors() []string { return m.unused }

// Widened are matrices that a checkpoint stores quantized and a device does not multiply as they are.
type Widened struct {
	Matrices    int
	Why         string    // what they are
	As          gpu.DType // what they became
	StoredBytes int64
	Bytes       int64 // in rows of As
}

// Widened lists what became larger than it is in the checkpoint, which costs memory and, with it, time.
func (m *Model) Widened() []Widened { return m.widened }

// SetBlocks makes blocks the KV blocks of the sequence in slot, from its block number from on.
func (m *Model) SetBlocks(slot, from int, blocks []int32) error {
	if slot < 0 || slot >= m.options.SequencesMax {
		return fmt.Errorf("model: SetBlocks: slot %d outside 0..%d", slot, m.options.SequencesMax-1)
	}
	if from < 0 || from > m.tableColumns || len(blocks) > m.tableColumns-from {
		return fmt.Errorf("model: SetBlocks: blocks [%d, %d) of slot %d outside the %d of a sequence", from, from+len(blocks), slot, m.tableColumns)
	}
	if len(blocks) == 0 {
		return nil
	}
	m.blockIDs = m.blockIDs[:0]
	for i, b := range blocks {
		if b < 0 || int(b) >= m.options.KVBlocks {
			return fmt.Errorf("model: SetBlocks: blocks[%d] is %d, outside 0..%d", i, b, m.options.KVBlocks-1)
		}
		m.blockIDs = binary.LittleEndian.AppendUint32(m.blockIDs, uint32(b))
	}
	at := slot*m.tableColumns + from
	return m.dev.Upload(m.blockTables.Slice(at, at+len(blocks)), m.blockIDs)
}

// CopyBlocks copies KV blocks in every layer: block pairs[2i] to pairs[2i+1], in order.
func (m *Model) CopyBlocks(pairs []int32) error {
	if len(pairs)%2 != 0 {
		return fmt.Errorf("model: CopyBlocks: %d numbers are no pairs", len(pairs))
	}
	for i, b := range pairs {
		if b < 0 || int(b) >= m.options.KVBlocks {
			return fmt.Errorf("model: CopyBlocks: pairs[%d] is %d, outside 0..%d", i, b, m.options.KVBlocks-1)
		}
	}
	if len(pairs) == 0 {
		return nil
	}
	m.kvCopy.Pairs = pairs
	err := m.dev.Launch(gpu.OpKVCopy, &m.kvCopy)
	m.kvCopy.Pairs = nil
	return err
}

// Sample draws one token for each row of logits, [R, V], and makes it the newest token of
// params[r].Slot. The result, [R] I32 ids, stays readable as SampleRing says.
func (m *Model) Sample(params []gpu.SampleParams, logits gpu.Tensor) (gpu.Tensor, error) {
	rows := logits.Dims[0]
	if !logits.Valid() || len(params) != rows || rows > m.options.TokensPerStepMax {
		return gpu.Tensor{}, fmt.Errorf("model: Sample: %d params for %d rows of logits", len(params), rows)
	}
	for i := range params {
		if slot := params[i].Slot; slot < 0 || int(slot) >= m.options.SequencesMax {
			return gpu.Tensor{}, fmt.Errorf("model: Sample: params[%d].Slot is %d, outside 0..%d", i, slot, m.options.SequencesMax-1)
		}
	}
	out := m.sampled[m.sampleAt].Slice(0, rows)
	m.sampleAt = (m.sampleAt + 1) % SampleRing
	m.sample = gpu.Sample{Logits: logits, Params: params, Out: out, LastToken: m.lastToken}
	err := m.dev.Launch(gpu.OpSample, &m.sample)
	m.sample.Params = nil
	return out, err
}

// Close waits for the device and frees everything the model allocated on it.
func (m *Model) Close() error {
	if m.destroyed {
		return errors.New("model: Close of a closed model")
	}
	m.destroyed = true
	err := m.dev.Sync()
	m.replays.drop()
	m.mem.freeAll()
	return err
}

func floatBytes(v []float32) []byte {
	out := make([]byte, 0, 4*len(v))
	for _, f := range v {
		out = binary.LittleEndian.AppendUint32(out, math.Float32bits(f))
	}
	return out
}
