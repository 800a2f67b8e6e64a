package recording

import (
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// TestStoriesTellOfPoliciesAndGaps: a request's story has the policy changes of its life and no others, and gaps are lines.
func TestStoriesTellOfPoliciesAndGaps(t *testing.T) {
	id := schemas.NewRequestID(1, 1)
	policy := func(name string) *Entry {
		return &Entry{JournalEntry: schemas.JournalEntry{Actor: "scheduler.a", Scheduler: &schemas.SchedulerStep{Event: schemas.EventPolicy, Policy: name}}}
	}
	s := &Story{Request: id}
	var text strings.Builder
	for _, e := range []*Entry{policy("before"),
		{JournalEntry: schemas.JournalEntry{Actor: "scheduler.a", Scheduler: &schemas.SchedulerStep{Event: schemas.EventSubmit, Submit: &schemas.SubmitRequest{Request: id, Choices: 1}, Accepted: &schemas.SubmitReply{}}}},
		policy("meanwhile"),
		{JournalEntry: schemas.JournalEntry{Actor: "scheduler.a", Scheduler: &schemas.SchedulerStep{Event: schemas.EventCosts, Costs: &schemas.StepCosts{Profile: "mine"}}}},
		{JournalEntry: schemas.JournalEntry{Actor: "gateway.a", Answer: &schemas.ClientAnswer{Request: id}}}, policy("after")} {
		for _, l := range s.Tell(e) {
			text.WriteString(l.Text + "\n")
		}
	}
	for want, is := range map[string]bool{"meanwhile": true, "mine": true, "before it": true, "policy is now before": false, "after": false} {
		if strings.Contains(text.String(), want) != is {
			t.Errorf("%q is told: %v\n%s", want, !is, text.String())
		}
	}
	lines := s.Missing(policy("x"), []Gap{{Node: "n", From: 3, To: 9, Why: "the disk was full"}})
	if len(lines) != 1 || !strings.Contains(lines[0].Text, "entries 3 to 9 of n") {
		t.Errorf("%+v", lines)
	}
}
