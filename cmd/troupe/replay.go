package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/modelstore"
	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/internal/replay"
	"github.com/troupe-engine/troupe/internal/simulate"
	"github.com/troupe-engine/troupe/schemas"
)

// errDiverged ends a replay that did not decide as recorded: the report says where.
var errDiverged = errors.New("the replay decides differently from the recording")

type replayCommand struct {
	actor    string
	policy   string
	eviction string
	model    string
	quant    string
	device   string
	threads  int
	step     bool
	with     string
	nats     *engineAddress
	conn     *nats.Conn // to the policy in another process
	into     replay.IntoConfig
	pace     string
	apiKey   string
	json     *bool
}

func newReplayCommand() *cobra.Command {
	c := &replayCommand{}
	cmd := &cobra.Command{Use: "replay FILE", Short: "Run recorded actors again and tell where they decide differently.", Args: cobra.ExactArgs(1),
		Long: "Run actors of a recording again: each is told what it was told, and every decision\nis compared with the recorded one. Nothing differs if nothing was changed; with\nanother --policy or --eviction, the first decision that differs is explained.\n\n" +
			"  scheduler   each scheduler's decisions\n  memory      what memory managers granted to them\n  engine      scheduler, memory and compute together: the model computes every\n              token again, and all are compared"}
	f := cmd.Flags()
	f.StringVar(&c.actor, "actor", "", "scheduler, memory or engine, or one of them by name, as scheduler.replica0; default: scheduler and memory")
	f.StringVar(&c.policy, "policy", "", "let the scheduler decide by this policy instead of the recorded one")
	f.StringVar(&c.with, "with", "", "let a policy in another process decide, as mine for inf.v1.policy.rank.mine; see troupe conform")
	c.nats = addNATS(f, natsURLDefault, "with --with: the bus where it answers")
	f.StringVar(&c.eviction, "eviction", "", "let memory evict by this policy instead of the recorded one")
	f.StringVar(&c.model, "model", "", "the model that the engine computes with, by name or directory; default: the recorded name")
	f.StringVar(&c.quant, "quant", "off", "as the recorded engine had it")
	f.StringVar(&c.device, "device", "auto", "auto, cpu or cuda")
	f.IntVar(&c.threads, "threads", 0, "CPU threads that compute; 0 is all")
	f.StringVar(&c.into.URL, "into", "", "send the recorded requests to the engine at this HTTP address, as http://127.0.0.1:8000, and compare the answers")
	f.StringVar(&c.pace, "speed", "1", "with --into: 1 is the recorded pace, 2 twice as fast, max as fast as --concurrency allows")
	f.IntVar(&c.into.Concurrency, "concurrency", 0, "with --into: requests at once; 0 is as recorded")
	f.StringVar(&c.apiKey, "api-key", "", "with --into: API key, or @ and a file that holds it")
	f.BoolVar(&c.step, "step", false, "step through a scheduler's events at the terminal")
	c.json = addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error { return c.run(cmd, args[0]) }
	return cmd
}

// replayReport is what replay prints as JSON.
type replayReport struct {
	File       string                    `json:"file"`
	Seconds    float64                   `json:"seconds"`
	Schedulers []*replay.SchedulerReport `json:"schedulers,omitempty"`
	Memories   []*replay.MemoryReport    `json:"memories,omitempty"`
	Engines    []*replay.EngineReport    `json:"engines,omitempty"`
	Gaps       []string                  `json:"gaps,omitempty"`
	WhatIf     map[string]*replay.WhatIf `json:"what_if,omitempty"` // by scheduler
}

func (c *replayCommand) run(cmd *cobra.Command, path string) error {
	if c.into.URL != "" {
		return c.runInto(cmd, path)
	}
	kind, instance, _ := strings.Cut(c.actor, ".")
	if !slices.Contains([]string{"", "scheduler", "memory", "engine"}, kind) {
		return usageError{fmt.Errorf("--actor is %q; expected scheduler, memory or engine, or one by name, as scheduler.replica0", c.actor)}
	}
	switch {
	case c.with != "" && c.policy != "":
		return usageError{errors.New("--with and --policy both say who decides")}
	case strings.HasPrefix(c.policy, scheduler.ExternalPrefix):
		return usageError{fmt.Errorf("--policy %s is in another process: say --with %s", c.policy, strings.TrimPrefix(c.policy, scheduler.ExternalPrefix))}
	case c.with != "":
		if err := c.attach(); err != nil {
			return err
		}
		defer c.conn.Close()
	}
	if c.policy != "" {
		if _, err := scheduler.PolicyByName(c.policy); err != nil {
			return usageError{err}
		}
	}
	names, err := schedulersOf(path)
	if err != nil {
		return err
	}
	if instance != "" {
		if !slices.Contains(names, "scheduler."+instance) {
			return usageError{fmt.Errorf("the recording has no checkpoint of %s; it has %s", c.actor, strings.Join(names, ", "))}
		}
		names = []string{"scheduler." + instance}
	}
	if c.step {
		return c.stepThrough(cmd.InOrStdin(), cmd.OutOrStdout(), path, names[0])
	}
	report := &replayReport{File: path}
	var takers []func(*recording.Entry) error
	var closers []func() error
	for _, name := range names {
		if kind == "" || kind == "scheduler" {
			s := c.scheduler(name)
			report.Schedulers = append(report.Schedulers, &s.Report)
			takers = append(takers, s.Take)
		}
		if kind == "memory" || kind == "" && c.policy == "" {
			m := &replay.Memory{Scheduler: name, Eviction: c.eviction}
			m.Report.Actor = "memory." + strings.TrimPrefix(name, "scheduler.")
			report.Memories = append(report.Memories, &m.Report)
			takers = append(takers, m.Take)
		}
		if kind == "engine" {
			e := &replay.Engine{Scheduler: name}
			e.Report.Actor = "engine of " + name
			e.Open = func(p *schemas.SchedulerCheckpoint, manifest *recording.Manifest) (replay.Compute, error) {
				return c.openCompute(cmd.Context(), manifest, p, &e.Report)
			}
			closers = append(closers, e.Close)
			report.Engines = append(report.Engines, &e.Report)
			takers = append(takers, e.Take)
		}
	}
	began := time.Now()
	err = c.feed(cmd.ErrOrStderr(), path, report, takers)
	for _, stop := range closers {
		err = errors.Join(err, stop())
	}
	if err != nil {
		return err
	}
	if err := c.predict(cmd.Context(), cmd.ErrOrStderr(), path, names, report); err != nil {
		return err
	}
	report.Seconds = time.Since(began).Seconds()
	if *c.json {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		err = printReplay(cmd.OutOrStdout(), report)
	}
	if err == nil && report.diverged() {
		err = errDiverged
	}
	return err
}

// attach chooses a policy in another process, whose answers the replay waits for.
func (c *replayCommand) attach() error {
	c.policy = scheduler.ExternalPrefix + c.with
	switch {
	case !strings.Contains(c.with, "?"):
		c.policy += "?wait&limit=1s"
	case !slices.Contains(strings.FieldsFunc(c.with, func(r rune) bool { return r == '?' || r == '&' }), "wait"):
		c.policy += "&wait"
	}
	var err error
	c.conn, err = c.nats.connect("replay", nats.MaxReconnects(-1))
	return err
}

// predict adds what other policies would have meant for clients.
func (c *replayCommand) predict(ctx context.Context, screen io.Writer, path string, names []string, report *replayReport) error {
	if c.policy == "" && c.eviction == "" {
		return nil
	}
	policy, ask := c.policy, simulate.Asker(nil)
	if c.with != "" {
		policy = scheduler.ExternalPrefix + c.with // an engine does not wait unless it is told to
		ask = askOver(c.conn)
	}
	report.WhatIf = map[string]*replay.WhatIf{}
	for _, name := range names {
		w, err := replay.Predict(ctx, path, name, policy, c.eviction, ask)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // too little was recorded to predict from; what was replayed stands
			fmt.Fprintf(screen, "no prediction for %s: %v\n", name, err)
			continue
		}
		report.WhatIf[name] = w
	}
	return nil
}

// scheduler makes a scheduler's replay.
func (c *replayCommand) scheduler(name string) *replay.Scheduler {
	s := &replay.Scheduler{}
	s.Report.Actor = name
	if c.policy != "" {
		s.Change = func(cfg *scheduler.Config) { cfg.Policy = c.policy }
	}
	if c.conn != nil {
		s.Ask = func(q *scheduler.Question) *schemas.RankOutcome {
			return scheduler.Ask(context.Background(), c.conn, q)
		}
	}
	return s
}

// schedulersOf lists the schedulers of a recording that can be replayed. Their checkpoints come early.
func schedulersOf(path string) (names []string, err error) {
	r, err := recording.Open(path, false)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	found := map[string]bool{}
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w; `troupe record inspect --repair OUT %s` saves what can be read", path, err, path)
		}
		if e.Scheduler != nil && e.Scheduler.Checkpoint != nil {
			found[e.Actor] = true
		}
	}
	for _, m := range r.Manifests() {
		if m.Partial {
			return nil, schemas.Errorf(schemas.KindInvalid, "replay", "%s has only %s: actors cannot be run again without what else they were told", shorten(path, 40), m.Filter).
				WithHint("record without --request, --sample and --model")
		}
	}
	if len(found) == 0 {
		return nil, schemas.Errorf(schemas.KindInvalid, "replay", "%s has no checkpoint of a scheduler: there is no place to start from", shorten(path, 40)).
			WithHint("`troupe record inspect %s` says what it holds", path)
	}
	return slices.Sorted(maps.Keys(found)), nil
}

// feed gives every entry to the takers.
func (c *replayCommand) feed(screen io.Writer, path string, report *replayReport, takers []func(*recording.Entry) error) error {
	r, err := recording.Open(path, false)
	if err != nil {
		return err
	}
	defer r.Close()
	progress := newMeter(screen, time.Now)
	defer progress.clear()
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		for _, take := range takers {
			if err := take(e); err != nil {
				return err
			}
		}
		progress.progress(r.Offset(), r.Size(), "replayed")
	}
	for _, g := range r.Gaps() {
		report.Gaps = append(report.Gaps, g.String())
	}
	for _, d := range r.Damage() {
		report.Gaps = append(report.Gaps, d.Error())
	}
	if !r.Ended() {
		report.Gaps = append(report.Gaps, "the recorder was not ended but cut off: what came last is missing")
	}
	return nil
}

// openCompute loads the model as the recorded engine had it.
func (c *replayCommand) openCompute(ctx context.Context, manifest *recording.Manifest, p *schemas.SchedulerCheckpoint, report *replay.EngineReport) (replay.Compute, error) {
	if manifest.Redacted {
		return nil, schemas.Errorf(schemas.KindInvalid, "replay", "the recording is redacted: there is nothing to compute tokens from").
			WithHint("its schedulers and memories can be replayed")
	}
	name := c.model
	if name == "" {
		name = p.Info.Model
	}
	found, err := modelstore.Find(name)
	if err != nil {
		return nil, err
	}
	if err := sameWeights(ctx, manifest, p.Info.Replica, found); err != nil {
		return nil, err
	}
	opts := troupe.DefaultOptions()
	opts.Device, opts.Threads = c.device, c.threads
	quantize := c.quant
	if quantize == "off" {
		quantize = model.QuantizeOff
	}
	var kv gpu.DType
	for _, s := range manifest.Schedulers {
		if s.Info.Replica == p.Info.Replica && s.Compute != nil && len(s.Compute.KV) > 0 {
			kv = gpu.DTypeByName(s.Compute.KV[0].DType)
			report.Model = s.Compute.Model
		}
	}
	dev, err := troupe.OpenDevice(opts)
	if err != nil {
		return nil, err
	}
	compute, err := replay.OpenCompute(dev, found.Name, found.Files, p, kv, quantize, zerolog.Nop())
	if err != nil {
		return nil, err
	}
	for _, s := range manifest.Schedulers {
		if s.Info.Replica == p.Info.Replica && s.Compute != nil && s.Compute.Parameters != compute.Parameters() {
			return nil, errors.Join(schemas.Errorf(schemas.KindInvalid, "replay", "the recording is of %s with %d parameters; %s has %d", s.Compute.Model, s.Compute.Parameters, found.Name, compute.Parameters()).
				WithHint("name the recorded model with --model"), compute.Close())
		}
	}
	return compute, nil
}

// sameWeights refuses a model that has the recorded one's name but other weights: every token would differ.
func sameWeights(ctx context.Context, manifest *recording.Manifest, replica schemas.Instance, found *modelstore.Model) error {
	for _, s := range manifest.Schedulers {
		if s.Info.Replica != replica || s.Compute == nil || s.Compute.Weights == "" {
			continue
		}
		digest, err := found.WeightsDigest(ctx)
		if err != nil {
			return err
		}
		if digest != s.Compute.Weights {
			return schemas.Errorf(schemas.KindInvalid, "replay", "the recording is of weights %s; %s has %s", shorten(s.Compute.Weights, 24), shorten(found.Path, 60), shorten(digest, 24)).
				WithHint("name the recorded model with --model")
		}
	}
	return nil
}

func (r *replayReport) diverged() bool {
	for _, s := range r.Schedulers {
		if len(s.Divergences) > 0 {
			return true
		}
	}
	for _, m := range r.Memories {
		if len(m.Divergences) > 0 {
			return true
		}
	}
	for _, e := range r.Engines {
		if len(e.Divergences) > 0 {
			return true
		}
	}
	return false
}

func printReplay(out io.Writer, r *replayReport) error {
	rows := [][]string{{"ACTOR", "RUNS", "EVENTS", "STEPS", "DIFFERENT", "SKIPPED"}}
	add := func(actor string, runs int, events uint64, steps string, different int, skipped uint64) {
		rows = append(rows, []string{shorten(actor, 34), fmt.Sprint(runs), fmt.Sprint(events), steps, fmt.Sprint(different), fmt.Sprint(skipped)})
	}
	for _, s := range r.Schedulers {
		add(s.Actor+" ("+s.Policy+")", s.Runs, s.Events, fmt.Sprint(s.Steps), len(s.Divergences), s.Skipped)
	}
	for _, m := range r.Memories {
		add(m.Actor+" ("+m.Eviction+")", m.Runs, m.Events, "", len(m.Divergences), m.Skipped)
	}
	for _, e := range r.Engines {
		add(e.Actor, e.Runs, e.Events, fmt.Sprint(e.Steps), len(e.Divergences), e.Skipped)
	}
	if err := table(out, rows); err != nil {
		return err
	}
	for _, e := range r.Engines {
		fmt.Fprintf(out, "%s: %d tokens computed again by %s\n", e.Actor, e.Tokens, e.Model)
		if e.Adopted > 0 {
			fmt.Fprintf(out, "%s: %d of its runs end early, where KV came from another replica: that is in no recording\n", e.Actor, e.Adopted)
		}
	}
	for _, s := range r.Schedulers {
		printDivergences(out, s.Actor, s.Divergences)
	}
	for _, m := range r.Memories {
		printDivergences(out, m.Actor, m.Divergences)
	}
	for _, e := range r.Engines {
		printDivergences(out, e.Actor, e.Divergences)
	}
	for _, name := range slices.Sorted(maps.Keys(r.WhatIf)) {
		if err := printWhatIf(out, name, r.WhatIf[name]); err != nil {
			return err
		}
	}
	for _, g := range r.Gaps {
		for _, l := range wrap(g, columnsMax-2) {
			fmt.Fprintln(out, "! "+l)
		}
	}
	_, err := fmt.Fprintf(out, "%.2f s\n", r.Seconds)
	return err
}

func times(n int) string {
	if n == 1 {
		return "once"
	}
	return fmt.Sprintf("%d times", n)
}

// printWhatIf compares two simulations of the recorded requests.
func printWhatIf(out io.Writer, name string, w *replay.WhatIf) error {
	a, b := w.Recorded, w.Other
	fmt.Fprintln(out)
	for _, l := range wrap(fmt.Sprintf("what it would have meant for clients, simulated over the %d requests of %s whose beginning and end are recorded, with step costs learned from %d steps (fit error %.1f%%):",
		a.Requests, name, w.Steps, 100*w.FitError), columnsMax) {
		fmt.Fprintln(out, l)
	}
	notes := ""
	if w.Changes > 0 {
		notes += fmt.Sprintf("the recorded policy changed %s: %s, under which most steps ran, stands for all. ", times(w.Changes), w.Policy)
	}
	if w.Gaps > 0 {
		notes += fmt.Sprintf("entries are missing in %s: load that came there is not simulated.", count(w.Gaps, "place"))
	}
	if notes != "" {
		for _, l := range wrap(notes, columnsMax) {
			fmt.Fprintln(out, l)
		}
	}
	fmt.Fprintln(out)
	label := func(r *simulate.Report) string { return strings.ToUpper(r.Config.Policy + ", " + r.Config.Eviction) }
	rows := [][]string{{"", label(a), label(b), "CHANGE"}}
	for _, m := range []struct {
		name string
		of   func(*simulate.Report) float64
	}{
		{"ttft p50 ms", func(r *simulate.Report) float64 { return r.TTFT.Median }},
		{"ttft p90 ms", func(r *simulate.Report) float64 { return r.TTFT.P90 }},
		{"ttft p99 ms", func(r *simulate.Report) float64 { return r.TTFT.P99 }},
		{"tpot p50 ms", func(r *simulate.Report) float64 { return r.TPOT.Median }},
		{"tpot p90 ms", func(r *simulate.Report) float64 { return r.TPOT.P90 }},
		{"e2el p50 ms", func(r *simulate.Report) float64 { return r.E2EL.Median }},
		{"e2el p99 ms", func(r *simulate.Report) float64 { return r.E2EL.P99 }},
		{"output tok/s", func(r *simulate.Report) float64 { return r.OutputThroughput }},
		{"preemptions", func(r *simulate.Report) float64 { return float64(r.Preemptions) }},
		{"evictions", func(r *simulate.Report) float64 { return float64(r.Evictions) }},
		{"prefix hits %", func(r *simulate.Report) float64 { return 100 * r.PrefixHitRate }},
		{"steps", func(r *simulate.Report) float64 { return float64(r.Steps) }},
	} {
		x, y, change := m.of(a), m.of(b), ""
		if x != 0 {
			change = fmt.Sprintf("%+.1f%%", 100*(y-x)/x)
		}
		rows = append(rows, []string{m.name, fmt.Sprintf("%.1f", x), fmt.Sprintf("%.1f", y), change})
	}
	return table(out, rows)
}

func printDivergences(out io.Writer, actor string, list []replay.Divergence) {
	for _, d := range list {
		fmt.Fprintln(out)
		for _, l := range wrap(fmt.Sprintf("%s differs first at step %d, %.3f ms after the checkpoint, when told %q:", actor, d.Step, d.AtMs, d.Event), columnsMax) {
			fmt.Fprintln(out, l)
		}
		for _, part := range [][2]string{{"recorded  ", d.Recorded}, {"replayed  ", d.Replayed}, {"because   ", d.Why}} {
			if part[1] == "" {
				continue
			}
			for i, l := range wrap(oneLine(part[1]), columnsMax-12) {
				label := part[0]
				if i > 0 {
					label = "          "
				}
				fmt.Fprintf(out, "  %s%s\n", label, l)
			}
		}
	}
}
