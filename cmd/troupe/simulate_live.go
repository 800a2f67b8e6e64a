package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/internal/simulate/reality"
	"github.com/troupe-engine/troupe/schemas"
)

// against are the flags of --against-live.
type against struct {
	on     bool
	engine troupe.Options // its Model, Device, Compute and RandomWeights
	loads  []float64
	rounds int
	others float64
	budget time.Duration
}

const (
	againstRequests = 100
	againstRounds   = 9
	againstOthers   = 0.03
	againstBudget   = 3 * time.Minute
)

func (a *against) addFlags(f *pflag.FlagSet) {
	f.BoolVar(&a.on, "against-live", false, "serve a sample of --trace with a live engine in this process, too, and compare")
	usual := troupe.DefaultOptions()
	f.StringVar(&a.engine.Model, "model", usual.Model, "with --against-live, what that engine serves; default: the model that ships with troupe")
	f.StringVar(&a.engine.Device, "device", usual.Device, "with --against-live, what it computes on: auto, cpu or cuda")
	f.StringVar(&a.engine.Compute, "compute", usual.Compute, "with --against-live, in which type: f32 or bf16")
	f.Int64Var(&a.engine.RandomWeights, "random-weights", usual.RandomWeights, "with --against-live, draw its weights from this seed; 0 reads them")
	f.Float64SliceVar(&a.loads, "loads", []float64{0.3, 0.6, 0.8}, "with --against-live, loads as parts of what the engine can do")
	f.IntVar(&a.rounds, "rounds", againstRounds, "with --against-live, how often each load runs")
	f.Float64Var(&a.others, "others-max", againstOthers, "with --against-live, what runs while others use more of the processors than this share runs again, twice at most")
	f.DurationVar(&a.budget, "budget", againstBudget, "with --against-live, nothing runs again later than this")
}

func (a *against) run(cmd *cobra.Command, s *simulateCommand) error {
	if s.trace == "" {
		return usageError{fmt.Errorf("--against-live needs --trace")}
	}
	t, err := s.workload(cmd)
	if err != nil {
		return err
	}
	opts := &settings{Options: troupe.DefaultOptions()}
	opts.HTTP, opts.NATSListen, opts.LogLevel = "none", "none", "warn"
	opts.Model, opts.Device, opts.Compute, opts.RandomWeights = a.engine.Model, a.engine.Device, a.engine.Compute, a.engine.RandomWeights
	e, err := opts.open(cmd)
	if err != nil {
		return err
	}
	defer e.Close()
	requests := s.limit
	if requests == 0 {
		requests = min(againstRequests, len(t.Requests))
	}
	r, err := reality.Run(cmd.Context(), e, reality.Config{Trace: t, Requests: requests, Loads: a.loads, Rounds: a.rounds, OthersMax: a.others, Budget: a.budget, Seed: s.seed,
		Progress: func(line string) { s.say(cmd, line) }})
	if err != nil {
		return schemas.AsError(err, "against live")
	}
	if *s.json {
		return printJSON(cmd.OutOrStdout(), r)
	}
	return r.WriteText(cmd.OutOrStdout())
}
