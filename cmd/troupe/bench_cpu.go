package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/bench"
)

func newBenchCPUCommand() *cobra.Command {
	cfg := bench.DefaultCPUConfig()
	cmd := &cobra.Command{Use: "cpu", Short: "Measure the CPU against its ceilings, or against llama.cpp.", Args: cobra.NoArgs,
		Long: "Measure the CPU device by itself. First matrix products of every type, each in turn\n" +
			"with the loop that it cannot outrun; then prefill, decode and batched decode of\n" +
			"models: GGUF files, or ones of a shape whose weights are drawn. With --peer,\n" +
			"llama.cpp's llama-bench, and llama-batched-bench beside it, run the same files in\n" +
			"turn, and ratios are those of neighbouring runs.",
		Example: "  troupe bench cpu\n" +
			"  troupe bench cpu --model my-q4.gguf --kernels=false\n" +
			"  troupe bench cpu --peer llama-bench=$HOME/llama.cpp/build/bin/llama-bench"}
	out := addBenchOutput(cmd)
	kv, compute := "bf16", "f32"
	f := cmd.Flags()
	f.StringArrayVar(&cfg.Models, "model", nil, "a GGUF `FILE`; may be repeated; no models are drawn then")
	f.StringSliceVar(&cfg.Shapes, "shape", cfg.Shapes, "shapes to draw: "+strings.Join(bench.GPUShapes(), ", "))
	f.StringSliceVar(&cfg.Types, "type", cfg.Types, "types of drawn weights: "+strings.Join(bench.CPUTypes(), ", "))
	f.StringVar(&cfg.Dir, "dir", "", "keep the files of drawn models in this folder")
	f.IntVar(&cfg.Threads, "threads", 0, "CPU threads that compute; 0 is all")
	f.StringVar(&kv, "kv-dtype", kv, "type of keys and values: f32, int8 or bf16, which an engine takes for all but f32 and f16 weights")
	f.StringVar(&compute, "compute", compute, "f32, or bf16, which rounds activations for products with bf16 weights, as llama.cpp does")
	f.IntVar(&cfg.Prompt, "prompt", cfg.Prompt, "tokens of a prefill; 0 leaves it out")
	f.IntVar(&cfg.Tokens, "tokens", cfg.Tokens, "tokens that each sequence decodes")
	f.IntSliceVar(&cfg.Batches, "batch", cfg.Batches, "sequences that decode together")
	f.IntSliceVar(&cfg.Depths, "depth", cfg.Depths, "tokens before those that a sequence alone decodes")
	f.IntVar(&cfg.Rounds, "rounds", cfg.Rounds, "how often everything runs")
	f.IntVar(&cfg.Retries, "retries", cfg.Retries, "repeat a round so often if others used more than 5 % of the processors")
	f.BoolVar(&cfg.Kernels, "kernels", cfg.Kernels, "also measure matrix products by themselves")
	f.StringVar(&cfg.Peer, "peer", "", "compare with llama-bench=`PATH`")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		dtype, ok := evalKVs[kv]
		if !ok {
			return usageError{fmt.Errorf("--kv-dtype is %q; expected f32, bf16 or int8", kv)}
		}
		cfg.KV = dtype
		if cfg.Compute = gpu.DTypeByName(compute); cfg.Compute != gpu.F32 && cfg.Compute != gpu.BF16 {
			return usageError{fmt.Errorf("--compute is %q; expected f32 or bf16", compute)}
		}
		if len(cfg.Models) > 0 && !cmd.Flags().Changed("shape") {
			cfg.Shapes = nil
		}
		if err := cfg.Validate(); err != nil {
			return usageError{err}
		}
		cfg.Progress = out.progress(cmd)
		r, err := bench.RunCPU(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		return out.print(cmd, r, true)
	}
	return cmd
}
