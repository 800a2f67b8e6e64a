package main

import (
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/internal/bench"
)

func newBenchOverloadCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "overload", Short: "Offer an engine many times what it can do.", Args: cobra.NoArgs,
		Long: "Find an engine's peak, then offer it many times the rate that it sustains,\n" +
			"whether it answers or not, and calm down again: what remains of the\n" +
			"throughput, how fast the rest is refused, and how soon it admits again. Without\n" +
			"--base-url an engine is started in a process of its own, with the options of\n" +
			"troupe serve; on Linux it and the load generator then have processors of their\n" +
			"own, if there are two.",
		Example: "  troupe bench overload --check\n" +
			"  troupe bench overload --base-url http://10.0.0.7:8000 --factor 20"}
	defaults := troupe.DefaultOptions()
	defaults.WaitMax = overloadWaitMax
	c, out, engine := bench.DefaultOverloadConfig(), addBenchOutput(cmd), addSettingsOf(cmd, defaults, "http", "nats-listen", "grace")
	f := cmd.Flags()
	f.StringVar(&c.BaseURL, "base-url", "", "HTTP API of a running engine")
	f.StringVar(&c.ServeConfig.Model, "served-model-name", "", "model in requests; default: what is served")
	f.Float64Var(&c.Factor, "factor", c.Factor, "offered rate against the sustainable one")
	f.DurationVar(&c.Phase, "phase-time", c.Phase, "how long the peak, the overload and the calm before and after take")
	f.IntVar(&c.Rounds, "rounds", c.Rounds, "rounds of all that")
	f.IntVar(&c.MaxConcurrency, "max-concurrency", c.MaxConcurrency, "requests at once that find the peak")
	f.IntVar(&c.RandomInputLen, "random-input-len", c.RandomInputLen, "tokens of a random prompt")
	f.IntVar(&c.RandomOutputLen, "random-output-len", c.RandomOutputLen, "tokens to generate")
	f.IntVar(&c.VocabSize, "vocab-size", 0, "tokens to draw prompts from; 0 asks the engine")
	f.BoolVar(&c.Ledger, "ledger", false, "ask where each request's time goes, which only Troupe tells; default: if the engine is started here")
	f.Uint64Var(&c.Seed, "seed", 0, "of prompts and arrivals")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !cmd.Flags().Changed("log-level") {
			engine.LogLevel = "warn" // a line per request is not what is measured
		}
		if err := engine.load(cmd); err != nil {
			return err
		}
		c.Progress = out.progress(cmd)
		if !cmd.Flags().Changed("ledger") {
			c.Ledger = c.BaseURL == ""
		}
		if c.BaseURL == "" {
			own, err := bench.StartEngine(cmd.Context(), serveFlags(cmd, engine)...)
			if err != nil {
				return err
			}
			defer own.Close()
			c.BaseURL, c.Pinned = own.URL, own.Pinned
		}
		r, err := bench.RunOverload(cmd.Context(), c)
		if err != nil {
			return err
		}
		return out.print(cmd, r, r.Passed)
	}
	return cmd
}

// overloadWaitMax is a limit for which one sees the time to first token recover.
const overloadWaitMax = 500 * time.Millisecond

// serveFlags are the engine's options among a command's flags, as `troupe serve` takes them.
func serveFlags(cmd *cobra.Command, engine *settings) []string {
	flags := []string{"--log-level=" + engine.LogLevel, "--wait-max=" + engine.WaitMax.String()}
	options := newServeCommand().Flags()
	cmd.Flags().Visit(func(f *pflag.Flag) {
		if options.Lookup(f.Name) != nil && f.Name != "wait-max" && f.Name != "log-level" {
			flags = append(flags, "--"+f.Name+"="+f.Value.String())
		}
	})
	return flags
}
