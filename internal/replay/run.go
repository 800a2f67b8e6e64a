package replay

import (
	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/schemas"
)

// thread holds on to one node's entries, from a checkpoint to the first that is missing.
type thread struct {
	held    bool
	node    schemas.NodeID
	started int64
	part    int
	next    uint64
}

// begin holds on from a checkpoint.
func (t *thread) begin(e *recording.Entry) {
	*t = thread{held: true, node: e.Node, started: e.Started, part: e.Part, next: e.Number + 1}
}

// lost says that an entry proves that others before it are missing: the run is over.
func (t *thread) lost(e *recording.Entry) bool {
	if !t.held || e.Part == t.part && e.Node != t.node {
		return false
	}
	if e.Part == t.part && e.Started == t.started && e.Number == t.next {
		t.next++
		return false
	}
	t.held = false
	return true
}
