package replay

import (
	"fmt"
	"strings"

	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/schemas"
)

// rowsShown bounds the rows of a decision that are told.
const rowsShown = 8

// decision tells what a scheduler decided, in a line.
func decision(s *schemas.SchedulerStep) string {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if r := s.Reserve; r != nil {
		add("asks memory for step %d: %d rows%s", r.Step, len(r.Seq), rows(r.Seq, r.WantMax))
		if len(r.Release) > 0 {
			add("releases %d", len(r.Release))
		}
	}
	if p := s.Execute; p != nil {
		add("runs step %d: %d rows%s", p.Step, len(p.Seq), rows(p.Seq, p.Count))
	}
	if s.Repeat != 0 {
		add("repeats step %d", s.Repeat)
	}
	if s.Accepted != nil {
		add("accepts, %d waiting", s.Accepted.Waiting)
	}
	if s.Refused != nil {
		add("refuses: %s", s.Refused)
	}
	if s.Cancelled > 0 {
		add("cancels %d", s.Cancelled)
	}
	if s.GaveUp != nil {
		add("gives up what is in flight: %s", s.GaveUp)
	}
	if e := s.Emit; e != nil {
		add("hands on %d tokens%s", len(e.Seq), rows(e.Seq, e.Token))
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, "; ")
}

// rows lists sequences with a number each.
func rows(seq schemas.U64, n schemas.I32) string {
	var b strings.Builder
	for i := range min(len(seq), len(n), rowsShown) {
		fmt.Fprintf(&b, " %s:%d", name(schemas.SeqID(seq[i])), n[i])
	}
	if len(seq) > rowsShown {
		b.WriteString(" …")
	}
	return b.String()
}

func name(id schemas.SeqID) string {
	text := strings.TrimLeft(fmt.Sprintf("%x", uint64(id.Request())>>8&0xffffffff), "0")
	if text == "" {
		text = "0"
	}
	if id.Choice() > 0 {
		text += fmt.Sprintf("/%d", id.Choice())
	}
	return "#" + text
}

// why says what is known about the first rows that two questions to memory, or two plans, do not have in common.
func why(core *scheduler.Core, recorded, replayed *schemas.SchedulerStep) string {
	order := func(s *schemas.SchedulerStep) schemas.U64 {
		switch {
		case s.Reserve != nil:
			return s.Reserve.Seq
		case s.Execute != nil:
			return s.Execute.Seq
		}
		return nil
	}
	a, b := order(recorded), order(replayed)
	for i := range max(len(a), len(b)) {
		switch {
		case i >= len(a):
			return fmt.Sprintf("row %d is new: %s", i, about(core, b[i]))
		case i >= len(b):
			return fmt.Sprintf("row %d is missing: %s", i, about(core, a[i]))
		case a[i] != b[i]:
			return fmt.Sprintf("row %d was %s; now it is %s", i, about(core, a[i]), about(core, b[i]))
		}
	}
	if recorded.Reserve != nil && replayed.Reserve != nil {
		return questionsDiffer(core, recorded.Reserve, replayed.Reserve)
	}
	return ""
}

// questionsDiffer compares two questions to memory about the same rows.
func questionsDiffer(core *scheduler.Core, a, b *schemas.ReserveRequest) string {
	for i := range a.Seq {
		switch {
		case i < min(len(a.WantMax), len(b.WantMax)) && a.WantMax[i] != b.WantMax[i]:
			return fmt.Sprintf("row %d, %s, wanted %d tokens; now %d", i, about(core, a.Seq[i]), a.WantMax[i], b.WantMax[i])
		case i < min(len(a.MayPreempt), len(b.MayPreempt)) && a.MayPreempt[i] != b.MayPreempt[i]:
			return fmt.Sprintf("whether row %d, %s, may take the blocks of others", i, about(core, a.Seq[i]))
		}
	}
	for i := range max(len(a.Victims), len(b.Victims)) {
		switch {
		case i >= len(a.Victims):
			return fmt.Sprintf("victim %d is new: %s", i, about(core, b.Victims[i]))
		case i >= len(b.Victims):
			return fmt.Sprintf("victim %d is missing: %s", i, about(core, a.Victims[i]))
		case a.Victims[i] != b.Victims[i]:
			return fmt.Sprintf("the first to lose blocks, if they run out, after %d others, was %s; now it is %s", i, about(core, a.Victims[i]), about(core, b.Victims[i]))
		}
	}
	switch {
	case a.TokensMax != b.TokensMax:
		return fmt.Sprintf("the budget was %d tokens; now %d", a.TokensMax, b.TokensMax)
	case len(a.Admit) != len(b.Admit):
		return fmt.Sprintf("%d sequences were admitted; now %d", len(a.Admit), len(b.Admit))
	case len(a.Release) != len(b.Release):
		return fmt.Sprintf("%d sequences were released; now %d", len(a.Release), len(b.Release))
	}
	return "what memory is told of tokens and releases differs"
}

func about(core *scheduler.Core, seq uint64) string {
	id := schemas.SeqID(seq)
	s := core.Sequence(id)
	if s == nil {
		return name(id) + " (ended)"
	}
	text := fmt.Sprintf("%s (arrival %d, %d prompt and %d output tokens", name(id), s.Arrival(), s.PromptTokens(), s.OutputTokens())
	if p := s.Priority(); p != 0 {
		text += fmt.Sprintf(", priority %d", p)
	}
	if u := s.User(); u != "" {
		text += fmt.Sprintf(", user %.20q", u)
	}
	return text + ")"
}
