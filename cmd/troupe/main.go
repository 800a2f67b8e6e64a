// Command troupe serves and runs language models with an engine made of actors on a NATS message bus.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// Exit codes.
const (
	exitFailed = 1 // what was asked for did not work, or a check did not pass
	exitUsage  = 2 // the command line makes no sense
	// exitDeviceLost: the device can no longer be used in this process; a new one may (EX_TEMPFAIL of sysexits.h).
	exitDeviceLost = 75
)

// errReported ends a command whose output has said already what is wrong.
var errReported = errors.New("troupe: reported")

// usageError is a mistake on the command line.
type usageError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // the second signal ends the process at once
	if info, ok := debug.ReadBuildInfo(); ok {
		bus.BuildVersion = cmp.Or(released(info), bus.BuildVersion)
	}
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run executes one command line and returns its exit code. ctx ends at the first signal to stop.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	cmd, err := root.ExecuteContextC(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errReported):
		return exitFailed
	}
	printError(stderr, err)
	var usage usageError
	if errors.As(err, &usage) {
		fmt.Fprintf(stderr, "  hint: %s --help\n", cmd.CommandPath())
		return exitUsage
	}
	if errors.Is(err, &schemas.Error{Kind: schemas.KindDeviceLost}) {
		return exitDeviceLost
	}
	return exitFailed
}

// printError writes an error on a line and what to try on the next.
func printError(w io.Writer, err error) {
	var e *schemas.Error
	if !errors.As(err, &e) {
		fmt.Fprintf(w, "troupe: %s\n", strings.TrimPrefix(err.Error(), "troupe: "))
		return
	}
	fmt.Fprintf(w, "troupe: %s\n", e.WithHint("").Error())
	if e.Hint != "" {
		fmt.Fprintf(w, "  hint: %s\n", e.Hint)
	}
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{Use: "troupe", Short: "An LLM inference engine of actors on a NATS message bus.",
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	root.AddCommand(newServeCommand(), newRunCommand(), newChatCommand(), newBatchCommand(), newModelsCommand(), newPullCommand(), newQuantizeCommand(), newEvalCommand(), newVerifyCommand(), newPolicyCommand(), newFaultsCommand(), newKernelsCommand(), newConformCommand(), newRecordCommand(), newReplayCommand(),
		newSchemaCommand(), newDoctorCommand(), newBenchCommand(), newAttachCommand(), newNodesCommand(), newClusterCommand(), newDrainCommand(), newKeysCommand(), newHealthCommand(), newSimulateCommand(), newProfileCommand(), newVersionCommand(), newReplicaCommand())
	root.SetUsageTemplate(strings.NewReplacer(
		".LocalFlags.FlagUsages", "(.LocalFlags.FlagUsagesWrapped 80)",
		".InheritedFlags.FlagUsages", "(.InheritedFlags.FlagUsagesWrapped 80)").Replace(root.UsageTemplate()))
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.InitDefaultCompletionCmd()
	markUsageErrors(root)
	fitHelp(root)
	return root
}

// fitHelp breaks the lines of the long help of c and its subcommands anew; indented lines stay as they are.
func fitHelp(c *cobra.Command) {
	var out, paragraph []string
	end := func() {
		if paragraph != nil {
			out = append(out, wrap(strings.Join(paragraph, " "), columnsMax)...)
			paragraph = nil
		}
	}
	for _, line := range strings.Split(c.Long, "\n") {
		if line != "" && line[0] != ' ' && line[0] != '\t' {
			paragraph = append(paragraph, line)
			continue
		}
		end()
		out = append(out, line)
	}
	end()
	c.Long = strings.Join(out, "\n")
	for _, sub := range c.Commands() {
		fitHelp(sub)
	}
}

// markUsageErrors makes wrong arguments of c and its subcommands usageErrors.
func markUsageErrors(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usageError{err}
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		markUsageErrors(sub)
	}
}
