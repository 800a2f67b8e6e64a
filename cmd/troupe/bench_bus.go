package main

import (
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/bench"
)

func newBenchBusCommand() *cobra.Command {
	cfg := bench.DefaultBusConfig()
	var asJSON, check, quiet bool
	modes := []string{}
	for _, m := range cfg.Modes {
		modes = append(modes, string(m))
	}
	cmd := &cobra.Command{
		Use:   "bus",
		Short: "Measure what the split into actors costs against function calls",
		Long: `Measure what the split into actors costs.

The scheduler and memory actors decode on a simulated device that takes exactly
as long as it is told, and the same cores are called in a plain loop on the same
device. Modes: actors (in one process, as engines run), tapped (the same, with
every message also delivered to a subscriber over TCP) and remote (every message
over NATS). Rounds alternate, so that what else the machine does hits all alike.`,
		Example: `  troupe bench bus
  troupe bench bus --step 1ms --rounds 11 --json
  troupe bench bus --mode actors --check`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg.Modes = nil
			for _, m := range modes {
				cfg.Modes = append(cfg.Modes, bench.Mode(m))
			}
			cfg.Progress = progressTo(cmd, quiet)
			r, err := bench.RunBus(cmd.Context(), cfg)
			if err != nil {
				return err
			}
			if err := writeReport(cmd, r, asJSON); err != nil {
				return err
			}
			if check && !r.Passed {
				return errTargetsMissed
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.DurationSliceVar(&cfg.Steps, "step", cfg.Steps, "what the device takes for a step")
	f.IntSliceVar(&cfg.Depths, "depth", cfg.Depths, "pipeline depths; 2 is the engine's, 1 hides nothing")
	f.StringSliceVar(&modes, "mode", modes, "what to compare with the bare loop")
	f.IntVar(&cfg.Sequences, "sequences", cfg.Sequences, "sequences that decode")
	f.IntVar(&cfg.Rounds, "rounds", cfg.Rounds, "rounds of every mode")
	f.DurationVar(&cfg.PerRound, "per-round", cfg.PerRound, "how long one round of one mode measures")
	f.BoolVar(&asJSON, "json", false, "print the report as JSON")
	f.BoolVar(&check, "check", false, "exit with an error if a target is missed")
	f.BoolVar(&quiet, "quiet", false, "no progress on standard error")
	return cmd
}
