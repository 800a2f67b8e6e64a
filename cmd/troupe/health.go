package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/schemas"
)

const healthTimeMax = 2 * time.Second

func newHealthCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "health", Short: "Exit with 0 if the engine on this machine can take requests.", Args: cobra.NoArgs,
		Long: "Exit with 0 if the engine on this machine can take requests: for container probes,\n" +
			"where there is no shell. A node without a gateway is asked over NATS (--node).",
		Example: "  troupe health\n  troupe health --node replica-0 --nats nats://127.0.0.1:4222"}
	url := cmd.Flags().String("url", "http://127.0.0.1:8000", "base URL of the HTTP API")
	node := cmd.Flags().String("node", "", "ask this node over NATS instead; env: the value of TROUPE_NODE")
	live := cmd.Flags().Bool("live", false, "be content if it answers at all")
	address := addNATS(cmd.Flags(), natsURLDefault, natsDoc)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), healthTimeMax)
		defer cancel()
		name := *node
		if name == "env" {
			name = os.Getenv("TROUPE_NODE")
		}
		if !cmd.Flags().Changed("node") {
			return httpHealth(ctx, *url, *live)
		}
		if name == "" {
			return usageError{errors.New("--node is empty; expected the name of a node")}
		}
		conn, err := address.connect("health")
		if err != nil {
			return err
		}
		defer conn.Close()
		report, err := askNode(ctx, conn, schemas.NodeInfo.Subject(schemas.Instance(name)), &schemas.InfoRequest{})
		if err == nil && report.Draining && !*live {
			err = schemas.Errorf(schemas.KindUnavailable, "health", "%s is draining", name)
		}
		return err
	}
	return cmd
}

// httpHealth asks a gateway whether it is ready, or lives.
func httpHealth(ctx context.Context, url string, live bool) error {
	path := "/health/ready"
	if live {
		path = "/health"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+path, nil)
	if err != nil {
		return usageError{fmt.Errorf("--url: %w", err)}
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return schemas.Errorf(schemas.KindUnavailable, "health", "%v", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 512)) // the status alone says enough
		return schemas.Errorf(schemas.KindUnavailable, "health", "%s: %s %s", path, resp.Status, body)
	}
	return nil
}
