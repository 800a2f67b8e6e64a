package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/internal/batch"
)

const (
	progressTerminalEvery = 250 * time.Millisecond // in place
	progressLogEvery      = 5 * time.Second        // a line each
)

// batchProgress shows how far a batch is: in place on a terminal, otherwise a line now and then.
type batchProgress struct {
	w       io.Writer
	inPlace bool
	every   time.Duration
	shown   bool
}

func newBatchProgress(w io.Writer) *batchProgress {
	if isTerminal(w) {
		return &batchProgress{w: w, inPlace: true, every: progressTerminalEvery}
	}
	return &batchProgress{w: w, every: progressLogEvery}
}

func (p *batchProgress) show(s batch.Progress) {
	line := progressLine(s)
	if !p.inPlace {
		fmt.Fprintln(p.w, line)
		return
	}
	p.shown = true
	fmt.Fprint(p.w, "\r\x1b[K"+shortenEnd(line, columnsMax-1))
}

// end makes room for what comes next.
func (p *batchProgress) end() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
	}
}

// progressLine fits a terminal of 80 columns for any batch that fits a disk.
func progressLine(s batch.Progress) string {
	parts := []string{fmt.Sprintf("%s/%s lines", short(s.Done), short(s.Lines))}
	if s.Failed > 0 {
		parts = append(parts, short(s.Failed)+" failed")
	}
	parts = append(parts, rate(s.LinesPerSec)+" lines/s", fmt.Sprintf("%.0f tok/s", s.TokensPerSec))
	if s.Waiting > 0 {
		parts = append(parts, fmt.Sprintf("%d waiting", s.Waiting))
	} else if s.Known {
		parts = append(parts, duration(s.Left)+" left")
	}
	return strings.Join(parts, " · ")
}

// duration writes what is left in the two largest units.
func duration(d time.Duration) string {
	seconds := int64(d.Round(time.Second) / time.Second)
	switch {
	case seconds < 60:
		return fmt.Sprintf("%ds", seconds)
	case seconds < 3600:
		return fmt.Sprintf("%dm%02ds", seconds/60, seconds%60)
	case seconds < 48*3600:
		return fmt.Sprintf("%dh%02dm", seconds/3600, seconds/60%60)
	}
	return fmt.Sprintf("%dd%02dh", seconds/86400, seconds/3600%24)
}

// rate writes a number per second with a digit behind the point where it tells something.
func rate(perSec float64) string {
	if perSec < 100 {
		return fmt.Sprintf("%.1f", perSec)
	}
	return fmt.Sprintf("%.0f", perSec)
}

// short writes a count in few columns.
func short(n int64) string {
	if n >= 10_000_000 {
		return fmt.Sprintf("%.1fM", float64(n)/1e6)
	}
	return grouped(n)
}

// grouped writes a count with a comma between thousands.
func grouped(n int64) string {
	s := strconv.FormatInt(n, 10)
	for i := len(s) - 3; i > 0 && s[i-1] != '-'; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// shortenEnd cuts a text to n columns.
func shortenEnd(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n-1]) + "…"
}

// oneLine makes a text from outside safe for one line of a terminal.
func oneLine(s string) string {
	return strings.Join(strings.Fields(printable(s)), " ")
}
