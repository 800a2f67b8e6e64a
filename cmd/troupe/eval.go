package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/internal/eval"
	"github.com/troupe-engine/troupe/internal/modelstore"
	"github.com/troupe-engine/troupe/internal/tokenizers"
)

// textBytesMax bounds the text of an evaluation.
const textBytesMax = 64 << 20

// evaluation is a command line of troupe eval.
type evaluation struct {
	model, against, text string
	quant, kv            string
	device, compute      string
	threads, tokensMax   int
	window, stride, step int
}

// evaluated is what it reports.
type evaluated struct {
	Model     string `json:"model"`
	Quant     string `json:"quant"`
	Against   string `json:"against,omitempty"`
	KV        string `json:"kv_dtype"`
	Text      string `json:"text"`
	TextBytes int    `json:"text_bytes"`
	Device    string `json:"device"`
	Compute   string `json:"compute"`
	Step      int    `json:"tokens_per_step"`
	*eval.Report
	Seconds float64 `json:"seconds"`
}

func newEvalCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "eval --text FILE", Short: "Measure a model's perplexity, and what quantizing costs.", Args: cobra.NoArgs,
		Long: "Measure a model's perplexity on a text, and with --quant or --against how far its\n" +
			"predictions are from a reference's: the ratio of the perplexities, the mean\n" +
			"Kullback–Leibler divergence and how often both hold the same token likeliest.\n" +
			"The text is read in windows that overlap, and every token is scored once.",
		Example: "  troupe eval --model my-model --text book.txt\n" +
			"  troupe eval --model my-model --text book.txt --quant q4\n" +
			"  troupe eval --model my-q4.gguf --against my-model --text book.txt --json"}
	var e evaluation
	f := cmd.Flags()
	f.StringVar(&e.model, "model", defaultmodel.Name, "a model's name, directory or GGUF file")
	f.StringVar(&e.text, "text", "", "the `FILE` to read, UTF-8")
	f.StringVar(&e.against, "against", "", "the `MODEL` to compare with; with --quant alone, it is the same one as it is stored")
	f.StringVar(&e.quant, "quant", "off", "quantize the model's weights while they load: off, q8, q4, or fp8 (on CUDA with --compute bf16)")
	f.StringVar(&e.kv, "kv-dtype", "auto", "type of the model's keys and values: f32, bf16, int8 (CPU) or, as the reference's, auto: the device's")
	f.StringVar(&e.device, "device", "auto", "auto, cpu or cuda")
	f.StringVar(&e.compute, "compute", "f32", "f32 or bf16: what activations are rounded to, the reference's too")
	f.IntVar(&e.threads, "threads", 0, "CPU threads that compute; 0 is all")
	f.IntVar(&e.window, "window", 1024, "tokens that are seen together, at most the model's context")
	f.IntVar(&e.stride, "stride", 0, "tokens between the begins of windows; 0 is half a window")
	f.IntVar(&e.step, "step", eval.StepMax, "tokens that are computed together; a device may multiply few by other means than many")
	f.IntVar(&e.tokensMax, "tokens", 0, "read only so many tokens of the text; 0 is all")
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := e.check(); err != nil {
			return usageError{err}
		}
		show := newMeter(cmd.ErrOrStderr(), time.Now)
		defer show.clear()
		r, err := e.run(cmd, show)
		if err != nil {
			return err
		}
		show.clear()
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), r)
		}
		return r.write(cmd.OutOrStdout())
	}
	return cmd
}

// evalQuants and evalKVs are the values of flags.
var (
	evalQuants = map[string]string{"off": model.QuantizeOff, "q8": model.QuantizeQ8, "q4": model.QuantizeQ4, "fp8": model.QuantizeFP8}
	evalKVs    = map[string]gpu.DType{"f32": gpu.F32, "bf16": gpu.BF16, "int8": gpu.I8}
)

func (e *evaluation) check() error {
	_, quantKnown := evalQuants[e.quant]
	_, kvKnown := evalKVs[e.kv] // auto is the type 0: the device's
	switch {
	case e.text == "":
		return errors.New("no text; --text FILE names it")
	case !quantKnown:
		return fmt.Errorf("--quant is %q; expected off, q8, q4 or fp8", e.quant)
	case !kvKnown && e.kv != "auto":
		return fmt.Errorf("--kv-dtype is %q; expected auto, f32, bf16 or int8", e.kv)
	case e.compute != "f32" && e.compute != "bf16":
		return fmt.Errorf("--compute is %q; expected f32 or bf16", e.compute)
	case e.step < 1 || e.step > eval.StepMax:
		return fmt.Errorf("--step is %d; expected 1 to %d", e.step, eval.StepMax)
	case !slices.Contains([]string{"auto", "cpu", "cuda"}, e.device):
		return fmt.Errorf("--device is %q; expected auto, cpu or cuda", e.device)
	case e.tokensMax < 0:
		return fmt.Errorf("--tokens is %d; expected 0 or more", e.tokensMax)
	}
	return nil
}

func (e *evaluation) run(cmd *cobra.Command, show *meter) (_ *evaluated, err error) {
	text, err := readText(e.text)
	if err != nil {
		return nil, err
	}
	found, err := modelstore.Find(e.model)
	if err != nil {
		return nil, err
	}
	r := &evaluated{Model: found.Name, Quant: e.quant, KV: e.kv, Text: e.text, TextBytes: len(text)}
	tokens, prefix, err := e.tokenize(found.Files, text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", found.Name, err)
	}
	reference := found
	switch {
	case e.against != "":
		if reference, err = modelstore.Find(e.against); err != nil {
			return nil, err
		}
		if other, _, err := e.tokenize(reference.Files, text); err != nil {
			return nil, fmt.Errorf("%s: %w", reference.Name, err)
		} else if !slices.Equal(other, tokens) {
			return nil, fmt.Errorf("eval: %s and %s cut the text into different tokens, so their predictions do not compare", found.Name, reference.Name)
		}
	case e.quant == "off" && e.kv == "auto":
		reference = nil
	}
	dev, err := troupe.OpenDevice(troupe.Options{Device: e.device, Compute: e.compute, Threads: e.threads})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	r.Device, r.Compute, r.Step = dev.Info().Description, e.compute, e.step
	c := eval.Config{Prefix: prefix, Window: e.window, Stride: e.stride, Step: e.step}
	began := time.Now()
	c.Progress = func(scored, total int) {
		show.progress(int64(scored), int64(total), fmt.Sprintf("%d of %s", scored, count(total, "token")))
	}
	m, err := e.load(dev, found.Files, &c, model.Options{Quantize: evalQuants[e.quant], KV: evalKVs[e.kv]})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	show.clear()
	for _, w := range m.Widened() {
		fmt.Fprintf(cmd.ErrOrStderr(), "%s stored as %s became %v: %s instead of %s\n", count(w.Matrices, "weight"), w.Why, w.As, size(w.Bytes), size(w.StoredBytes))
	}
	var against *model.Model
	if reference != nil {
		r.Against = reference.Name
		if against, err = e.load(dev, reference.Files, &c, model.Options{}); err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, against.Close()) }()
	}
	if r.Report, err = eval.Run(cmd.Context(), dev, m, against, tokens, c); err != nil {
		return nil, err
	}
	r.Seconds = time.Since(began).Seconds()
	return r, nil
}

// load loads a model that is sized for c, whose window and stride get what they are by default.
func (e *evaluation) load(dev gpu.Device, files fs.FS, c *eval.Config, o model.Options) (*model.Model, error) {
	spec, err := model.ReadSpec(files)
	if err != nil {
		return nil, err
	}
	c.Window = min(c.Window, spec.ContextMax-len(c.Prefix))
	c.Stride = cmp.Or(e.stride, max(1, c.Window/2))
	sized := c.Options()
	sized.Quantize, sized.KV = o.Quantize, o.KV
	return model.Load(dev, files, sized, nil)
}

// tokenize returns the text's tokens, and what the model wants before every text.
func (e *evaluation) tokenize(files fs.FS, text string) (tokens, prefix []int32, err error) {
	raw, err := fs.ReadFile(files, "tokenizer.json")
	if err != nil {
		return nil, nil, err
	}
	t, err := tokenizers.Load(raw)
	if err != nil {
		return nil, nil, err
	}
	if tokens, err = t.Encode(text, false); err != nil {
		return nil, nil, err
	}
	spec, err := model.ReadSpec(files)
	if err != nil {
		return nil, nil, err
	}
	around, err := t.Encode("", true)
	if err != nil {
		return nil, nil, err
	}
	if len(around) > 0 && slices.Contains(spec.Generation.BOS, around[0]) {
		prefix = around[:1]
	}
	if e.tokensMax > 0 {
		tokens = tokens[:min(len(tokens), e.tokensMax)]
	}
	return tokens, prefix, nil
}

func readText(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, textBytesMax+1))
	switch {
	case err != nil:
		return "", err
	case len(raw) > textBytesMax:
		return "", fmt.Errorf("%s is larger than %s", path, size(textBytesMax))
	case !utf8.Valid(raw):
		return "", fmt.Errorf("%s is not UTF-8 text", path)
	}
	return string(raw), nil
}

func (r *evaluated) write(w io.Writer) error {
	name := r.Model
	if r.Quant != "off" {
		name += ", " + r.Quant
	}
	fmt.Fprintf(w, "%s\n", shorten(name, columnsMax))
	fmt.Fprintf(w, "  text        %s, %s; %d tokens scored in %s of %d\n", shorten(r.Text, 24), size(int64(r.TextBytes)), r.Tokens, count(r.Windows, "window"), r.Window)
	fmt.Fprintf(w, "  perplexity  %.4f ± %.4f\n", r.Score.Perplexity, r.Score.StdErr)
	if d := r.Divergence; d != nil {
		fmt.Fprintf(w, "against %s\n", shorten(r.Against, columnsMax-8))
		fmt.Fprintf(w, "  perplexity  %.4f ± %.4f\n", r.Reference.Perplexity, r.Reference.StdErr)
		fmt.Fprintf(w, "  ratio       %.5f ± %.5f (%+.3f %%)\n", d.Ratio, d.RatioStdErr, 100*(d.Ratio-1))
		fmt.Fprintf(w, "  divergence  %.6f ± %.6f nats a token; p99 %.4f, largest %.3f\n", d.KL, d.KLStdErr, d.KLP99, d.KLMax)
		fmt.Fprintf(w, "  same top    %.2f %%\n", 100*d.SameTop)
	}
	_, err := fmt.Fprintf(w, "%.1f s on %s\n", r.Seconds, shorten(r.Device, columnsMax-16))
	return err
}
