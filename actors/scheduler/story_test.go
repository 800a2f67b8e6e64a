package scheduler

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/troupe-engine/troupe/schemas"
)

// TestStories tells what the scheduler decides. The commands of testdata/*.txt:
//
//	engine [sequences=N] [budget=N] [blocks=N] [block=N] [depth=N] [policy=P] [waiting=N] [context=N]
//	submit NAME prompt=N [max=N] [n=N] [priority=N] [at=SECONDS] [like=NAME] [deadline=SECONDS] [user=NAME]
//	run [steps=N]             finish the oldest steps
//	cancel NAME
//	lose                      memory or compute forgot everything
//	policy NAME
//	queue                     who waits, in order
//	answer last-first|late|gone|nonsense    what the policy in another process says to the oldest question
//	tick at=SECONDS
//	state
//
// Every command prints the steps it planned: a row is name[start:end], with + if it samples, * if its token
// is still on the device, and what came from the prefix cache. Then come the sequences that ended.
func TestStories(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s *story
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd == "engine" {
				s = newStory(t, d)
				return ""
			}
			return s.run(t, d)
		})
	})
}

type story struct {
	w     *world
	names map[schemas.RequestID]string
	byRef map[string]*schemas.SubmitRequest
	told  map[schemas.SeqID]bool
}

func number(t *testing.T, d *datadriven.TestData, key string, def int) int {
	if d.HasArg(key) {
		d.ScanArgs(t, key, &def)
	}
	return def
}

func newStory(t *testing.T, d *datadriven.TestData) *story {
	cfg := Config{SequencesMax: int32(number(t, d, "sequences", 4)), TokensStepMax: int32(number(t, d, "budget", 8)),
		Blocks: int32(number(t, d, "blocks", 100)), BlockSize: int32(number(t, d, "block", 4)), PipelineDepth: int32(number(t, d, "depth", 1)),
		WaitingMax: int32(number(t, d, "waiting", 100)), ContextMax: int32(number(t, d, "context", 100))}
	if d.HasArg("policy") {
		d.ScanArgs(t, "policy", &cfg.Policy)
	}
	return &story{w: newWorld(t, cfg), names: map[schemas.RequestID]string{}, byRef: map[string]*schemas.SubmitRequest{}, told: map[schemas.SeqID]bool{}}
}

func (s *story) name(id schemas.SeqID) string {
	name := s.names[id.Request()]
	if s.byRef[name].Choices > 1 {
		name += fmt.Sprintf(".%d", id.Choice())
	}
	return name
}

func (s *story) run(t *testing.T, d *datadriven.TestData) string {
	var out strings.Builder
	if d.HasArg("at") {
		s.w.now = int64(number(t, d, "at", 0)) * 1e9
	}
	before := len(s.w.queue)
	switch d.Cmd {
	case "submit":
		if err := s.submit(t, d); err != nil {
			fmt.Fprintf(&out, "refused: %v\n", err)
		}
		s.plans(&out, before)
	case "run":
		for range number(t, d, "steps", 1) {
			if len(s.w.queue) == 0 {
				out.WriteString("nothing runs\n")
				break
			}
			_, plans := s.w.finish()
			s.tell(&out, plans)
		}
	case "cancel":
		r := s.byRef[d.CmdArgs[0].Key]
		req := &schemas.CancelRequest{Finish: schemas.FinishCancel}
		for i := range int(r.Choices) {
			req.Seq = append(req.Seq, uint64(r.Request.Seq(i)))
		}
		fx, plans := s.w.event(Cancelled{req})
		fmt.Fprintf(&out, "%d were alive\n", fx.Cancelled)
		s.tell(&out, plans)
	case "lose":
		s.w.lose()
		s.plans(&out, 0)
	case "policy":
		p, err := PolicyByName(d.CmdArgs[0].Key)
		if err != nil {
			return err.Error() + "\n"
		}
		s.w.event(PolicyChosen{p})
	case "queue":
		for _, q := range s.w.core.waiting {
			fmt.Fprintf(&out, "%s\n", s.name(q.id))
		}
	case "answer":
		s.answer(&out, d.CmdArgs[0].Key)
	case "tick":
		_, plans := s.w.event(Tick{})
		s.tell(&out, plans)
	case "state":
		for _, q := range s.w.core.State(s.w.now).Seqs {
			fmt.Fprintf(&out, "%s: %s slot %d, %d+%d tokens, %d computed, %d preemptions\n", s.name(q.Seq), q.Phase, q.Slot, q.Prompt, q.Output, q.Computed, q.Preemptions)
		}
	default:
		d.Fatalf(t, "unknown command %s", d.Cmd)
	}
	s.endings(&out)
	return out.String()
}

// answer tells the core what became of the oldest question, and what that changes.
func (s *story) answer(out *strings.Builder, what string) {
	if len(s.w.questions) == 0 {
		out.WriteString("there is no question\n")
		return
	}
	q := s.w.questions[0]
	s.w.questions = s.w.questions[1:]
	o := lastFirst(q)
	switch what {
	case "late":
		o.Reply, o.Error = nil, schemas.Errorf(schemas.KindTimeout, "rank", "no answer within %s", q.Limit)
	case "gone":
		o.Reply, o.Error = nil, schemas.Errorf(schemas.KindUnavailable, "rank", "nobody answers on %s", q.Subject)
	case "nonsense":
		o.Reply.Order[0] = o.Reply.Order[1]
	}
	fx, plans := s.w.event(Ranked{o})
	if fx.PolicyFell != nil {
		fmt.Fprintf(out, "the fallback decides: %s\n", fx.PolicyFell.Detail)
	}
	if fx.PolicyBack {
		out.WriteString("the policy decides again\n")
	}
	s.tell(out, plans)
}

func (s *story) submit(t *testing.T, d *datadriven.TestData) *schemas.Error {
	name := d.CmdArgs[0].Key
	r := &schemas.SubmitRequest{Request: schemas.NewRequestID(1, uint32(len(s.names)+1)), Choices: int32(number(t, d, "n", 1)),
		MaxTokens: int32(number(t, d, "max", 3)), Priority: int32(number(t, d, "priority", 0)), Sampling: schemas.SamplingParams{TopP: 1}}
	if at := number(t, d, "deadline", 0); at > 0 {
		r.DeadlineMs = int64(at) * 1000
	}
	if d.HasArg("user") {
		d.ScanArgs(t, "user", &r.User)
	}
	if d.HasArg("like") {
		var other string
		d.ScanArgs(t, "like", &other)
		r.Tokens = append(r.Tokens, s.byRef[other].Tokens...)
	}
	for i := len(r.Tokens); i < number(t, d, "prompt", 4); i++ {
		r.Tokens = append(r.Tokens, int32(len(s.names)*50+i)%worldVocab)
	}
	s.names[r.Request], s.byRef[name] = name, r
	return s.w.submit(r)
}

// plans prints the queued plans from index from on.
func (s *story) plans(out *strings.Builder, from int) int {
	s.tell(out, s.w.queue[from:])
	return len(s.w.queue)
}

func (s *story) tell(out *strings.Builder, plans []*schemas.StepPlan) {
	for _, p := range plans {
		fmt.Fprintf(out, "step %d:", p.Step)
		for i := range p.Seq {
			fmt.Fprintf(out, " %s[%d:%d]", s.name(schemas.SeqID(p.Seq[i])), p.Start[i], p.Start[i]+p.Count[i])
			if p.Sample[i] == 1 {
				out.WriteByte('+')
			}
			if p.Known[i] == 0 {
				out.WriteByte('*')
			}
		}
		if len(p.Copies) > 0 {
			fmt.Fprintf(out, " copies %v", p.Copies)
		}
		out.WriteByte('\n')
	}
}

func (s *story) endings(out *strings.Builder) {
	for n := uint32(1); n <= uint32(len(s.names)); n++ {
		id := schemas.NewRequestID(1, n)
		for i := range int(s.byRef[s.names[id]].Choices) {
			a := s.w.answers[id.Seq(i)]
			if a == nil || a.ends == 0 || s.told[id.Seq(i)] {
				continue
			}
			s.told[id.Seq(i)] = true
			fmt.Fprintf(out, "%s ends after %d tokens: %s", s.name(id.Seq(i)), len(a.tokens), a.finish)
			if a.err != nil {
				fmt.Fprintf(out, " (%s)", a.err.Detail)
			}
			out.WriteByte('\n')
		}
	}
}
