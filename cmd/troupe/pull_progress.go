package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/internal/modelstore"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	rateWindowTime  = 10 * time.Second // the rate is that of the last while, not of the whole
	plainPeriodTime = 10 * time.Second // between two lines where there is no terminal
)

// pullProgress shows how a pull goes: one line that is rewritten on a terminal, a line now and then elsewhere.
type pullProgress struct {
	w        io.Writer
	name     string
	now      func() time.Time
	terminal bool
	begun    bool      // the heading is written
	shown    bool      // the cursor is at the end of a line that may be rewritten
	last     time.Time // when a line was last written
	samples  []rateSample
}

// rateSample is how much had been received at a time.
type rateSample struct {
	at    time.Time
	bytes int64
}

func newPullProgress(w io.Writer, name string, now func() time.Time) *pullProgress {
	return &pullProgress{w: w, name: name, now: now, terminal: isTerminal(w), last: now()}
}

// event is a modelstore.PullOptions.Notify.
func (p *pullProgress) event(e modelstore.Event) {
	if !p.begun && e.Stats.Files > 0 {
		p.begun = true
		p.line("%s: %s, %s", shorten(p.name, 48), count(e.Stats.Files, "file"), size(e.Stats.Bytes))
	}
	switch e.Kind {
	case modelstore.EventLocked:
		p.line("waiting for process %s, which is pulling the same model", e.Holder)
	case modelstore.EventFile:
		p.line("  %-62s %11s", shorten(e.File.Path, 62), size(e.File.Size))
	case modelstore.EventRetry:
		detail := schemas.AsError(e.Err, "pull").Detail
		for _, l := range wrap(fmt.Sprintf("%s; trying again in %s", detail, e.Wait.Round(100*time.Millisecond)), columnsMax-4) {
			p.line("  ! %s", shorten(l, columnsMax-4))
		}
	case modelstore.EventProgress:
		p.progress(e.Stats)
	}
}

// progress writes where things stand.
func (p *pullProgress) progress(s modelstore.Stats) {
	now := p.now()
	p.samples = append(p.samples, rateSample{now, s.BytesReceived})
	for len(p.samples) > 2 && now.Sub(p.samples[0].at) > rateWindowTime {
		p.samples = p.samples[1:]
	}
	switch {
	case s.FilesDone == s.Files:
	case p.terminal:
		fmt.Fprintf(p.w, "\r\x1b[K%s", p.status(s))
		p.shown = true
	case now.Sub(p.last) >= plainPeriodTime:
		p.line("%s", p.status(s))
		p.last = now
	}
}

// status is one line of at most 79 columns, so that no terminal wraps it.
func (p *pullProgress) status(s modelstore.Stats) string {
	percent := int64(100)
	if s.Bytes > 0 {
		percent = int64(100 * float64(s.BytesDone) / float64(s.Bytes))
	}
	text := fmt.Sprintf("%3d%%  %s of %s  %d/%d files", percent, size(s.BytesDone), size(s.Bytes), s.FilesDone, s.Files)
	first, last := p.samples[0], p.samples[len(p.samples)-1]
	if seconds := last.at.Sub(first.at).Seconds(); seconds > 0 && last.bytes > first.bytes {
		rate := float64(last.bytes-first.bytes) / seconds
		text += fmt.Sprintf("  %s/s  %s left", size(int64(rate)), left(float64(s.Bytes-s.BytesDone)/rate))
	} else if s.BytesReceived == 0 && s.BytesDone > 0 {
		text += "  checking what is here"
	}
	return shorten(text, columnsMax-1)
}

// left writes a time in its two largest units.
func left(seconds float64) string {
	const day = 24 * 60 * 60
	switch s := int64(min(max(seconds, 0), 100*day)); {
	case s >= 100*day:
		return "over 99d"
	case s >= day:
		return fmt.Sprintf("%dd%02dh", s/day, s%day/3600)
	case s >= 3600:
		return fmt.Sprintf("%dh%02dm", s/3600, s%3600/60)
	case s >= 60:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	default:
		return fmt.Sprintf("%ds", s)
	}
}

// line writes a line that stays.
func (p *pullProgress) line(format string, args ...any) {
	p.clear()
	fmt.Fprintln(p.w, strings.TrimRight(printable(fmt.Sprintf(format, args...)), " "))
}

// clear removes the line that is rewritten.
func (p *pullProgress) clear() {
	if p.shown {
		fmt.Fprint(p.w, "\r\x1b[K")
		p.shown = false
	}
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}
