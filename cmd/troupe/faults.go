package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/schemas"
)

// faultsCommand is what the commands about faults share.
type faultsCommand struct {
	nats *engineAddress
	node string
	json *bool
}

func newFaultsCommand() *cobra.Command {
	c := &faultsCommand{}
	cmd := &cobra.Command{Use: "faults", Short: "Show or switch the faults of a running engine.", Args: cobra.NoArgs,
		Long: "Show what a node does to its actors' messages: it may lose, delay, double, reorder\nor refuse them, deny KV blocks and slow the device down, from a seed. The node must\n" +
			"have been started with --enable-faults. See docs/research.md.",
		Example: "  troupe faults set --seed 7 'drop inf.v1.memory.> p=0.05'\n  troupe faults\n  troupe faults off"}
	c.nats = addNATS(cmd.PersistentFlags(), natsURLDefault, natsDoc)
	cmd.PersistentFlags().StringVar(&c.node, "node", "", "the node, as `troupe nodes` lists it; default: any")
	c.json = cmd.PersistentFlags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return c.ask(cmd, &schemas.FaultsRequest{}) }

	set := &cobra.Command{Use: "set RULE...", Short: "Switch faults on, in place of those before.", Args: cobra.MinimumNArgs(1),
		Long: "Switch faults on, in place of those before. A rule is a kind, a subject with NATS's\nwildcards and, in any order, p=PROBABILITY (1), delay=DURATION and count=AT-MOST:\n\n" +
			"  drop           lost; its sender waits for an attempt's time and repeats it\n" +
			"  delay          late by a part of the delay\n" +
			"  duplicate      it comes twice, the second time within the delay\n" +
			"  reorder        it comes after the next on its subject, or after the delay\n" +
			"  error          an error instead\n" +
			"  out_of_blocks  memory grants no KV block (on inf.v1.memory.reserve.*)\n" +
			"  slow_device    a step takes longer by the delay (on inf.v1.compute.execute.*)\n" +
			"  lose_device    the device is lost in a step, until a restart (likewise)\n\n" +
			"A reply's subject is the request's and .reply. The same seed makes the same\nmessages suffer.",
		Example: "  troupe faults set --seed 7 'error inf.v1.compute.*.replica0 p=0.01' \\\n    'slow_device inf.v1.compute.execute.> p=0.1 delay=30ms count=50'"}
	seed := set.Flags().Uint64("seed", 1, "what is drawn depends on it alone")
	set.RunE = func(cmd *cobra.Command, rules []string) error {
		plan := &schemas.FaultPlan{Seed: *seed}
		for _, text := range rules {
			r, err := schemas.ParseFaultRule(text)
			if err != nil {
				return usageError{err}
			}
			plan.Rules = append(plan.Rules, *r)
		}
		return c.ask(cmd, &schemas.FaultsRequest{Plan: plan})
	}
	off := &cobra.Command{Use: "off", Short: "Switch faults off.", Args: cobra.NoArgs}
	off.RunE = func(cmd *cobra.Command, _ []string) error { return c.ask(cmd, &schemas.FaultsRequest{Off: true}) }
	cmd.AddCommand(set, off)
	return cmd
}

func (c *faultsCommand) ask(cmd *cobra.Command, request *schemas.FaultsRequest) error {
	st, err := askActor[schemas.FaultsState](cmd.Context(), c.nats, "faults", schemas.Faults.Subject(schemas.Instance(c.node)), request)
	var e *schemas.Error
	if errors.As(err, &e) && e.Kind == schemas.KindUnavailable && e.Op == "faults" {
		return e.WithHint("faults must be enabled: troupe serve --enable-faults")
	}
	if err != nil {
		return err
	}
	if *c.json {
		return printJSON(cmd.OutOrStdout(), st)
	}
	return printFaults(cmd.OutOrStdout(), st)
}

// faultsShown is how many of the last faults are printed.
const faultsShown = 5

func printFaults(w io.Writer, st *schemas.FaultsState) error {
	if !st.On {
		_, err := fmt.Fprintf(w, "no faults on %s\n", shorten(printable(string(st.Node)), 60))
		return err
	}
	fmt.Fprintf(w, "faults of seed %d on %s:\n", st.Seed, shorten(printable(string(st.Node)), 40))
	for i, r := range st.Rules {
		fmt.Fprintf(w, "%2d  %s\n    %d of %d messages\n", i, shorten(printable(r.Rule.String()), columnsMax-4), r.Faults, r.Messages)
	}
	for _, f := range st.Recent[max(0, len(st.Recent)-faultsShown):] {
		delay := ""
		if f.DelayUs > 0 {
			delay = fmt.Sprintf(", %.1f ms", float64(f.DelayUs)/1e3)
		}
		fmt.Fprintf(w, "last: rule %d, %s\n", f.Rule, shorten(fmt.Sprintf("message %d of %s%s", f.Message, printable(f.Subject), delay), columnsMax-18))
	}
	return nil
}
