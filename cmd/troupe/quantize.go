package main

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/gguf/quantizer"
	"github.com/troupe-engine/troupe/internal/modelstore"
)

func newQuantizeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "quantize MODEL -o FILE.gguf", Short: "Write a model with fewer bits per weight.", Args: cobra.ExactArgs(1),
		Long: "Write a model as a GGUF file with fewer bits per weight. MODEL is a name from\n" +
			"`troupe models`, a directory of safetensors or a GGUF file; tokenizer, chat\n" +
			"template and configuration go along, so that the result runs alone. Weights are\n" +
			"cut into blocks of 32 with a scale each, as --quant does while a model loads: q8\n" +
			"has 8 bits; q4 has 4 and a minimum in each block, and 8 for embeddings, output\n" +
			"projection and those to values, which q8 leaves as they are; q8_0, q4_1 and q4_0 are\n" +
			"of one type but for the ends; norms, biases and experts' routers stay as they are.\n" +
			"Scales are those with the least error. Memory does not grow with the model, and\n" +
			"FILE appears when it is complete. See docs/quantization.md.",
		Example: "  troupe quantize Qwen/Qwen3-0.6B -o qwen3-q8.gguf\n" +
			"  troupe quantize ./my-model -o my-q4.gguf --type q4 --keep '*.down_proj.weight'"}
	var o quantizer.Options
	f := cmd.Flags()
	out := f.StringP("output", "o", "", "the `FILE` to write, which ends in .gguf")
	f.StringVar(&o.Type, "type", "q8", "type of the weights: "+strings.Join(quantizer.Types(), ", "))
	f.StringArrayVar(&o.Keep, "keep", nil, "leave the tensors whose names match `PATTERN` as they are, as '*.v_proj.*'; may be repeated")
	f.BoolVar(&o.Requantize, "requantize", false, "convert weights that are quantized already too; that costs precision")
	f.BoolVar(&o.Force, "force", false, "replace FILE if it exists")
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		switch {
		case *out == "":
			return usageError{errors.New("no output file; -o FILE.gguf names it")}
		case !strings.HasSuffix(strings.ToLower(*out), ".gguf"):
			return usageError{fmt.Errorf("the output file %q does not end in .gguf, so --model would not take it", *out)}
		}
		m, err := modelstore.Find(args[0])
		if err != nil {
			return err
		}
		began := time.Now()
		show := newMeter(cmd.ErrOrStderr(), time.Now)
		o.Progress = func(p quantizer.Progress) {
			show.progress(p.BytesDone, p.Bytes, fmt.Sprintf("%s of %s  %d/%d tensors", size(p.BytesDone), size(p.Bytes), p.TensorsDone, p.Tensors))
		}
		r, err := quantizer.Run(cmd.Context(), m.Files, *out, o)
		show.clear()
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), r)
		}
		return printQuantized(cmd.OutOrStdout(), m, r, time.Since(began))
	}
	return cmd
}

func printQuantized(out io.Writer, m *modelstore.Model, r *quantizer.Result, took time.Duration) error {
	var types []string
	for _, t := range slices.Sorted(maps.Keys(r.Tensors)) {
		types = append(types, fmt.Sprintf("%d %s", r.Tensors[t], t))
	}
	fmt.Fprintf(out, "%s\n", shorten(m.Name, columnsMax))
	fmt.Fprintf(out, "  weights  %s, were %s: %.0f %%\n", size(r.BytesOut), size(r.BytesIn), 100*float64(r.BytesOut)/float64(max(1, r.BytesIn)))
	fmt.Fprintf(out, "  tensors  %s; %d as they were\n", strings.Join(types, ", "), r.Kept)
	fmt.Fprintf(out, "  file     %s in %s\n", size(r.FileBytes), took.Round(10*time.Millisecond))
	_, err := fmt.Fprintf(out, "  troupe serve --model %s\n", r.Path) // to be copied, so never shortened
	return err
}
