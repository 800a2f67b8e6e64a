package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

// errTargetsMissed makes --check fail.
var errTargetsMissed = errors.New("a target was missed; the report above says which")

func newBenchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure the bus and the engine"}
	cmd.AddCommand(newBenchBusCommand())
	return cmd
}

// report is what a benchmark found.
type report interface {
	WriteText(w io.Writer) error
}

// writeReport prints r as text or JSON.
func writeReport(cmd *cobra.Command, r report, asJSON bool) error {
	if !asJSON {
		return r.WriteText(cmd.OutOrStdout())
	}
	e := json.NewEncoder(cmd.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// progressTo prints lines about what is being done; nothing if quiet.
func progressTo(cmd *cobra.Command, quiet bool) func(string) {
	if quiet {
		return nil
	}
	return func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), line) }
}
