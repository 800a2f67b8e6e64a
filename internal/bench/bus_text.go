package bench

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
)

// WriteText prints the report for people, within 80 columns.
func (r *BusReport) WriteText(w io.Writer) error {
	p := &printer{w: w}
	p.line("%d sequences decode on a simulated device; median of %d alternating rounds.", r.Sequences, r.Rounds)
	p.line("%s", r.Machine)
	depth := 0
	var table *tabwriter.Writer
	for _, s := range r.Steps {
		if s.Depth != depth {
			flush(table, p)
			depth = s.Depth
			p.line("")
			p.line("Pipeline depth %d%s, µs a step; overhead at p50 (recorded: mean).", depth, depthNote(depth))
			table = tabwriter.NewWriter(w, 0, 0, 1, ' ', tabwriter.AlignRight)
			fmt.Fprintln(table, "device\tmode\tp50\tp95\tp99\tmean\toverhead\tspread\ttarget\t\t")
		}
		fmt.Fprintf(table, "%.0f\t%s\t%.1f\t%.1f\t%.1f\t%.1f\t%s\t\n", s.DeviceUs, s.Mode, s.P50Us, s.P95Us, s.P99Us, s.MeanUs, s.comparison())
	}
	flush(table, p)
	p.hostTimes(r.Steps)
	for _, s := range r.Steps {
		if s.Messages > 0 {
			p.line("%s: %d of %d messages at %.0f µs, depth %d", s.Mode, s.Messages, s.Messages+s.Missing, s.DeviceUs, s.Depth)
		}
	}
	p.line("")
	table = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "operation\tµs\tallocations\ttarget\t\t")
	for _, h := range r.Hops {
		target := ""
		if h.Target != nil {
			target = fmt.Sprintf("≤ %g", *h.Target)
		}
		fmt.Fprintf(table, "%s\t%.3f\t%.1f\t%s\t%s\t\n", h.Name, h.Us, h.Allocs, target, verdict(h.Passed))
	}
	flush(table, p)
	return p.err
}

// hostTimes prints what steps cost besides the device, a line per device step and depth.
func (p *printer) hostTimes(steps []StepCost) {
	p.line("")
	p.line("Processor time per step without the device's, µs (depends little on other work):")
	line := ""
	for i, s := range steps {
		if i == 0 || s.Depth != steps[i-1].Depth || s.DeviceUs != steps[i-1].DeviceUs {
			if line != "" {
				p.line("%s", line)
			}
			line = fmt.Sprintf("%5.0f µs, depth %d:", s.DeviceUs, s.Depth)
		}
		line += fmt.Sprintf(" %s %.0f", s.Mode, s.HostUs)
	}
	p.line("%s", line)
	p.line("")
	t := newLedgerTable(p, "µs×depth")
	for i := range steps {
		s := &steps[i]
		t.add(fmt.Sprintf("%.0f×%d %s", s.DeviceUs, s.Depth, s.Mode), &s.Ledger)
	}
	t.flush()
	p.line("")
}

func depthNote(depth int) string {
	if depth == 1 {
		return " (nothing hidden)"
	}
	return ""
}

func (s *StepCost) comparison() string {
	if s.Mode == ModeBare {
		return "\t\t\t"
	}
	target := ""
	if s.TargetPercent != nil {
		target = fmt.Sprintf("< %g%%", *s.TargetPercent)
	}
	return fmt.Sprintf("%s%%\t%s…%s\t%s\t%s", short(s.OverheadPercent, 2), short(s.OverheadLeast, 1), short(s.OverheadMost, 1), target, verdict(s.Passed))
}

func verdict(passed *bool) string {
	switch {
	case passed == nil:
		return ""
	case *passed:
		return "ok"
	}
	return "MISSED"
}

// String is one line about the machine.
func (m Machine) String() string {
	s := fmt.Sprintf("%s, %s, %d CPUs", m.GoVersion, m.Platform, m.CPUs)
	if len(m.LoadStart) > 0 && len(m.LoadEnd) > 0 {
		s += fmt.Sprintf("; load average %.1f at the start, %.1f at the end", m.LoadStart[0], m.LoadEnd[0])
	}
	return s
}

// printer writes lines until the first error.
type printer struct {
	w   io.Writer
	err error
}

func (p *printer) line(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintln(p.w, strings.TrimRight(fmt.Sprintf(format, args...), " "))
	}
}

func flush(t *tabwriter.Writer, p *printer) {
	if t != nil && p.err == nil {
		p.err = t.Flush()
	}
}

// short writes a percentage with so many decimals, or none where it is large: the table keeps its width on
// a machine that is much too busy.
func short(percent float64, decimals int) string {
	switch {
	case math.Abs(percent) >= 10_000:
		return strconv.FormatFloat(percent, 'e', 0, 64)
	case math.Abs(percent) >= 100:
		decimals = 0
	}
	return strconv.FormatFloat(percent, 'f', decimals, 64)
}
