package measure

import (
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/schemas"
)

// messagesMax bounds what a watcher keeps.
const messagesMax = 1 << 20

// Watcher keeps the plans and results of an engine's steps as they were on the wire. It reads them only afterwards:
// watching is not to slow down what it watches.
type Watcher struct {
	conn    *nats.Conn
	subs    []*nats.Subscription
	mu      sync.Mutex
	plans   [][]byte
	results [][]byte
}

// Watch begins to watch the engine of a node.
func Watch(node *bus.Node) (*Watcher, error) {
	conn, err := node.Connection("profile")
	if err != nil {
		return nil, err
	}
	return WatchReplica(conn, "*")
}

// WatchReplica begins to watch the replica of the name, "*" is any, over a connection, which Close closes.
func WatchReplica(conn *nats.Conn, replica schemas.Instance) (*Watcher, error) {
	w := &Watcher{conn: conn}
	for _, s := range []struct {
		subject string
		to      *[][]byte
	}{{schemas.Execute.Subject(replica), &w.plans}, {schemas.StepDone.Subject(replica), &w.results}} {
		sub, err := conn.Subscribe(schemas.TapPrefix+s.subject, func(m *nats.Msg) {
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(*s.to) < messagesMax {
				*s.to = append(*s.to, m.Data)
			}
		})
		if err != nil {
			conn.Close()
			return nil, err
		}
		w.subs = append(w.subs, sub)
	}
	if err := conn.Flush(); err != nil {
		conn.Close()
		return nil, err
	}
	return w, nil
}

// settleTime is how long the last messages may be under way.
const settleTime = 50 * time.Millisecond

// Take returns the steps since the last call, each with the time that the device took for it, and how long it waited
// for a plan before.
func (w *Watcher) Take() ([]Step, error) {
	time.Sleep(settleTime)
	w.mu.Lock()
	plans, results := w.plans, w.results
	w.plans, w.results = nil, nil
	w.mu.Unlock()
	type name struct {
		epoch schemas.Epoch
		step  schemas.StepID
	}
	shapes := map[name]profile.Shape{}
	for _, wire := range plans {
		var p schemas.StepPlan
		if err := schemas.Unmarshal(wire, &p); err != nil {
			return nil, err
		}
		shapes[name{p.Epoch, p.Step}] = profile.ShapeOf(&p)
	}
	var steps []Step
	for _, wire := range results {
		var r schemas.StepResult
		if err := schemas.Unmarshal(wire, &r); err != nil {
			return nil, err
		}
		if shape, ok := shapes[name{r.Epoch, r.Step}]; ok && r.Error == nil {
			steps = append(steps, Step{Shape: shape.After(r.Ledger.Idle), Busy: time.Duration(r.Ledger.Upload + r.Ledger.Device), Idle: time.Duration(r.Ledger.Idle)})
		}
	}
	return steps, nil
}

// Close stops watching.
func (w *Watcher) Close() { w.conn.Close() }

// Step is one step that ran.
type Step struct {
	Shape      profile.Shape
	Busy, Idle time.Duration
}
