package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/profile/bucket"
	"github.com/troupe-engine/troupe/internal/profile/measure"
	"github.com/troupe-engine/troupe/schemas"
)

// profileCommand measures what steps cost.
type profileCommand struct {
	settings *settings
	nats     *engineAddress
	replica  string
	out      string
	publish  bool
	live     time.Duration
	budget   time.Duration
	seed     uint64
	quantile float64
	quiet    bool
	json     *bool
}

func newProfileCommand() *cobra.Command {
	p := &profileCommand{}
	cmd := &cobra.Command{Use: "profile [flags]", Short: "Measure what steps cost, for simulate and for schedulers.", Args: cobra.NoArgs,
		Long: "Profile starts an engine, sends loads of many shapes through it, and fits a model\n" +
			"of step costs to what it saw: tokens, rows, rows that sample, and positions\n" +
			"attended to. With --live it watches the steps of a running engine instead.\n" +
			"The result is a file for troupe simulate --profile or, with --publish, an entry\n" +
			"of the running engine's key-value bucket, which schedulers read (--step-costs\n" +
			"bucket).\n\n" +
			"Run it on an otherwise idle machine: other work becomes part of the figures.",
		Example: "  troupe profile --out tiny.json\n" +
			"  troupe simulate --trace conv.csv --profile tiny.json\n" +
			"  troupe profile --live 1m --publish\n" +
			"  troupe profile list"}
	p.settings = addSettings(cmd, "http", "nats-listen", "grace")
	p.json = addJSON(cmd)
	f := cmd.Flags()
	f.StringVar(&p.out, "out", "", "write the profile to this file")
	f.BoolVar(&p.publish, "publish", false, "put the profile into the bucket of the engine at --nats, which needs --store")
	f.DurationVar(&p.live, "live", 0, "learn from the steps of the engine at --nats for so long, and send it nothing")
	p.nats = addNATS(f, natsURLDefault, natsDoc)
	f.StringVar(&p.replica, "replica", "", "with --live: the instance, as replica0; default: any")
	f.DurationVar(&p.budget, "budget", 15*time.Second, "about how long to measure; one round of loads runs in any case")
	f.Uint64Var(&p.seed, "seed", 1, "of the loads")
	f.Float64Var(&p.quantile, "quantile", 0, "take this quantile of the steps of a shape instead of their mean, as 0.2 on a machine that others use")
	f.BoolVar(&p.quiet, "quiet", false, "no progress on standard error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return p.run(cmd) }
	cmd.AddCommand(newProfileListCommand(), newProfileShowCommand())
	return cmd
}

func (p *profileCommand) run(cmd *cobra.Command) error {
	measured := p.measure
	if p.live > 0 {
		measured = p.watch
	}
	made, err := measured(cmd)
	if err != nil {
		return err
	}
	if p.out != "" {
		if err := made.Write(p.out); err != nil {
			return err
		}
	}
	if p.publish {
		if err := p.put(cmd, made); err != nil {
			return err
		}
	}
	if *p.json {
		return printJSON(cmd.OutOrStdout(), made)
	}
	return printProfile(cmd.OutOrStdout(), made)
}

func (p *profileCommand) say(cmd *cobra.Command, line string) {
	if !p.quiet {
		fmt.Fprintln(cmd.ErrOrStderr(), dim(cmd.ErrOrStderr(), line))
	}
}

// measure starts an engine and sends it loads.
func (p *profileCommand) measure(cmd *cobra.Command) (*profile.Profile, error) {
	s := p.settings
	if !cmd.Flags().Changed("log-level") {
		s.LogLevel = "warn"
	}
	if err := s.load(cmd); err != nil {
		return nil, err
	}
	s.HTTP, s.NATSListen = "none", "none"
	e, err := s.open(cmd)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	m, err := measure.Open(cmd.Context(), e, p.seed)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	m.Quantile = p.quantile
	m.Progress = func(line string) { p.say(cmd, line) }
	if e.Device().Info().Name != "cpu:0" { // kernels are compiled and steps recorded when they run first
		p.say(cmd, "a first round, which does not count")
		if err := m.WarmUp(cmd.Context()); err != nil {
			return nil, err
		}
	}
	for began := time.Now(); ; {
		if err := m.Round(cmd.Context()); err != nil {
			return nil, err
		}
		if time.Since(began) >= p.budget {
			return m.Profile()
		}
	}
}

// watch learns from the steps of a running engine.
func (p *profileCommand) watch(cmd *cobra.Command) (*profile.Profile, error) {
	conn, err := p.nats.connect("profile")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	p.say(cmd, "watching the steps of the engine at "+shorten(p.nats.url, 40)+" for "+p.live.String())
	return measure.Live(cmd.Context(), conn, schemas.Instance(p.replica), p.live, p.quantile)
}

// put publishes a profile.
func (p *profileCommand) put(cmd *cobra.Command, made *profile.Profile) error {
	conn, err := p.nats.connect("profile")
	if err != nil {
		return err
	}
	defer conn.Close()
	entry, err := bucket.Publish(cmd.Context(), conn, made)
	if err != nil {
		return err
	}
	p.say(cmd, fmt.Sprintf("published as %s, revision %d", entry.Key, entry.Revision))
	return nil
}

func newProfileListCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "list", Short: "List the profiles in the bucket of a running engine.", Args: cobra.NoArgs}
	address := addNATS(cmd.Flags(), natsURLDefault, natsDoc)
	asJSON := addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		conn, err := address.connect("profile")
		if err != nil {
			return err
		}
		defer conn.Close()
		list, err := bucket.List(cmd.Context(), conn, func(err error) { fmt.Fprintln(cmd.ErrOrStderr(), "troupe: "+err.Error()) })
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), list)
		}
		if len(list) == 0 {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), "the bucket holds no profiles; troupe profile --publish adds one")
			return err
		}
		for _, e := range list {
			if _, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n  revision %d, %s, %s; fit off by %.0f %%\n", e.Key, e.Revision, shorten(printable(e.Profile.Origin.Date), 30),
				count(e.Profile.Fit.Points, "shape"), 100*e.Profile.Fit.Mean); err != nil {
				return err
			}
		}
		return nil
	}
	return cmd
}

func newProfileShowCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "show KEY|FILE|NAME", Short: "Show a profile of the bucket, a file or one that is built in.", Args: cobra.ExactArgs(1)}
	address := addNATS(cmd.Flags(), natsURLDefault, natsDoc)
	asJSON := addJSON(cmd)
	out := cmd.Flags().String("out", "", "write it to this file, too, as for troupe simulate --profile")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		p, err := findProfile(cmd, address, args[0])
		if err != nil {
			return err
		}
		if *out != "" {
			if err := p.Write(*out); err != nil {
				return err
			}
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), p)
		}
		return printProfile(cmd.OutOrStdout(), p)
	}
	return cmd
}

// findProfile reads a file or a built-in profile or, if there is none of the name, one of the engine's bucket.
func findProfile(cmd *cobra.Command, address *engineAddress, name string) (*profile.Profile, error) {
	p, err := profile.Named(name)
	if e := schemas.AsError(err, "profile"); err == nil || e.Kind != schemas.KindNotFound {
		return p, err
	}
	conn, err := address.connect("profile")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	entry, err := bucket.Get(cmd.Context(), conn, name)
	if err != nil {
		return nil, err
	}
	return entry.Profile, nil
}

// printProfile shows what a profile says about typical steps, and how far to trust it.
func printProfile(w io.Writer, p *profile.Profile) error {
	fmt.Fprintf(w, "%s\n%s\n%s\n\n", p.Name, p.Origin.Device, p.Origin.Method)
	rows := [][]string{{"step", "predicted"}}
	for _, s := range []struct {
		name  string
		shape profile.Shape
	}{
		{"1 row decodes at 256 tokens", profile.Shape{Rows: 1, Tokens: 1, Sampled: 1, DecodeContext: 256}},
		{"16 rows decode at 256 tokens", profile.Shape{Rows: 16, Tokens: 16, Sampled: 16, DecodeContext: 16 * 256}},
		{"64 rows decode at 256 tokens", profile.Shape{Rows: 64, Tokens: 64, Sampled: 64, DecodeContext: 64 * 256}},
		{"prefill of 128 tokens", profile.Shape{Rows: 1, Tokens: 128, Sampled: 1, PrefillPairs: 128 * 129 / 2}},
		{"prefill of 512 tokens", profile.Shape{Rows: 1, Tokens: 512, Sampled: 1, PrefillPairs: 512 * 513 / 2}},
		{"512 tokens after 1024", profile.Shape{Rows: 1, Tokens: 512, Sampled: 1, PrefillPairs: 512*1024 + 512*513/2}},
	} {
		note := ""
		if !p.Covers(s.shape) {
			note = " (extrapolated)"
		}
		rows = append(rows, []string{s.name, fmt.Sprintf("%.3f ms%s", float64(p.StepNs(s.shape))/1e6, note)})
	}
	if err := table(w, rows); err != nil {
		return err
	}
	_, err := fmt.Fprintf(w, "\n%d shapes of steps; fit off by %.1f %% on average (median %.1f, p90 %.1f %%),\n%.1f %% for shapes that were left out; misfit %.1f %%, noise %.1f %% (single steps of a\nshape differ by %.0f %%); %.2f ms around a lone request\nand %.2f µs for each token of its prompt\n",
		p.Fit.Points, 100*p.Fit.Mean, 100*p.Fit.Median, 100*p.Fit.P90, 100*p.Fit.HeldOut, 100*p.Fit.Misfit, 100*p.Fit.Repeat, 100*p.Fit.Spread, p.Serving.RequestNs/1e6, p.Serving.PromptNs/1e3)
	return err
}
