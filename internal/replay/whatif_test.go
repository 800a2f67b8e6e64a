package replay

import (
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// TestThePolicyOfMostSteps stands for a recording in which it changed.
func TestThePolicyOfMostSteps(t *testing.T) {
	p := &past{info: &schemas.EngineInfo{Policy: "fcfs"}, ran: map[string]int{}}
	if got := p.policy(); got != "fcfs" {
		t.Errorf("without a step: %s", got)
	}
	for _, c := range []struct {
		policy string
		steps  int
	}{{"fcfs", 3}, {"fair", 7}, {"fair", 1}, {"shortest", 8}} {
		p.chosen(c.policy)
		p.ran[c.policy] += c.steps
	}
	if got := p.policy(); got != "fair" || p.changes != 2 {
		t.Errorf("%s after %d changes; want fair, the first of two with eight steps, after 2", got, p.changes)
	}
}
