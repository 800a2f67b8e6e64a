package bus

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/schemas"
)

// BuildVersion is the version actors announce. The command sets it at start.
var BuildVersion = "0.1.0"

// instanceBytesMax bounds an instance name: it is a token of many subjects.
const instanceBytesMax = 64

// Actor is a named set of endpoints on a node. Build it with NewActor and Handle, then Start it.
type Actor struct {
	node       *Node
	service    string
	instance   schemas.Instance
	doc        string
	ports      []startable
	micro      micro.Service
	gate       gate
	started    bool
	ownJournal bool
	stopping   sync.Once
}

type startable interface {
	open(a *Actor, svc micro.Service) error
	unroute(n *Node)
	drain()
	localStats() portStats
}

// NewActor prepares an actor of a service ("scheduler") under an instance name ("replica0"). doc is
// one sentence for `nats micro info`.
func NewActor(n *Node, service string, instance schemas.Instance, doc string) *Actor {
	return &Actor{node: n, service: service, instance: instance, doc: doc, gate: gate{idle: make(chan struct{}, 1)}}
}

// JournalsItself says that what the actor is told is in a journal already, its own or that of an actor that it works
// for: its deliveries are not noted a second time. Call before Start.
func (a *Actor) JournalsItself() { a.ownJournal = true }

// Name is service and instance: "scheduler.replica0".
func (a *Actor) Name() string { return a.service + "." + string(a.instance) }

// Instance is the actor's instance name.
func (a *Actor) Instance() schemas.Instance { return a.instance }

// Node is where the actor lives.
func (a *Actor) Node() *Node { return a.node }

// Start makes the actor reachable: in this process, and over NATS as a micro service whose endpoints
// carry their schema and example data. An actor starts once.
func (a *Actor) Start() error {
	if err := checkInstance(a.instance); err != nil {
		return fmt.Errorf("bus: start an actor of %s: %w", a.service, err)
	}
	if a.started {
		return fmt.Errorf("bus: %s was started before: make a new actor to start again", a.Name())
	}
	a.started = true
	svc, err := micro.AddService(a.node.data, micro.Config{
		Name: a.service, Version: BuildVersion, Description: a.doc,
		Metadata: map[string]string{"instance": string(a.instance), "node": string(a.node.id)},
		StatsHandler: func(e *micro.Endpoint) any {
			for _, p := range a.ports {
				if s := p.localStats(); s.Endpoint == e.Name {
					return s
				}
			}
			return nil // the endpoint of the instance's own subject: counted with the shared one
		},
	})
	if err != nil {
		return fmt.Errorf("bus: %s: %w", a.Name(), err)
	}
	a.micro = svc
	for _, p := range a.ports {
		if err := p.open(a, svc); err != nil {
			a.Stop()
			return fmt.Errorf("bus: %s: %w", a.Name(), err)
		}
	}
	if !a.node.addActor(a) {
		a.Stop()
		return fmt.Errorf("bus: %s: the node is closed", a.Name())
	}
	return nil
}

// Stop makes the actor unreachable and waits, at most 2 s, for running handlers. No handler starts
// afterwards: requests that still wait get KindUnavailable.
func (a *Actor) Stop() {
	a.stopping.Do(func() {
		for _, p := range a.ports {
			p.unroute(a.node)
		}
		a.gate.close()
		if a.micro != nil {
			_ = a.micro.Stop() // an error means that the connection is gone, and the service with it
		}
		drained := make(chan struct{})
		go func() {
			defer close(drained)
			for _, p := range a.ports {
				p.drain()
			}
			<-a.gate.idle
		}()
		select {
		case <-drained:
		case <-time.After(drainTimeout):
			a.node.log.Warn().Str("actor", a.Name()).Dur("waited", drainTimeout).Msg("stopped while a handler still runs")
		}
		a.node.removeActor(a)
	})
}

// gate counts running handlers and, once closed, lets no more start.
type gate struct {
	state atomic.Int64  // running handlers, plus gateClosed
	idle  chan struct{} // gets an element when the gate is closed and nobody runs
}

const gateClosed = int64(1) << 40

func (g *gate) enter() bool {
	if g.state.Add(1) < gateClosed {
		return true
	}
	g.leave()
	return false
}

func (g *gate) leave() {
	if g.state.Add(-1) == gateClosed {
		g.signal()
	}
}

func (g *gate) close() {
	if g.state.Add(gateClosed) == gateClosed {
		g.signal()
	}
}

func (g *gate) signal() {
	select {
	case g.idle <- struct{}{}:
	default:
	}
}

// checkInstance refuses names that would not be one plain token of a subject.
func checkInstance(i schemas.Instance) *schemas.Error {
	plain := len(i) > 0 && len(i) <= instanceBytesMax
	for _, c := range []byte(i) {
		plain = plain && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
	}
	if plain {
		return nil
	}
	return schemas.Errorf(schemas.KindInvalid, "address", "instance name %.80q; expected 1 to %d letters, digits, - and _", string(i), instanceBytesMax).WithParam("instance")
}

// Run executes f as a handler of a under mailbox mb, for events that are not messages, such as time.
// It does nothing if a has stopped or mb is overloaded: then time may pass it by.
func Run(mb Mailbox, a *Actor, f func(ctx context.Context)) {
	_ = mb.do(context.Background(), &action{a, f})
}

type action struct {
	owner *Actor
	f     func(ctx context.Context)
}

func (t *action) actor() *Actor { return t.owner }

func (t *action) run(ctx context.Context) {
	if t.owner.gate.enter() {
		defer t.owner.gate.leave()
		t.f(ctx)
	}
}
