package recording

import (
	"fmt"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// Line is one event of a story.
type Line struct {
	UnixNs int64  `json:"unix_ns"`
	Actor  string `json:"actor"`
	Text   string `json:"text"`
}

// A Story tells in words what entries say about one request, or one step, or everything.
type Story struct {
	Request schemas.RequestID // 0: all
	Step    schemas.StepID    // 0: all
	Actor   string            // "" is all; "scheduler" is all schedulers

	plans map[schemas.StepID]*schemas.StepPlan // that have not finished
	order []schemas.StepID
	alive bool // Request was submitted and has not ended
}

// plansMax bounds the plans that a story keeps.
const plansMax = 64

// Tell returns what an entry adds to the story.
func (s *Story) Tell(e *Entry) []Line {
	var lines []Line
	say := func(format string, args ...any) {
		lines = append(lines, Line{e.UnixNs, e.Actor, fmt.Sprintf(format, args...)})
	}
	if step := e.Scheduler; step != nil {
		s.scheduler(step, say)
	}
	if s.Step == 0 {
		s.front(e, say)
	}
	if f := e.Fault; f != nil && s.Step == 0 && s.Request == 0 {
		say("fault: %s of %s, its message %d, by rule %d%s", f.Kind, clip(f.Subject, 100), f.Message, f.Rule, delayText(f))
	}
	if s.Actor != "" && e.Actor != s.Actor && !strings.HasPrefix(e.Actor, s.Actor+".") {
		return nil
	}
	return lines
}

func delayText(f *schemas.InjectedFault) string {
	if f.DelayUs == 0 {
		return ""
	}
	return fmt.Sprintf(", %.3f ms", float64(f.DelayUs)/1e3)
}

// Missing tells of gaps before an entry. The lines have no actor: nobody knows whose entries are missing.
func (s *Story) Missing(e *Entry, gaps []Gap) []Line {
	var lines []Line
	for _, g := range gaps {
		lines = append(lines, Line{UnixNs: e.UnixNs, Text: g.String() + "; what happened there is not told"})
	}
	return lines
}

func (s *Story) about(id schemas.RequestID) bool { return s.Request == 0 || s.Request == id }

// front tells what gateways and tokenizers did.
func (s *Story) front(e *Entry, say func(string, ...any)) {
	if r := e.Request; r != nil && s.about(r.Request) {
		say("request %s, %s: %s", r.Request, r.API, clip(r.Body, 400))
	}
	if a := e.Answer; a != nil && s.about(a.Request) {
		how := fmt.Sprintf("%d prompt tokens, %d of output, %.1f ms", a.PromptTokens, a.OutputTokens, float64(a.TookNs)/1e6)
		if a.Error != nil {
			how = a.Error.Error()
		}
		s.alive = false
		say("request %s ends: %s", a.Request, how)
	}
	if e.Delivery == nil {
		return
	}
	switch m := Message(e.Delivery).(type) {
	case *schemas.KernelsRequest:
		if s.Request == 0 || s.alive {
			say("kernels of %s: %s from the next step on", clip(m.Op, 60), clip(m.Select, 60))
		}
	case *schemas.EncodeRequest:
		if s.about(m.Request) {
			say("encode for request %s", m.Request)
		}
	case *schemas.DeltaBatch:
		for i := range m.Seq {
			if id := schemas.SeqID(m.Seq[i]); s.about(id.Request()) && i < len(m.Text) && (m.Text[i] != "" || i < len(m.Finish) && m.Finish[i] != 0) {
				text := fmt.Sprintf("text %s %q", seqName(id), clip(m.Text[i], 60))
				if i < len(m.Finish) && m.Finish[i] != 0 {
					text += ", ended: " + schemas.FinishReason(m.Finish[i]).String()
				}
				say("%s", text)
			}
		}
	}
}

// scheduler tells what a scheduler was told and decided.
func (s *Story) scheduler(step *schemas.SchedulerStep, say func(string, ...any)) {
	switch {
	case s.Step != 0: // only the plan and what comes of it
	case step.Submit != nil && s.about(step.Submit.Request):
		r := step.Submit
		s.alive = step.Refused == nil
		how := "accepted"
		switch {
		case step.Refused != nil:
			how = "refused: " + step.Refused.Error()
		case step.Accepted != nil:
			how = fmt.Sprintf("%d wait before it", step.Accepted.Waiting)
		}
		say("submitted %s: %d prompt tokens, at most %d of output, n=%d; %s", r.Request, len(r.Tokens), r.MaxTokens, r.Choices, how)
	case step.Cancel != nil:
		for _, id := range step.Cancel.Seq {
			if seq := schemas.SeqID(id); s.about(seq.Request()) {
				say("cancelled %s: %s", seqName(seq), step.Cancel.Finish)
			}
		}
	case step.Lost != nil && s.Request == 0:
		say("a step is lost: %s", step.Lost)
	case step.Event == schemas.EventPolicy && (s.Request == 0 || s.alive):
		say("policy is now %s", step.Policy)
	case step.Event == schemas.EventCosts && step.Costs != nil && (s.Request == 0 || s.alive):
		say("policies expect steps to take what %s says", clip(step.Costs.Profile, 60))
	case step.Checkpoint != nil && s.Request == 0:
		say("checkpoint: epoch %d, %d sequences, policy %s; a replay can start here", step.Checkpoint.Epoch, len(step.Checkpoint.Seqs), step.Checkpoint.Info.Policy)
	}
	if step.Grant != nil && s.Step == 0 {
		for _, id := range step.Grant.Preempted {
			if seq := schemas.SeqID(id); s.about(seq.Request()) {
				say("%s loses its blocks to others: it will be recomputed", seqName(seq))
			}
		}
	}
	if p := step.Execute; p != nil {
		s.planned(p, step.Grant, say)
	}
	if r := step.Done; r != nil {
		s.done(r, say)
	}
}

func (s *Story) planned(p *schemas.StepPlan, grant *schemas.ReserveReply, say func(string, ...any)) {
	if s.plans == nil {
		s.plans = map[schemas.StepID]*schemas.StepPlan{}
	}
	if len(s.order) == plansMax { // their results are missing
		delete(s.plans, s.order[0])
		s.order = s.order[1:]
	}
	s.plans[p.Step], s.order = p, append(s.order, p.Step)
	if s.Step != 0 && p.Step != s.Step {
		return
	}
	tokens := int32(0)
	for _, n := range p.Count {
		tokens += n
	}
	if s.Request == 0 {
		say("step %d planned: %d sequences, %d tokens%s", p.Step, len(p.Seq), tokens, memoryText(grant))
		if s.Step == 0 {
			return
		}
	}
	block := 0
	for i := range p.Seq {
		seq, count := schemas.SeqID(p.Seq[i]), int(p.BlockCount[i])
		blocks := p.Blocks[block : block+count]
		block += count
		if !s.about(seq.Request()) {
			continue
		}
		what := fmt.Sprintf("positions %d to %d", p.Start[i], p.Start[i]+p.Count[i]-1)
		if p.Count[i] == 1 {
			what = fmt.Sprintf("position %d", p.Start[i])
		}
		if p.Sample[i] != schemas.SampleNone {
			what += ", samples"
		}
		if count > 0 {
			what += fmt.Sprintf(", new blocks %v", blocks)
		}
		say("step %d: %s in slot %d, %s; %d sequences, %d tokens in all", p.Step, seqName(seq), p.Slot[i], what, len(p.Seq), tokens)
	}
}

func memoryText(grant *schemas.ReserveReply) string {
	if grant == nil {
		return ""
	}
	text := fmt.Sprintf("; %d of %d blocks free", grant.Free, grant.Total)
	if grant.Evictable > 0 {
		text += fmt.Sprintf(", %d cached", grant.Evictable)
	}
	return text
}

func (s *Story) done(r *schemas.StepResult, say func(string, ...any)) {
	p := s.plans[r.Step]
	delete(s.plans, r.Step)
	s.order = slices.DeleteFunc(s.order, func(id schemas.StepID) bool { return id == r.Step })
	if s.Step != 0 && r.Step != s.Step {
		return
	}
	if s.Request == 0 {
		how := fmt.Sprintf("%d tokens sampled", len(r.Token))
		if r.Error != nil {
			how = r.Error.Error()
		}
		say("step %d done: %s; device %.3f ms, idle %.3f ms before it", r.Step, how, float64(r.Ledger.Device)/1e6, float64(r.Ledger.Idle)/1e6)
		if s.Step == 0 {
			return
		}
	}
	if p == nil {
		return
	}
	for i, row := range r.Row {
		if row < 0 || int(row) >= len(p.Seq) || i >= len(r.Token) {
			continue
		}
		if seq := schemas.SeqID(p.Seq[row]); s.about(seq.Request()) {
			say("step %d: %s samples token %d", r.Step, seqName(seq), r.Token[i])
		}
	}
}

// seqName is a sequence as people read it: its request and, if it is not the only choice, which one.
func seqName(id schemas.SeqID) string {
	if id.Choice() == 0 {
		return id.Request().String()
	}
	return fmt.Sprintf("%s/%d", id.Request(), id.Choice())
}

func clip(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n]) + "…"
	}
	return s
}
