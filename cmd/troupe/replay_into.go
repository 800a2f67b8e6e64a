package main

import (
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/internal/replay"
	"github.com/troupe-engine/troupe/schemas"
)

// concurrencyDefault is how many requests run at once where no pace is to be kept.
const concurrencyDefault = 64

// runInto sends the recorded requests to a running engine.
func (c *replayCommand) runInto(cmd *cobra.Command, path string) error {
	if c.pace == "max" {
		if c.into.Concurrency == 0 {
			c.into.Concurrency = concurrencyDefault
		}
	} else {
		speed, err := strconv.ParseFloat(c.pace, 64)
		if err != nil || !(speed > 0 && speed <= 1e6) {
			return usageError{fmt.Errorf("--speed is %.20q; expected a positive factor, or max", c.pace)}
		}
		c.into.Speed = speed
	}
	if c.into.Concurrency < 0 {
		return usageError{fmt.Errorf("--concurrency is %d; expected 0 or more", c.into.Concurrency)}
	}
	c.into.URL = strings.TrimSuffix(strings.TrimSuffix(c.into.URL, "/"), "/v1")
	c.into.Model = c.model
	key, err := readAPIKey(c.apiKey)
	if err != nil {
		return err
	}
	c.into.Key = key
	r, err := recording.Open(path, false)
	if err != nil {
		return err
	}
	requests, err := replay.Requests(r)
	if err = closing(r, err); err != nil {
		return err
	}
	if len(requests) == 0 {
		return schemas.Errorf(schemas.KindInvalid, "replay", "%s has no requests of clients", shorten(path, 40)).
			WithHint("`troupe record inspect %s` says what it holds", path)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	progress := newMeter(cmd.ErrOrStderr(), time.Now)
	c.into.Progress = func(done, total int) {
		progress.progress(int64(done), int64(total), fmt.Sprintf("%d of %d requests", done, total))
	}
	report, err := replay.Into(ctx, requests, c.into)
	progress.clear()
	if err != nil {
		return err
	}
	if *c.json {
		err = printJSON(cmd.OutOrStdout(), report)
	} else {
		err = printInto(cmd.OutOrStdout(), report)
	}
	if err == nil && report.Different+report.Failed > 0 {
		err = errDiverged
	}
	return err
}

func closing(c io.Closer, err error) error {
	if closeErr := c.Close(); err == nil {
		err = closeErr
	}
	return err
}

func printInto(out io.Writer, r *replay.IntoReport) error {
	p := func(format string, args ...any) { fmt.Fprintf(out, format+"\n", args...) }
	p("%d of %d requests sent in %.2f s, recorded in %.2f s; pacing error %.2f%%", r.Sent, r.Requests, r.Duration, r.Recorded, 100*r.PacingError)
	p("%d same text, %d different; %d failed, %d that had failed did not", r.Same, r.Different, r.Failed, r.Recovered)
	p("%d given up as recorded, %d left out", r.GivenUp, r.Left)
	rows := [][]string{{"MS", "RECORDED P50", "P90", "P99", "REPLAYED P50", "P90", "P99"}}
	for _, l := range []struct {
		name string
		q    replay.Quantiles
	}{{"ttft", r.TTFT}, {"e2el", r.E2EL}} {
		row := []string{l.name}
		for _, v := range append(l.q.Recorded[:], l.q.Replayed[:]...) {
			row = append(row, fmt.Sprintf("%.1f", v))
		}
		rows = append(rows, row)
	}
	if err := table(out, rows); err != nil {
		return err
	}
	for _, d := range r.Differences {
		p("\nrequest %s, %s:", d.Request, d.What)
		for _, part := range [][2]string{{"recorded  ", d.Recorded}, {"replayed  ", d.Replayed}} {
			for i, l := range wrap(fmt.Sprintf("%q", part[1]), columnsMax-12) {
				label := part[0]
				if i > 0 {
					label = "          "
				}
				p("  %s%s", label, l)
			}
		}
	}
	return nil
}
