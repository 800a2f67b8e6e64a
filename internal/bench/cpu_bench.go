package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
	"github.com/troupe-engine/troupe/schemas"
)

// CPUConfig says what to measure on a CPU.
type CPUConfig struct {
	Models  []string // GGUF files
	Shapes  []string // of models whose weights are drawn; see GPUShapes
	Types   []string // of the drawn weights; see CPUTypes
	Dir     string   // where the files of drawn models are kept; "" is a temporary folder
	Threads int      // 0 is all processors
	KV      gpu.DType
	Compute gpu.DType // see cpu.Options
	Prompt  int       // tokens of a prefill; 0 leaves it out
	Tokens  int       // decoded by each sequence
	Batches []int     // sequences that decode together; several have batchContext tokens each before
	Depths  []int     // tokens before those that a sequence alone decodes
	Rounds  int       // of everything
	Retries int       // of a round that others disturbed
	Kernels bool      // also matrix products by themselves
	Peer    string
	// Progress, which may be nil, hears what was measured.
	Progress func(string)
}

const (
	batchContext   = 128      // tokens of each of several sequences before they decode together
	cpuStepTokens  = 512      // of one step of a long prompt
	cpuContextMax  = 1 << 16  // tokens
	cpuRoundsMax   = 1 << 10  // of a report
	cpuSequenceMax = 1 << 10  // sequences
	cpuFilesMax    = 64       // models
	cpuWeightBytes = 96 << 20 // of the weights of a kernel's measurement, so that no cache holds them
)

// DefaultCPUConfig measures a small model of each weight type.
func DefaultCPUConfig() CPUConfig {
	return CPUConfig{Shapes: []string{"llama-0.5b"}, Types: []string{"bf16", "q8_0", "q4_0"}, KV: gpu.BF16, Compute: gpu.F32, Prompt: 512, Tokens: 48,
		Batches: []int{1, 16}, Depths: []int{0}, Rounds: 5, Retries: 2, Kernels: true}
}

// CPUReport is what was measured.
type CPUReport struct {
	Machine Machine `json:"machine"`
	Device  string  `json:"device"`
	Threads int     `json:"threads"`
	KV      string  `json:"kv_dtype"`
	Peer    string  `json:"peer,omitempty"`
	Rounds  int     `json:"rounds"`

	Kernels []CPUKernel `json:"kernels,omitempty"`
	Tests   []CPUTest   `json:"tests,omitempty"`
}

// CPUKernel is a matrix product W[N, K] by so many tokens, and the loop that it cannot outrun, run in turn: reading
// the weights for one token, multiply-adds of float32 for many. Rates and shares are medians.
type CPUKernel struct {
	Type    string  `json:"type"`
	Tokens  int     `json:"tokens"`
	N       int     `json:"n"`
	K       int     `json:"k"`
	Rate    float64 `json:"rate"`
	Ceiling float64 `json:"ceiling"`
	Unit    string  `json:"unit"` // "GB/s" of weights, or "GOP/s"
	Share   float64 `json:"share_of_ceiling"`
}

// CPUTest is a prefill or a decode of one model, and what a peer needed for the same, run in turn. Rates are
// medians over the rounds.
type CPUTest struct {
	Model     string    `json:"model"`
	Bytes     int64     `json:"file_bytes"`
	Kind      string    `json:"kind"` // "prefill" or "decode"
	Sequences int       `json:"sequences"`
	Depth     int       `json:"depth"`  // tokens before
	Tokens    int       `json:"tokens"` // of each sequence
	Rate      float64   `json:"tokens_per_s"`
	Rates     []float64 `json:"rounds_tokens_per_s"`
	CPU       []float64 `json:"rounds_cpu_ms_per_token"` // processor time, of all threads
	Others    []float64 `json:"rounds_others"`           // share of the processors that others used meanwhile
	// Ledger says where the time of all rounds' steps went; its parts add up to WallUs.
	Ledger schemas.Ledger `json:"ledger"`
	WallUs float64        `json:"ledger_wall_us"`
	// What a loop that only reads the weights of a step does, run in turn, of a decode without tokens before. No program
	// that reads them once a token decodes faster: a peer with a share s of it is outrun 1/s times at the most.
	WeightBytes int64     `json:"weight_bytes,omitempty"` // as the device has packed them
	Reads       []float64 `json:"rounds_read_gb_per_s,omitempty"`
	Share       float64   `json:"share_of_reads,omitempty"` // medians of the rounds
	PeerShare   float64   `json:"peer_share_of_reads,omitempty"`

	PeerRate  float64   `json:"peer_tokens_per_s,omitempty"`
	PeerRates []float64 `json:"peer_rounds_tokens_per_s,omitempty"`
	Ratio     float64   `json:"ratio,omitempty"` // median of the rounds' ratios, ours over the peer's
	RatioMin  float64   `json:"ratio_min,omitempty"`
	RatioMax  float64   `json:"ratio_max,omitempty"`
}

// Validate says what of a configuration makes no sense.
func (c *CPUConfig) Validate() error {
	for _, s := range c.Shapes {
		if known := GPUShapes(); !slices.Contains(known, s) {
			return fmt.Errorf("bench: no shape %q; there are %q", s, known)
		}
	}
	for _, t := range c.Types {
		if _, ok := cpuTypes[t]; !ok {
			return fmt.Errorf("bench: no type %q; there are %q", t, CPUTypes())
		}
	}
	if len(c.Models)+len(c.Shapes)*len(c.Types) > cpuFilesMax {
		return fmt.Errorf("bench: more than %d models", cpuFilesMax)
	}
	for _, f := range []struct {
		name     string
		values   []int
		min, max int
	}{
		{"prompt", []int{c.Prompt}, 0, cpuContextMax}, {"tokens", []int{c.Tokens}, 1, cpuContextMax}, {"batch", c.Batches, 1, cpuSequenceMax},
		{"depth", c.Depths, 0, cpuContextMax}, {"rounds", []int{c.Rounds}, 1, cpuRoundsMax}, {"retries", []int{c.Retries}, 0, cpuRoundsMax}, {"threads", []int{c.Threads}, 0, cpu.ThreadsMax},
	} {
		for _, v := range f.values {
			if v < f.min || v > f.max {
				return fmt.Errorf("bench: %s is %d, want %d to %d", f.name, v, f.min, f.max)
			}
		}
	}
	return nil
}

type cpuBench struct {
	cfg  CPUConfig
	dev  *cpu.Device
	peer *peer // nil: there is none
	r    *CPUReport
}

// RunCPU measures the CPU device by itself: no scheduler, no bus.
func RunCPU(ctx context.Context, cfg CPUConfig) (_ *CPUReport, err error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	dev, err := cpu.Open(cpu.Options{Threads: cfg.Threads, Compute: cfg.Compute})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	b := &cpuBench{cfg: cfg, dev: dev, r: &CPUReport{Machine: thisMachine(), Device: dev.Info().Description, KV: cfg.KV.String(), Rounds: cfg.Rounds}}
	b.r.Threads = cfg.Threads
	if cfg.Threads == 0 {
		b.r.Threads = b.r.Machine.CPUs
	}
	if cfg.Peer != "" {
		if b.peer, err = newPeer(ctx, cfg.Peer, b.r.Threads); err != nil {
			return nil, err
		}
		b.r.Peer = b.peer.version
	}
	if cfg.Kernels {
		if err := b.kernels(ctx); err != nil {
			return nil, err
		}
	}
	if err := b.models(ctx); err != nil {
		return nil, err
	}
	b.r.Machine.LoadEnd = loadAverage()
	return b.r, nil
}

// models measures the files, and those of drawn models, which are written first.
func (b *cpuBench) models(ctx context.Context) (err error) {
	dir := b.cfg.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "troupe-bench-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	}
	for _, path := range b.cfg.Models {
		if err := b.model(ctx, path); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	for _, shape := range b.cfg.Shapes {
		for _, kind := range b.cfg.Types {
			path := filepath.Join(dir, shape+"-"+kind+".gguf")
			began := time.Now()
			drawn, err := drawFile(ctx, path, shape, kind)
			if err != nil {
				return err
			}
			if drawn {
				b.note("%s drawn in %.1f s", filepath.Base(path), time.Since(began).Seconds())
			}
			if err := b.model(ctx, path); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			if b.cfg.Dir == "" { // one at a time is enough for a disk
				if err := os.Remove(path); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (b *cpuBench) note(format string, args ...any) {
	if b.cfg.Progress != nil {
		b.cfg.Progress(fmt.Sprintf(format, args...))
	}
}

// label is what a model's file is called in reports.
func label(path string) string { return strings.TrimSuffix(filepath.Base(path), filepath.Ext(path)) }
