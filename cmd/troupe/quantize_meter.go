package main

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// meter shows how far a long command is: one line that is rewritten on a terminal, a line now and then elsewhere.
type meter struct {
	mu       sync.Mutex // who shows progress and who interrupts it may be two
	w        io.Writer
	now      func() time.Time
	terminal bool
	shown    bool
	began    time.Time
	last     time.Time // when a line was last written
}

const meterPeriodTime = 100 * time.Millisecond // between two states of a line that is rewritten

func newMeter(w io.Writer, now func() time.Time) *meter {
	at := now()
	return &meter{w: w, now: now, terminal: isTerminal(w), began: at, last: at}
}

// progress writes what is done, of total, with a text about it and the time that is left.
func (m *meter) progress(done, total int64, text string) {
	if total <= 0 {
		return
	}
	line := fmt.Sprintf("%3d%%  %s", 100*done/total, text)
	if took := m.now().Sub(m.began).Seconds(); took > 1 && done > 0 {
		line += "  " + left(took/float64(done)*float64(total-done)) + " left"
	}
	m.status(line)
}

// status writes a line in place of the one before, if that is long enough ago.
func (m *meter) status(line string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.now()
	period := plainPeriodTime
	if m.terminal {
		period = meterPeriodTime
	}
	if now.Sub(m.last) < period {
		return
	}
	m.last = now
	line = shorten(line, columnsMax-1)
	if !m.terminal {
		fmt.Fprintln(m.w, line)
		return
	}
	fmt.Fprintf(m.w, "\r\x1b[K%s", line)
	m.shown = true
}

// clear removes the line that is rewritten.
func (m *meter) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.shown {
		fmt.Fprint(m.w, "\r\x1b[K")
		m.shown = false
	}
}
