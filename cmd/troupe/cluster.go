package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/cluster"
	"github.com/troupe-engine/troupe/internal/routing"
	"github.com/troupe-engine/troupe/schemas"
)

// clusterCommand is what the cluster commands share.
type clusterCommand struct {
	address *engineAddress
	json    *bool
}

func newClusterCommand() *cobra.Command {
	c := &clusterCommand{}
	cmd := &cobra.Command{Use: "cluster", Short: "Show or make decisions for all nodes that work together.", Args: cobra.NoArgs,
		Long: "Show or make decisions for all nodes that work together. They are kept by JetStream\n(serve --store DIR), on three servers where three form a NATS cluster.",
		Example: "  troupe cluster\n  troupe cluster routing least-loaded\n" +
			"  troupe cluster place gpu-7 ./my-model  # what `attach --node gpu-7` serves"}
	c.address = addNATS(cmd.PersistentFlags(), natsURLDefault, natsDoc)
	c.json = cmd.PersistentFlags().Bool("json", false, "print JSON")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return c.do(cmd, "", "") }
	cmd.AddCommand(c.routing(), c.place())
	return cmd
}

func (c *clusterCommand) routing() *cobra.Command {
	cmd := &cobra.Command{Use: "routing POLICY", Short: "Choose how all gateways choose between replicas.", Args: cobra.MaximumNArgs(1),
		Long: "Choose how all gateways choose between replicas, from now on and when they start,\nwhatever their --routing says."}
	reset := cmd.Flags().Bool("reset", false, "let each gateway do as its --routing says")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (len(args) == 1) == *reset {
			return usageError{fmt.Errorf("expected a policy or --reset; policies are %v", routing.Policies())}
		}
		policy := ""
		if len(args) == 1 {
			policy = args[0]
			if _, err := routing.NewPolicy(policy, 0); err != nil {
				return usageError{err}
			}
		}
		return c.do(cmd, cluster.KeyRouting, policy)
	}
	return cmd
}

func (c *clusterCommand) place() *cobra.Command {
	cmd := &cobra.Command{Use: "place NODE MODEL", Short: "Say which model a node serves when it starts without --model.", Args: cobra.RangeArgs(1, 2),
		Long: "Say which model a node serves when it starts without --model: a name or a directory\non that node. One that runs goes on with what it has until it is restarted."}
	reset := cmd.Flags().Bool("reset", false, "leave it to the node")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (len(args) == 2) == *reset {
			return usageError{fmt.Errorf("expected a node and a model, or a node and --reset")}
		}
		return c.do(cmd, cluster.PlacementPrefix+args[0], append(args, "")[1])
	}
	return cmd
}

// do makes a decision, unless key is "", and shows all.
func (c *clusterCommand) do(cmd *cobra.Command, key, value string) error {
	conn, err := c.address.connect("cluster")
	if err != nil {
		return err
	}
	defer conn.Close()
	state, err := cluster.OpenState(cmd.Context(), conn, key != "")
	if err != nil && (key != "" || schemas.AsError(err, "cluster").Kind != schemas.KindNotFound) {
		return err
	}
	if err != nil {
		fmt.Fprintln(cmd.OutOrStdout(), "nothing is decided: each node does as its options say")
		return nil
	}
	if key != "" {
		if err := state.Set(cmd.Context(), key, value); err != nil {
			return err
		}
	}
	decisions, servers, err := state.All(cmd.Context())
	if err != nil {
		return err
	}
	if *c.json {
		return printJSON(cmd.OutOrStdout(), struct {
			Servers   int               `json:"servers"`
			Decisions map[string]string `json:"decisions"`
		}{servers, decisions})
	}
	rows := [][]string{{"DECISION", "VALUE"}}
	if policy := decisions[cluster.KeyRouting]; policy != "" {
		rows = append(rows, []string{"routing", policy})
	}
	for _, node := range cluster.Nodes(decisions) {
		rows = append(rows, []string{"place " + shorten(node, 30), shorten(decisions[cluster.PlacementPrefix+node], 40)})
	}
	if err := table(cmd.OutOrStdout(), rows); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "kept on %s\n", count(servers, "server"))
	return nil
}
