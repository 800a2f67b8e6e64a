package main

import (
	"errors"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/internal/conform"
)

// recordedQueuesMax is how many queues of a recording a policy is asked about.
const recordedQueuesMax = 200

func newConformCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "conform", Short: "Check that a process of your own keeps the engine's protocol.", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(newConformSchedulerCommand())
	return cmd
}

func newConformSchedulerCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "scheduler --subject NAME", Short: "Ask a scheduling policy and check its answers.", Args: cobra.NoArgs,
		Long: "Ask a scheduling policy about queues of every shape, and of a recording, and check\nthat each answer is an order of all sequences, the same when asked again, whatever\nthe order of the rows, and in time; and that it refuses what is no question. The\nexit code is 1 if a check fails.",
		Example: "  python3 examples/policies/python/policy.py my-sjf &\n  troupe conform scheduler --subject my-sjf\n" +
			"  troupe conform scheduler --subject my-sjf --recording today.troupe"}
	var o conform.Options
	f := cmd.Flags()
	address := addNATS(f, natsURLDefault, "the bus: any node of an engine, or any NATS server")
	recorded := f.String("recording", "", "ask about the queues of this recording too")
	f.StringVar(&o.Subject, "subject", "", "the policy's name, for inf.v1.policy.rank.NAME, or its whole subject")
	f.BoolVar(&o.JSON, "ask-json", false, "ask in JSON instead of msgpack")
	f.DurationVar(&o.Limit, "limit", 20*time.Millisecond, "time for an answer; engines allow "+scheduler.RankLimitDefault.String()+" unless told otherwise")
	f.IntVar(&o.Random, "random", 100, "random queues")
	f.Uint64Var(&o.Seed, "seed", 1, "of the random queues")
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if o.Subject == "" {
			return usageError{errors.New("--subject is missing: the policy's name, as --subject my-sjf")}
		}
		if o.Random < 0 || o.Random > 10_000 || o.Limit <= 0 {
			return usageError{errors.New("--random must be 0 to 10000, and --limit positive")}
		}
		if *recorded != "" {
			queues, err := conform.Recorded(*recorded, recordedQueuesMax)
			if err != nil {
				return err
			}
			o.Recorded = queues
		}
		conn, err := address.connect("conform", nats.MaxReconnects(-1))
		if err != nil {
			return err
		}
		defer conn.Close()
		report, err := conform.Scheduler(cmd.Context(), conn, o)
		if err != nil {
			return err
		}
		if *asJSON {
			err = printJSON(cmd.OutOrStdout(), report)
		} else {
			err = report.Print(cmd.OutOrStdout())
		}
		if err == nil && !report.Passed() {
			return errReported
		}
		return err
	}
	return cmd
}
