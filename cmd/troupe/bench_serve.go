package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/bench"
)

// benchServe are the flags of `troupe bench serve`.
type benchServe struct {
	bench.ServeConfig
	engine     *settings
	out        *benchOutput
	goodput    []string
	save       bool
	resultFile string
	cpuProfile string
	address    engineAddress
}

func newBenchServeCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "serve", Short: "Put an engine under load, as vllm bench serve does.", Args: cobra.NoArgs,
		Long: "Put an engine under load. Flags, metrics and result files are those of\n" +
			"`vllm bench serve`. Without --base-url or --nats-url an engine is started in\n" +
			"this process, with the options of `troupe serve`.",
		Example: "  troupe bench serve --num-prompts 64 --max-concurrency 16 --ignore-eos\n" +
			"  troupe bench serve --compare-concurrency 1,16 --ignore-eos --check\n" +
			"  troupe bench serve --base-url http://10.0.0.7:8000 --request-rate 4 \\\n" +
			"    --goodput ttft:200,tpot:50 --save-result --result-filename run.json"}
	b := &benchServe{ServeConfig: bench.DefaultServeConfig(), out: addBenchOutput(cmd)}
	b.engine = addSettingsOf(cmd, b.Engine, "http", "nats-listen", "grace")
	b.addFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return b.run(cmd) }
	return cmd
}

func (b *benchServe) addFlags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.StringVar(&b.BaseURL, "base-url", "", "HTTP API of a running engine")
	f.StringVar(&b.NATSURL, "nats-url", "", "NATS of a running engine, for --transport nats")
	b.address.addKeys(f)
	f.StringVar(&b.Transport, "transport", b.Transport, "http or nats")
	f.StringVar(&b.Model, "served-model-name", "", "model in requests; default: what is served")
	f.StringVar(&b.Dataset, "dataset-name", b.Dataset, "random, or trace for the lengths and times of an Azure LLM inference trace")
	f.StringVar(&b.DatasetPath, "dataset-path", "", "CSV file of the trace")
	f.IntVar(&b.NumPrompts, "num-prompts", b.NumPrompts, "requests to send")
	f.Float64Var(&b.RequestRate, "request-rate", b.RequestRate, "requests per second; inf sends all at once, or as the trace says")
	f.Float64Var(&b.Burstiness, "burstiness", b.Burstiness, "shape of the gamma distribution of intervals; 1 is a Poisson process, less is burstier")
	f.IntVar(&b.MaxConcurrency, "max-concurrency", 0, "requests at once; 0 is no limit")
	f.IntVar(&b.RandomInputLen, "random-input-len", b.RandomInputLen, "tokens of a random prompt")
	f.IntVar(&b.RandomOutputLen, "random-output-len", b.RandomOutputLen, "tokens to generate")
	f.Float64Var(&b.RandomRangeRatio, "random-range-ratio", 0, "random lengths vary by this part of themselves; less than 1")
	f.IntVar(&b.VocabSize, "vocab-size", 0, "tokens to draw prompts from; 0 asks the engine")
	f.Float64Var(&b.Temperature, "temperature", 0, "0 is greedy")
	f.BoolVar(&b.IgnoreEOS, "ignore-eos", false, "generate the wanted tokens whatever the model says")
	f.BoolVar(&b.Ledger, "ledger", false, "ask where each request's time goes, which only Troupe tells; default: if the engine is started here")
	f.Uint64Var(&b.Seed, "seed", 0, "of prompts, lengths and arrivals")
	f.IntVar(&b.Warmup, "num-warmups", b.Warmup, "requests before the measured ones")
	f.StringSliceVar(&b.PercentileMetrics, "percentile-metrics", b.PercentileMetrics, "metrics to report: ttft, tpot, itl, e2el")
	f.Float64SliceVar(&b.MetricPercentiles, "metric-percentiles", b.MetricPercentiles, "percentiles of them")
	f.StringSliceVar(&b.goodput, "goodput", nil, "what a good request may take in ms, as ttft:200,tpot:50,e2el:5000")
	f.BoolVar(&b.save, "save-result", false, "write the result as JSON to a file")
	f.StringVar(&b.resultFile, "result-filename", "", "that file; default: bench-serve-<time>.json")
	f.IntSliceVar(&b.Compare, "compare-concurrency", nil, "run the load at these concurrencies, alternating, as 1,16")
	f.IntVar(&b.CompareRounds, "compare-rounds", b.CompareRounds, "rounds of each")
	f.StringVar(&b.cpuProfile, "cpu-profile", "", "write the CPU profile of the load (this process) to a file, for go tool pprof")
}

func (b *benchServe) run(cmd *cobra.Command) error {
	if err := b.prepare(cmd); err != nil {
		return err
	}
	var r benchReport
	var err error
	passed := true
	if len(b.Compare) > 0 {
		var c *bench.CompareReport
		if c, err = bench.RunCompare(cmd.Context(), b.ServeConfig); err == nil {
			r, passed = c, c.Passed == nil || *c.Passed
		}
	} else {
		var s *bench.ServeReport
		if s, err = bench.RunServe(cmd.Context(), b.ServeConfig); err == nil {
			r, passed = s, s.Failed == 0
		}
	}
	if err != nil {
		return err
	}
	if err := b.saveResult(r); err != nil {
		return err
	}
	return b.out.print(cmd, r, passed)
}

// prepare fills in the rest of the configuration.
func (b *benchServe) prepare(cmd *cobra.Command) error {
	if !cmd.Flags().Changed("log-level") {
		b.engine.LogLevel = "warn" // a line per request is not what is measured
	}
	if err := b.engine.load(cmd); err != nil {
		return err
	}
	b.Engine, b.Log, b.Progress = b.engine.Options, b.engine.logger(cmd.ErrOrStderr()), b.out.progress(cmd)
	if b.Model == "" && (b.BaseURL != "" || b.NATSURL != "") {
		b.Model = b.engine.Model
	}
	var err error
	if b.NATSOptions, err = b.address.options(); err != nil {
		return err
	}
	if !cmd.Flags().Changed("ledger") {
		b.Ledger = b.BaseURL == "" && b.NATSURL == ""
	}
	b.Goodput = map[string]float64{}
	for _, g := range b.goodput {
		metric, limit, _ := strings.Cut(g, ":")
		value, err := strconv.ParseFloat(limit, 64)
		if err != nil {
			return usageError{fmt.Errorf("--goodput %s: expected metric:milliseconds, as in ttft:200", g)}
		}
		b.Goodput[metric] = value
	}
	if b.cpuProfile != "" {
		file, err := os.Create(b.cpuProfile) // early: a wrong path should not cost a run
		if err != nil {
			return err
		}
		if err := file.Close(); err != nil {
			return err
		}
		b.Profile = func(profile []byte) error { return os.WriteFile(b.cpuProfile, profile, 0o644) }
	}
	return nil
}

func (b *benchServe) saveResult(r benchReport) error {
	if !b.save && b.resultFile == "" {
		return nil
	}
	name := b.resultFile
	if name == "" {
		name = "bench-serve-" + time.Now().Format("20060102-150405") + ".json"
	}
	body, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Clean(name), append(body, '\n'), 0o644)
}
