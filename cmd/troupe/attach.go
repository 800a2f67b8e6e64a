package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe"
)

func newAttachCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "attach nats-leaf://HOST:7422", Short: "Join a running engine with actors of this machine.", Args: oneAddress,
		Long: "Join a running engine (troupe serve --leaf) with actors of this machine: a replica,\n" +
			"which takes its share of the requests, one of its parts (scheduler, compute), or a\n" +
			"gateway, which takes them from clients.\n" +
			"After a signal to stop, running answers may finish within --grace; what is left\n" +
			"goes on elsewhere. See docs/cluster.md.",
		Example: "  troupe attach nats-leaf://hub:7422 --model ./my-model\n" +
			"  troupe attach nats-leaf://hub:7422 --actors compute --model ./my-model\n" +
			"  troupe attach nats-leaf://hub:7422 --actors gateway \\\n" +
			"    --http 0.0.0.0:8000 --api-keys @keys.txt"}
	defaults := troupe.DefaultOptions()
	defaults.Actors, defaults.NATSListen = troupe.RoleReplica, "127.0.0.1:0"
	s := addSettingsOf(cmd, defaults, "attach")
	asJSON := cmd.Flags().Bool("json", false, "print the banner as JSON")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		for _, address := range args {
			if err := cmd.Flags().Set("attach", address); err != nil {
				return usageError{err}
			}
		}
		if err := s.load(cmd); err != nil {
			return err
		}
		if s.Attach == "" {
			return usageError{errors.New("there is no address; expected one such as nats-leaf://hub:7422")}
		}
		return serve(cmd, s, demo{}, *asJSON)
	}
	return cmd
}

// oneAddress takes the address of other nodes, which TROUPE_ATTACH or a file may tell instead.
func oneAddress(_ *cobra.Command, args []string) error {
	if len(args) > 1 || len(args) == 1 && !strings.Contains(args[0], "://") {
		return fmt.Errorf("the arguments are %q; expected one address such as nats-leaf://hub:7422", args)
	}
	return nil
}
