package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/schemas"
)

type recordCommand struct {
	nats     *engineAddress
	to       string
	duration time.Duration
	requests []string
	model    string
	sample   float64
	redact   bool
	stream   string
	from     string
	remove   bool
	limits   recording.StreamLimits
	json     *bool
}

func newRecordCommand() *cobra.Command {
	r := &recordCommand{}
	cmd := &cobra.Command{Use: "record --to FILE", Short: "Record what every actor of a running engine is told and decides.", Args: cobra.NoArgs,
		Long: "Record what every actor of a running engine is told and decides, until Ctrl-C\nor --for is over. A recording can be inspected, replayed and simulated. One that\nexists is continued. Recording begins a new epoch: sequences that run are\ncomputed again from their tokens, and the prefix cache starts empty."}
	f := cmd.Flags()
	r.nats = addNATS(f, natsURLDefault, natsDoc)
	f.StringVar(&r.to, "to", "", "the recording, as today.troupe")
	f.DurationVar(&r.duration, "for", 0, "how long, as 1m30s; 0 is until Ctrl-C")
	f.StringArrayVar(&r.requests, "request", nil, "only the entries about this request id; may be repeated")
	f.StringVar(&r.model, "model", "", "only schedulers that serve this model")
	f.Float64Var(&r.sample, "sample", 1, "only this share of the requests")
	f.BoolVar(&r.redact, "redact", false, "leave out texts, and exchange token ids so that what was said cannot be read while equal prefixes stay equal")
	f.StringVar(&r.stream, "stream", "", "record into this JetStream stream on the server's disk, from now on, and return; needs an engine with --store")
	f.Int64Var(&r.limits.Bytes, "stream-bytes", 0, "with --stream: bytes to keep; the oldest go first; 0 is no limit")
	f.DurationVar(&r.limits.Age, "stream-age", 0, "with --stream: how long to keep them; 0 is for ever")
	f.StringVar(&r.from, "from-stream", "", "write what this stream holds to the file, and return")
	f.BoolVar(&r.remove, "remove", false, "with --stream: end the recording and delete the stream")
	r.json = addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return r.run(cmd) }
	cmd.AddCommand(newInspectCommand())
	return cmd
}

func (r *recordCommand) filter() (recording.Filter, error) {
	f := recording.Filter{Model: r.model, Sample: r.sample}
	if r.sample <= 0 || r.sample > 1 {
		return f, usageError{fmt.Errorf("--sample is %g; expected more than 0, at most 1", r.sample)}
	}
	for _, text := range r.requests {
		id, err := recording.ParseRequest(text)
		if err != nil {
			return f, usageError{err}
		}
		f.Requests = append(f.Requests, id)
	}
	return f, nil
}

func (r *recordCommand) run(cmd *cobra.Command) error {
	filter, err := r.filter()
	if err != nil {
		return err
	}
	if r.stream != "" {
		return r.toStream(cmd)
	}
	if r.from != "" && (filter.Active() || r.redact || r.duration != 0) {
		return usageError{errors.New("--from-stream writes what the stream holds; --redact, --for and the filters are for recording live")}
	}
	if r.to == "" {
		return usageError{errors.New("--to is missing: the file to record to, as --to today.troupe")}
	}
	conn, err := r.nats.connect("record", nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if r.from != "" {
		return r.fromStream(ctx, cmd, conn)
	}
	screen := cmd.ErrOrStderr()
	progress := newMeter(screen, time.Now)
	rec, lost, err := recording.Start(ctx, conn, r.to, recording.Options{Source: r.nats.url, Filter: filter, Redact: r.redact, Warn: func(err error) {
		progress.clear()
		fmt.Fprintln(screen, "troupe: "+err.Error())
	}})
	if err != nil {
		return err
	}
	if lost > 0 {
		fmt.Fprintf(screen, "%s was cut off within its last %s, which are gone; the recording goes on after them\n", shorten(r.to, 30), size(lost))
	}
	fmt.Fprintln(screen, dim(screen, "recording to "+shorten(r.to, 40)+r.until()))
	began := time.Now()
	r.wait(ctx, rec, progress, began)
	progress.clear()
	failed := rec.Err()
	if closeErr := rec.Close(); failed == nil { // else it says the same again
		failed = closeErr
	}
	if failed != nil {
		return failed
	}
	s := rec.Stats()
	if *r.json {
		return printJSON(cmd.OutOrStdout(), struct {
			File    string  `json:"file"`
			Seconds float64 `json:"seconds"`
			recording.Stats
		}{r.to, time.Since(began).Seconds(), s})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s\n", recordLine(s, time.Since(began)))
	return err
}

// toStream begins or ends recording into a stream.
func (r *recordCommand) toStream(cmd *cobra.Command) error {
	if filter, err := r.filter(); err != nil {
		return err
	} else if filter.Active() || r.redact || r.to != "" || r.duration != 0 {
		return usageError{errors.New("--stream takes everything until it is removed; --to, --for, --redact and the filters are for files")}
	}
	conn, err := r.nats.connect("record", nats.MaxReconnects(-1))
	if err != nil {
		return err
	}
	defer conn.Close()
	out := cmd.OutOrStdout()
	if r.remove {
		if err := recording.RemoveStream(cmd.Context(), conn, r.stream); err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "stream %s and what it held are gone\n", shorten(r.stream, 40))
		return err
	}
	warn := func(err error) { fmt.Fprintln(cmd.ErrOrStderr(), "troupe: "+err.Error()) }
	if err := recording.RecordStream(cmd.Context(), conn, r.stream, r.limits, warn); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "recording into stream %s from now on\n\n  troupe record --from-stream %s --to today.troupe\n  troupe record --stream %s --remove\n",
		shorten(r.stream, 40), shorten(r.stream, 30), shorten(r.stream, 30))
	return err
}

// fromStream makes a file of a stream.
func (r *recordCommand) fromStream(ctx context.Context, cmd *cobra.Command, conn *nats.Conn) error {
	progress := newMeter(cmd.ErrOrStderr(), time.Now)
	warn := func(err error) { fmt.Fprintln(cmd.ErrOrStderr(), "troupe: "+err.Error()) }
	entries, err := recording.Export(ctx, conn, r.from, r.to, warn, func(done, total uint64) { progress.progress(int64(done), int64(total), "exported") })
	progress.clear()
	if err != nil {
		return err
	}
	if *r.json {
		return printJSON(cmd.OutOrStdout(), struct {
			File    string `json:"file"`
			Entries uint64 `json:"entries"`
		}{r.to, entries})
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d entries written to %s\n", entries, shorten(r.to, 50))
	return err
}

func (r *recordCommand) until() string {
	if r.duration > 0 {
		return fmt.Sprintf(" for %s, or until Ctrl-C", r.duration)
	}
	return " until Ctrl-C"
}

// wait shows how it goes until the time is over or the disk fails.
func (r *recordCommand) wait(ctx context.Context, rec *recording.Recorder, progress *meter, began time.Time) {
	if r.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, r.duration)
		defer cancel()
	}
	ticker := time.NewTicker(250 * time.Millisecond)
	defer ticker.Stop()
	for rec.Err() == nil {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			progress.status(recordLine(rec.Stats(), time.Since(began)))
		}
	}
}

func recordLine(s recording.Stats, took time.Duration) string {
	line := fmt.Sprintf("%s · %d entries · %s", took.Round(100*time.Millisecond), s.Entries, size(s.Bytes))
	if s.Lost > 0 {
		line += fmt.Sprintf(" · %d lost in %s", s.Lost, count(int(s.Gaps), "gap"))
	}
	return line
}

type inspectCommand struct {
	request string
	actor   string
	step    uint64
	after   time.Duration
	before  time.Duration
	repair  string
	json    *bool
}

func newInspectCommand() *cobra.Command {
	c := &inspectCommand{}
	cmd := &cobra.Command{Use: "inspect FILE", Short: "Tell what a recording holds, or the story of a request or a step.", Args: cobra.ExactArgs(1),
		Long: "Tell what a recording holds, or, with a filter, the story of a request, a step or\nan actor. Damage and gaps are named."}
	f := cmd.Flags()
	f.StringVar(&c.request, "request", "", "the story of this request: an id as in answers, or its hexadecimal digits")
	f.StringVar(&c.actor, "actor", "", "only what this actor did, as scheduler.replica0; all with another filter")
	f.Uint64Var(&c.step, "step", 0, "the story of this step: its rows, what memory granted, what came out")
	f.DurationVar(&c.after, "from", 0, "only from this time after the beginning on, as 1.5s")
	f.DurationVar(&c.before, "until", 0, "only until this time after the beginning")
	f.StringVar(&c.repair, "repair", "", "write what can be read of a damaged recording to this file")
	c.json = addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return c.run(cmd.OutOrStdout(), args[0]) }
	return cmd
}

func (c *inspectCommand) run(out io.Writer, path string) error {
	if c.repair != "" {
		return repairRecording(out, path, c.repair)
	}
	story := &recording.Story{Step: schemas.StepID(c.step), Actor: c.actor}
	if c.request != "" {
		var err error
		if story.Request, err = recording.ParseRequest(c.request); err != nil {
			return usageError{err}
		}
	}
	r, err := recording.Open(path, false)
	if err != nil {
		return err
	}
	defer r.Close()
	telling := c.request != "" || c.step != 0 || c.actor != "" || c.after != 0 || c.before != 0
	var first int64
	lines, gaps := 0, 0
	summary, err := recording.Summarize(r, func(e *recording.Entry) error {
		if first == 0 {
			first = e.UnixNs
		}
		if !telling {
			return nil
		}
		at := time.Duration(e.UnixNs - first)
		told := story.Tell(e)
		if all := r.Gaps(); len(all) > gaps { // before this entry
			told = append(story.Missing(e, all[gaps:]), told...)
			gaps = len(all)
		}
		for _, l := range told {
			if at < c.after || c.before != 0 && at > c.before {
				continue
			}
			if l.Actor != "" {
				lines++
			}
			if err := c.line(out, at, l); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("%s: %w; `troupe record inspect --repair OUT %s` saves what can be read", path, err, path)
	}
	if telling {
		if lines == 0 {
			return schemas.Errorf(schemas.KindNotFound, "inspect", "nothing in %s is about that", shorten(path, 40)).
				WithHint("`troupe record inspect %s` without filters says what it holds", path)
		}
		return nil
	}
	if *c.json {
		return printJSON(out, summary)
	}
	return printSummary(out, path, summary)
}

func (c *inspectCommand) line(out io.Writer, at time.Duration, l recording.Line) error {
	if *c.json {
		return printJSONLine(out, l)
	}
	_, err := fmt.Fprintf(out, "%11.3f ms  %-20s %s\n", float64(at)/1e6, printable(shorten(l.Actor, 20)), oneLine(l.Text))
	return err
}

func printSummary(out io.Writer, path string, s *recording.Summary) error {
	p := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	if s.Entries == 0 {
		p("%s  %s, no entries", shorten(path, 40), size(s.Bytes))
		return nil
	}
	p("%s  %s, %s from %s", shorten(path, 40), size(s.Bytes), s.To.Sub(s.From).Round(time.Millisecond), s.From.Local().Format("2006-01-02 15:04:05"))
	for i, m := range s.Parts {
		what := ""
		if m.Filter != "" {
			what += ", only " + m.Filter
		}
		if m.Redacted {
			what += ", redacted"
		}
		p("part %d: recorded by troupe %s from %s%s", i+1, m.Build, shorten(m.Source, 30), what)
		for _, src := range m.Schedulers {
			p("  scheduler.%s: %s on %s, policy %s, %d blocks of %d tokens", src.Info.Replica, shorten(src.Info.Model, 24), src.Info.Device, src.Info.Policy, src.Info.Blocks, src.Info.BlockSize)
		}
	}
	for _, l := range wrap(fmt.Sprintf("%d entries, %d requests (%d failed, %d unfinished), %d steps, %d tokens, %s",
		s.Entries, s.Requests, s.Failed, s.Unended, s.Steps, s.Tokens, count(s.Checkpoints, "checkpoint")), columnsMax) {
		p("%s", l)
	}
	rows := [][]string{{"ACTOR", "ENTRIES"}}
	for _, a := range s.Actors {
		rows = append(rows, []string{oneLine(shorten(a.Actor, 50)), fmt.Sprint(a.Entries)})
	}
	if err := table(out, rows); err != nil {
		return err
	}
	for _, g := range append(s.Gaps, s.Damage...) {
		for _, l := range wrap(g, columnsMax-2) {
			p("! %s", l)
		}
	}
	if !s.Ended {
		p("! its recorder was not ended but cut off")
	}
	return nil
}

// repairRecording copies what can be read.
func repairRecording(out io.Writer, from, to string) error {
	if _, err := os.Lstat(to); err == nil {
		return usageError{fmt.Errorf("%s exists; --repair writes a new file", to)}
	}
	r, err := recording.Open(from, true)
	if err != nil {
		return err
	}
	defer r.Close()
	entries, err := recording.Copy(r, to)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "%d entries saved to %s\n", entries, shorten(to, 50))
	for _, d := range r.Damage() {
		fmt.Fprintf(out, "! %s\n", d.Error())
	}
	for _, g := range r.Gaps() {
		for _, l := range wrap(g.String(), columnsMax-2) {
			fmt.Fprintf(out, "! %s\n", l)
		}
	}
	return nil
}
