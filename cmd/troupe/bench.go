package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"
)

func newBenchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "bench", Short: "Measure the bus, serving, overload, a GPU or the CPU.", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(newBenchBusCommand(), newBenchServeCommand(), newBenchOverloadCommand(), newBenchGPUCommand(), newBenchCPUCommand())
	return cmd
}

// benchReport is what a benchmark found.
type benchReport interface {
	WriteText(w io.Writer) error
}

// benchOutput are the flags that all benchmarks share.
type benchOutput struct {
	json         *bool
	check, quiet bool
}

func addBenchOutput(cmd *cobra.Command) *benchOutput {
	o := &benchOutput{json: addJSON(cmd)}
	cmd.Flags().BoolVar(&o.check, "check", false, "exit with an error if a target is missed")
	cmd.Flags().BoolVar(&o.quiet, "quiet", false, "no progress on standard error")
	return o
}

// progress prints lines about what is being done.
func (o *benchOutput) progress(cmd *cobra.Command) func(string) {
	if o.quiet {
		return nil
	}
	return func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), dim(cmd.ErrOrStderr(), line)) }
}

// print writes the report, which says itself what was missed.
func (o *benchOutput) print(cmd *cobra.Command, r benchReport, passed bool) error {
	var err error
	if *o.json {
		err = printJSON(cmd.OutOrStdout(), r)
	} else {
		err = r.WriteText(cmd.OutOrStdout())
	}
	if err == nil && o.check && !passed {
		return errReported
	}
	return err
}
