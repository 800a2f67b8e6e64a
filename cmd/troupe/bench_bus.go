package main

import (
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/bench"
)

func newBenchBusCommand() *cobra.Command {
	cfg := bench.DefaultBusConfig()
	var modes []string
	for _, m := range cfg.Modes {
		modes = append(modes, string(m))
	}
	cmd := &cobra.Command{Use: "bus", Short: "Measure what the split into actors costs against function calls.", Args: cobra.NoArgs,
		Long: "Measure what the split into actors costs against function calls.\n\n" +
			"The scheduler and memory actors decode on a simulated device that takes exactly\n" +
			"as long as it is told, and the same cores are called in a plain loop on the same\n" +
			"device. Modes: actors (in one process, as engines run), tapped (the same, with\n" +
			"every message also delivered to a subscriber over TCP) and remote (every message\n" +
			"over NATS). Rounds alternate, so that what else the machine does hits all alike.",
		Example: "  troupe bench bus\n" +
			"  troupe bench bus --step 1ms --rounds 11 --json\n" +
			"  troupe bench bus --mode actors --check"}
	out := addBenchOutput(cmd)
	f := cmd.Flags()
	f.DurationSliceVar(&cfg.Steps, "step", cfg.Steps, "what the device takes for a step")
	f.IntSliceVar(&cfg.Depths, "depth", cfg.Depths, "pipeline depths; 2 is the engine's, 1 hides nothing")
	f.StringSliceVar(&modes, "mode", modes, "what to compare with the bare loop")
	f.IntVar(&cfg.Sequences, "sequences", cfg.Sequences, "sequences that decode")
	f.IntVar(&cfg.Rounds, "rounds", cfg.Rounds, "rounds of every mode")
	f.DurationVar(&cfg.PerRound, "per-round", cfg.PerRound, "how long one round of one mode measures")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg.Modes = nil
		for _, m := range modes {
			cfg.Modes = append(cfg.Modes, bench.Mode(m))
		}
		cfg.Progress = out.progress(cmd)
		r, err := bench.RunBus(cmd.Context(), cfg)
		if err != nil {
			return err
		}
		return out.print(cmd, r, r.Passed)
	}
	return cmd
}
