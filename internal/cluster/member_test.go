package cluster

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// replica stands in for a scheduler and a memory.
type replica struct {
	running atomic.Int32
	changes atomic.Pointer[schemas.PrefixReply]
	since   atomic.Uint64 // of the last question
	silent  atomic.Bool
}

// startAs starts them under a name. What it returns stops them.
func (r *replica) startAs(t *testing.T, n *bus.Node, name schemas.Instance) (stop func()) {
	t.Helper()
	group := bus.NewGroup()
	s, m := bus.NewActor(n, "scheduler", name, "fake"), bus.NewActor(n, "memory", name, "fake")
	bus.Handle(s, schemas.SchedulerInfo, group, func(context.Context, *schemas.InfoRequest) (*schemas.SchedulerState, error) {
		if r.silent.Load() {
			return nil, schemas.Errorf(schemas.KindInternal, "state", "stuck")
		}
		return &schemas.SchedulerState{Running: r.running.Load(), Tokens: 7, Prefilled: 3, QueuedTokens: 40}, nil
	})
	bus.Handle(s, schemas.Engine, group, func(context.Context, *schemas.InfoRequest) (*schemas.EngineInfo, error) {
		return &schemas.EngineInfo{BlockSize: 16, Blocks: 100, SequencesMax: 8, ContextMax: 512}, nil
	})
	bus.Handle(m, schemas.Prefixes, group, func(_ context.Context, q *schemas.PrefixRequest) (*schemas.PrefixReply, error) {
		r.since.Store(q.Since)
		return r.changes.Load(), nil
	})
	for _, a := range []*bus.Actor{s, m} {
		if err := a.Start(); err != nil {
			t.Error(err)
		}
	}
	return func() { s.Stop(); m.Stop() }
}

// stage is a member and what it has reported.
type stage struct {
	*replica
	node   *bus.Node
	member *Member
	mu     sync.Mutex
	latest *schemas.ReplicaReport
	count  int
	left   []schemas.Instance // replicas that have reported that they leave
}

// start makes a node with a replica, r1, a member.
func start(t *testing.T) *stage {
	t.Helper()
	n, err := bus.Start(bus.Options{ID: "n1", Listen: "none", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	s := &stage{replica: &replica{}, node: n}
	s.changes.Store(&schemas.PrefixReply{Serial: 1, All: true, Added: schemas.U64{5}, Available: 90})
	s.replica.startAs(t, n, "r1")
	if _, err := bus.Subscribe(n, schemas.ReplicaReports, "", func(_ schemas.Instance, m *schemas.ReplicaReport) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.latest, s.count = m, s.count+1; m.Leaving {
			s.left = append(s.left, m.Replica)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if s.member, err = Join(n, Config{Roles: []string{"replica"}, Model: "m", HTTP: "http://here", Requests: func() int32 { return 2 }, Log: zerolog.Nop()}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.member.Add(ReplicaConfig{Replica: "r1", Model: "m", Numerics: "x"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.member.Leave)
	return s
}

func (s *stage) eventually(t *testing.T, what string, is func(r *schemas.ReplicaReport, count int) bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s.mu.Lock()
		reached := s.latest != nil && is(s.latest, s.count)
		s.mu.Unlock()
		if reached {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("it does not come true that %s; the last report is %+v", what, s.latest)
		}
	}
}

func TestAReplicaIsReported(t *testing.T) {
	s := start(t)
	s.eventually(t, "the first report says what there is", func(r *schemas.ReplicaReport, _ int) bool {
		return r.Replica == "r1" && r.Node == "n1" && r.Numerics == "x" && r.BlockSize == 16 && r.FreeBlocks == 90 && r.QueuedTokens == 40 &&
			r.Progress == 10 && r.Since == 0 && r.Serial == 1 && r.Added == nil
	})
	s.changes.Store(&schemas.PrefixReply{Serial: 3, Added: schemas.U64{6}, Removed: schemas.U64{5}})
	s.eventually(t, "changes follow", func(r *schemas.ReplicaReport, _ int) bool {
		return r.Since == 1 && r.Serial == 3 && len(r.Added) == 1 && len(r.Removed) == 1 || r.Since == 3
	})
	if since := s.since.Load(); since != 1 && since != 3 {
		t.Errorf("memory was asked for changes since %d", since)
	}
	s.changes.Store(&schemas.PrefixReply{Serial: 9, Added: make(schemas.U64, changesMax+1)})
	s.eventually(t, "too many changes are left to those who ask", func(r *schemas.ReplicaReport, _ int) bool { return r.Serial == 9 && r.Since == 0 && r.Added == nil })
	// A replica that does not answer is not reported: others give it up.
	s.silent.Store(true)
	time.Sleep(2 * ReportEvery)
	s.mu.Lock()
	before := s.count
	s.mu.Unlock()
	time.Sleep(3 * ReportEvery)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count != before {
		t.Errorf("a replica that does not answer was reported %d times", s.count-before)
	}
}

func TestDraining(t *testing.T) {
	s := start(t)
	s.running.Store(1)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	report, err := bus.NewRef(s.node, schemas.DrainNode, "n1").Call(ctx, &schemas.DrainRequest{})
	if err != nil || !report.Draining || report.HTTP != "http://here" || len(report.Actors) != 3 {
		t.Errorf("got %+v, %v", report, err)
	}
	s.eventually(t, "it is reported as draining", func(r *schemas.ReplicaReport, _ int) bool { return r.Draining })
	short, end := context.WithTimeout(ctx, 100*time.Millisecond)
	defer end()
	if err := s.member.Drain(short); err == nil || !strings.Contains(err.Error(), "1 sequences go on elsewhere") {
		t.Errorf("with a sequence running: %v", err)
	}
	s.running.Store(0)
	if err := s.member.Drain(ctx); err != nil {
		t.Error(err)
	}
	if report, err = bus.NewRef(s.node, schemas.DrainNode, "n1").Call(ctx, &schemas.DrainRequest{Resume: true}); err != nil || report.Draining || report.Busy < 2 {
		t.Errorf("got %+v, %v", report, err)
	}
	s.member.Leave()
	s.eventually(t, "the last report says so", func(r *schemas.ReplicaReport, _ int) bool { return r.Leaving })
}
