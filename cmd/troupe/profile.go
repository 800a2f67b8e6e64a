package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/profile/measure"
)

func newProfileCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "profile [flags]", Short: "Measure what steps cost on a device, for simulate.", Args: cobra.NoArgs,
		Long: "Profile starts an engine, sends loads of many shapes through it, and fits a model\n" +
			"of step costs to what it saw: tokens, rows, rows that sample, and positions\n" +
			"attended to. The result is a file for troupe simulate --profile.\n\n" +
			"Run it on an otherwise idle machine: other work becomes part of the figures.",
		Example: "  troupe profile --out tiny.json\n" +
			"  troupe simulate --trace conv.csv --profile tiny.json"}
	s := addSettings(cmd, "http", "nats-listen", "grace")
	asJSON := addJSON(cmd)
	out := cmd.Flags().String("out", "", "write the profile to this file")
	budget := cmd.Flags().Duration("budget", 15*time.Second, "about how long to measure; one round of loads runs in any case")
	seed := cmd.Flags().Uint64("seed", 1, "of the loads")
	quantile := cmd.Flags().Float64("quantile", 0, "take this quantile of the steps of a shape instead of their mean, as 0.2 on a machine that others use")
	quiet := cmd.Flags().Bool("quiet", false, "no progress on standard error")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if !cmd.Flags().Changed("log-level") {
			s.LogLevel = "warn"
		}
		if err := s.load(cmd); err != nil {
			return err
		}
		s.HTTP, s.NATSListen = "none", "none"
		e, err := s.open(cmd)
		if err != nil {
			return err
		}
		defer e.Close()
		m, err := measure.Open(cmd.Context(), e, *seed)
		if err != nil {
			return err
		}
		defer m.Close()
		m.Quantile = *quantile
		if !*quiet {
			m.Progress = func(line string) { fmt.Fprintln(cmd.ErrOrStderr(), dim(cmd.ErrOrStderr(), line)) }
		}
		for began := time.Now(); ; {
			if err := m.Round(cmd.Context()); err != nil {
				return err
			}
			if time.Since(began) >= *budget {
				break
			}
		}
		p, err := m.Profile()
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
	_, err := fmt.Fprintf(w, "\n%d shapes of steps; fit off by %.1f %% on average (median %.1f, p90 %.1f %%),\n%.1f %% for shapes that were left out; misfit %.1f %%, noise %.1f %% (single steps of a\nshape differ by %.0f %%); %.2f ms around a lone request\n",
		p.Fit.Points, 100*p.Fit.Mean, 100*p.Fit.Median, 100*p.Fit.P90, 100*p.Fit.HeldOut, 100*p.Fit.Misfit, 100*p.Fit.Repeat, 100*p.Fit.Spread, p.Serving.RequestNs/1e6)
	return err
}
