package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/schemas"
)

const drainAskEvery = 200 * time.Millisecond

func newDrainCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "drain NODE", Short: "Let a node's replica finish what it runs and take nothing new.",
		Long: "Let a node's replica finish what it runs and take nothing new, so that the node can\n" +
			"be stopped. `troupe nodes` lists the names. A gateway on the node goes on serving.",
		Example: "  troupe drain node-7f3a\n  troupe drain --resume node-7f3a",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 1 || len(args) == 0 && os.Getenv("TROUPE_NODE") == "" {
				return errors.New("expected the name of one node; `troupe nodes` lists them")
			}
			return nil
		}}
	address := addNATS(cmd.Flags(), natsURLDefault, natsDoc)
	resume := cmd.Flags().Bool("resume", false, "take requests again")
	wait := cmd.Flags().Duration("wait", 30*time.Minute, "how long running answers may take; 0 does not wait")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		conn, err := address.connect("drain")
		if err != nil {
			return err
		}
		defer conn.Close()
		name := os.Getenv("TROUPE_NODE") // of a container, whose hooks cannot name it
		if len(args) > 0 {
			name = args[0]
		}
		return drain(cmd, conn, schemas.Instance(name), *resume, *wait)
	}
	return cmd
}

func drain(cmd *cobra.Command, conn *nats.Conn, name schemas.Instance, resume bool, wait time.Duration) error {
	report, err := askNode(cmd.Context(), conn, schemas.DrainNode.Subject(name), &schemas.DrainRequest{Resume: resume})
	if err != nil {
		return err
	}
	if resume {
		fmt.Fprintf(cmd.OutOrStdout(), "%s takes requests\n", name)
		return nil
	}
	end := time.Now().Add(wait)
	// The first reports may be older than the request to drain.
	for quiet := 0; wait > 0 && quiet < 3; {
		select {
		case <-time.After(drainAskEvery):
		case <-cmd.Context().Done():
			return cmd.Context().Err()
		}
		if time.Now().After(end) {
			return schemas.Errorf(schemas.KindTimeout, "drain", "%s still has %d requests after %s", name, report.Busy, wait).
				WithHint("wait longer with --wait, or stop the node: what is left goes on elsewhere")
		}
		if report, err = askNode(cmd.Context(), conn, schemas.NodeInfo.Subject(name), &schemas.InfoRequest{}); err != nil {
			return err
		}
		if quiet++; report.Busy > 0 {
			quiet = 0
		}
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is drained: %d requests left\n", name, report.Busy)
	return nil
}

// askNode asks a node and decodes its report.
func askNode(ctx context.Context, conn *nats.Conn, subject string, request any) (*schemas.NodeReport, error) {
	body, err := schemas.Marshal(request)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, nodeAskTimeMax)
	defer cancel()
	m, err := conn.RequestWithContext(ctx, subject, body)
	if denied := conn.LastError(); err != nil && errors.Is(denied, nats.ErrPermissionViolation) {
		return nil, schemas.Errorf(schemas.KindUnauthorized, "ask node", "%v", denied).WithHint("the role of these keys may not do that: --keys with those of admin")
	}
	if err != nil {
		return nil, schemas.Errorf(schemas.KindNotFound, "ask node", "%s: %v", subject, err).WithHint("`troupe nodes` lists the nodes")
	}
	r := &schemas.NodeReport{}
	return r, schemas.Unmarshal(m.Data, r)
}
