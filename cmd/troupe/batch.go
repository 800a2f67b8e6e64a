package main

import (
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/batch"
)

// batchCommand are the flags of `troupe batch`.
type batchCommand struct {
	batch.Config
	engine *settings
	server string
	nats   *engineAddress
	apiKey string
	asJSON *bool
}

func newBatchCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "batch IN.jsonl -o OUT.jsonl", Short: "Answer a file of requests in OpenAI's batch format.",
		Long: "Answer a file of requests in OpenAI's batch format: with an engine of its own,\n" +
			"or with one that runs already. Run the same command again to go on after an\n" +
			"interruption of any kind; no line is lost or answered twice. docs/batch.md tells\n" +
			"the format and the codes of errors.\n\n" +
			"The exit code is 0 if every line was answered, and 1 if a line failed or the run\n" +
			"ended early.",
		Example: "  troupe batch requests.jsonl -o answers.jsonl\n" +
			"  troupe batch requests.jsonl -o answers.jsonl --retry-failed\n" +
			"  troupe batch requests.jsonl -o answers.jsonl --server http://10.0.0.7:8000",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return fmt.Errorf("there are %d arguments; expected the input's name", len(args))
			}
			return nil
		}}
	b := &batchCommand{engine: addSettings(cmd, servingFlags...)}
	f := cmd.Flags()
	f.StringVarP(&b.Output, "output", "o", "", "where answers go; what is there already is not asked again")
	f.StringVar(&b.server, "server", "", "use the engine at this HTTP URL, as http://127.0.0.1:8000")
	b.nats = addNATS(f, "", natsRemoteDoc)
	f.StringVar(&b.apiKey, "api-key", "", "API key for --server, or @ and a file that holds it")
	f.BoolVar(&b.Ordered, "ordered", false, "answers in the order of the input, not as they come")
	f.BoolVar(&b.RetryFailed, "retry-failed", false, "ask again what failed in an earlier run")
	f.IntVar(&b.Window, "window", 0, "requests at once; 0 is what fills the engine's batch")
	f.IntVar(&b.LineBytesMax, "line-bytes-max", batch.LineBytesDefault, "longer lines fail")
	f.DurationVar(&b.Patience, "patience", batch.PatienceDefault, "how long to wait for an engine that does not answer")
	f.DurationVar(&b.RequestTimeMax, "request-time-max", batch.RequestTimeDefault, "how long one answer may take")
	b.asJSON = addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		b.Input = args[0]
		return b.run(cmd)
	}
	return cmd
}

func (b *batchCommand) run(cmd *cobra.Command) error {
	switch {
	case b.Output == "":
		return usageError{fmt.Errorf("--output is missing: where should the answers go?")}
	case b.server != "" && b.nats.url != "":
		return usageError{fmt.Errorf("--server and --nats are both given; expected one of them")}
	}
	if !cmd.Flags().Changed("log-level") {
		b.engine.LogLevel = "warn"
	}
	if err := b.engine.load(cmd); err != nil {
		return err
	}
	progress := newBatchProgress(cmd.ErrOrStderr())
	b.Progress, b.ProgressEvery = progress.show, progress.every
	work, err := batch.Open(b.Config) // first: a wrong file should not cost the start of an engine
	if err != nil {
		return err
	}
	defer work.Close()
	var transport batch.Transport // none is needed when nothing is left
	if work.Left() > 0 {
		var closeEngine func() error
		if transport, closeEngine, err = b.connect(cmd); err != nil {
			return err
		}
		defer func() { _ = closeEngine() }() // the output is complete without it
	}
	summary, err := work.Run(cmd.Context(), transport)
	progress.end()
	if printErr := b.print(cmd, summary); err == nil {
		err = printErr
	}
	if err == nil && summary.Failed > 0 {
		return errReported
	}
	return err
}

// connect returns the way to the engine, which it starts if none is named.
func (b *batchCommand) connect(cmd *cobra.Command) (batch.Transport, func() error, error) {
	switch {
	case b.server != "":
		key, err := readAPIKey(b.apiKey)
		if err != nil {
			return nil, nil, err
		}
		t, err := batch.NewHTTP(b.server, key)
		if err != nil {
			return nil, nil, err
		}
		return t, func() error { t.Close(); return nil }, nil
	case b.nats.url != "":
		conn, err := b.nats.connect("batch", nats.MaxReconnects(-1))
		if err != nil {
			return nil, nil, err
		}
		return batch.NewNATS(conn), func() error { conn.Close(); return nil }, nil
	}
	b.engine.RequestsMax, b.engine.WaitMax = batch.WindowMax, 0 // it is the window that bounds them
	conn, closeEngine, err := b.engine.openPrivate(cmd, "batch")
	if err != nil {
		return nil, nil, err
	}
	return batch.NewNATS(conn), closeEngine, nil
}

// print reports what became of the batch.
func (b *batchCommand) print(cmd *cobra.Command, s *batch.Summary) error {
	out := cmd.OutOrStdout()
	if *b.asJSON {
		return printJSON(out, s)
	}
	rows := [][]string{
		{"answered", fmt.Sprintf("%s of %s lines%s", grouped(s.Done-s.Failed), grouped(s.Lines), already(s))},
		{"failed", grouped(s.Failed) + reasons(s)},
		{"time", fmt.Sprintf("%.1f s, %.1f lines/s", s.Seconds, s.LinesPerSec)},
		{"tokens", fmt.Sprintf("%s in, %s out, %.0f out/s", grouped(s.Usage.Prompt), grouped(s.Usage.Completion), s.TokensPerSec)},
		{"output", shorten(printable(b.Output), columnsMax-10)},
	}
	if err := table(out, rows); err != nil {
		return err
	}
	for _, m := range s.FirstFailed {
		fmt.Fprintf(cmd.ErrOrStderr(), "  %s\n", shortenEnd(oneLine(m), columnsMax-2))
	}
	if s.Failed > 0 && !b.RetryFailed {
		fmt.Fprintln(cmd.ErrOrStderr(), "  hint: --retry-failed asks failed lines again")
	}
	return nil
}

func already(s *batch.Summary) string {
	var parts []string
	if s.Resumed > 0 {
		parts = append(parts, grouped(s.Resumed)+" done before")
	}
	if s.Retried > 0 {
		parts = append(parts, grouped(s.Retried)+" asked again")
	}
	if parts == nil {
		return ""
	}
	return " (" + strings.Join(parts, ", ") + ")"
}

// reasons names what this run's failures were, as far as the line has room.
func reasons(s *batch.Summary) string {
	var b strings.Builder
	for i, f := range s.Failures {
		next := fmt.Sprintf(", %s %s", grouped(f.Count), f.Reason)
		if i == 0 {
			next = ": " + next[2:]
		}
		if b.Len()+len(next) > columnsMax-25 {
			return b.String() + ", …"
		}
		b.WriteString(next)
	}
	return b.String()
}
