package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cuda"
	"github.com/troupe-engine/troupe/internal/bench"
)

func newBenchGPUCommand() *cobra.Command {
	cfg := bench.DefaultGPUConfig()
	cmd := &cobra.Command{Use: "gpu", Short: "Measure a GPU against its own ceilings.", Args: cobra.NoArgs,
		Long: "Measure a GPU against its own ceilings.\n\n" +
			"First the rates of a large copy and of a large matrix product, then matrix\n" +
			"products, decode steps and prefills of models whose weights are drawn on the GPU,\n" +
			"so no files are needed. Every time stands beside the least that bytes and\n" +
			"operations allow at this run's rates.",
		Example: "  troupe bench gpu\n" +
			"  troupe bench gpu --shape llama-3.2-1b --batch 1 --prompt 2048 --json"}
	out := addBenchOutput(cmd)
	compute, quant, selected := "bf16", "off", map[string]string{}
	f := cmd.Flags()
	f.StringVar(&compute, "compute", compute, "activations, keys and values: bf16 or f32")
	f.StringVar(&quant, "quant", quant, "weights of matrices: off, fp8, q8, q4, or a type such as i4_128")
	f.StringSliceVar(&cfg.Shapes, "shape", cfg.Shapes, "models: "+strings.Join(bench.GPUShapes(), ", "))
	f.IntSliceVar(&cfg.Batches, "batch", cfg.Batches, "sequences that decode together")
	f.IntVar(&cfg.Contexts, "context", cfg.Contexts, "tokens of each before the first measured step")
	f.IntVar(&cfg.Steps, "steps", cfg.Steps, "decode steps to measure of each batch")
	f.IntSliceVar(&cfg.Prompts, "prompt", cfg.Prompts, "tokens of a prefill")
	f.IntVar(&cfg.Rounds, "rounds", cfg.Rounds, "rounds of everything but decode")
	f.StringToStringVar(&selected, "select", nil, "implementations to measure, as matmul=skinny")
	f.BoolVar(&cfg.Kernels, "kernels", cfg.Kernels, "also measure matrix products by themselves")
	f.BoolVar(&cfg.Experts, "experts", cfg.Experts, "also measure layers of experts by themselves")
	cmd.RunE = func(cmd *cobra.Command, _ []string) (err error) {
		dtype, ok := map[string]gpu.DType{"bf16": gpu.BF16, "f32": gpu.F32}[compute]
		if !ok {
			return fmt.Errorf("--compute is %q; expected bf16 or f32", compute)
		}
		if cfg.Weights, ok = benchWeights(quant); !ok {
			return fmt.Errorf("--quant is %q; expected off, fp8, q8, q4 or a quantized type such as i4_128", quant)
		}
		if err := cfg.Validate(); err != nil {
			return err
		}
		cfg.Progress = out.progress(cmd)
		dev, err := cuda.Open(cuda.Options{Compute: dtype})
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, dev.Close()) }()
		for op, name := range selected {
			if err := dev.Select(gpu.Op(op), name); err != nil {
				return err
			}
		}
		r, err := bench.RunGPU(cmd.Context(), dev, cfg)
		if err != nil {
			return err
		}
		return out.print(cmd, r, true)
	}
	return cmd
}

// benchWeights is the type of weights that a value of --quant names.
func benchWeights(quant string) (gpu.DType, bool) {
	if t, ok := map[string]gpu.DType{"off": gpu.BF16, "fp8": gpu.E4M3, "q8": gpu.Q8_0, "q4": gpu.Q4_1}[quant]; ok {
		return t, true
	}
	t := gpu.DTypeByName(quant)
	return t, t.Quantized()
}
