package gateway

import (
	"context"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// fleet is a gateway in a cluster whose replicas report when the test says so.
type fleet struct {
	*engine
	g       *Gateway
	fetches atomic.Int64 // questions for prefixes
}

func startFleet(t *testing.T, play func(*engine, *schemas.SubmitRequest), names ...schemas.Instance) *fleet {
	t.Helper()
	f := &fleet{engine: startEngine(t, play)}
	for _, name := range names {
		f.addReplica(name)
	}
	var err error
	f.g, err = New(f.node, Config{Instance: "gateway0", Scheduler: "replica0", Tokenizer: "tokenizer0", ModelName: "fake", StallTimeMax: 5 * time.Second,
		Cluster: &Cluster{SilenceMax: time.Minute, MoveWaitMax: 300 * time.Millisecond}, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.g.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.g.Close)
	return f
}

// addReplica adds a scheduler that works like the engine's, and a memory that has two prefixes.
func (f *fleet) addReplica(name schemas.Instance) {
	f.t.Helper()
	s := bus.NewActor(f.node, "scheduler", name, "fake")
	group := bus.NewGroup()
	bus.Handle(s, schemas.Submit, group, f.submit)
	bus.Handle(s, schemas.CancelSeqs, group, f.cancel)
	bus.Handle(s, schemas.Engine, group, func(context.Context, *schemas.InfoRequest) (*schemas.EngineInfo, error) { return f.info, nil })
	m := bus.NewActor(f.node, "memory", name, "fake")
	bus.Handle(m, schemas.Prefixes, group, func(_ context.Context, r *schemas.PrefixRequest) (*schemas.PrefixReply, error) {
		f.fetches.Add(1)
		return &schemas.PrefixReply{Serial: 10, All: true, Added: schemas.U64{1, 2}}, nil
	})
	for _, a := range []*bus.Actor{s, m} {
		if err := a.Start(); err != nil {
			f.t.Fatal(err)
		}
	}
}

func report(name schemas.Instance) *schemas.ReplicaReport {
	return &schemas.ReplicaReport{Replica: name, Node: "n", Incarnation: 1, Version: bus.BuildVersion, Model: "fake", Numerics: "same", BlockSize: 16,
		Blocks: 100, FreeBlocks: 100, ContextMax: engineContext, SequencesMax: 8, Serial: 10}
}

// hear gives the gateway a report as if it came at a time.
func (f *fleet) hear(r *schemas.ReplicaReport, at time.Time) {
	f.t.Helper()
	if err := f.g.replicas.hear(r.Replica, r, at); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) known() int { return len(f.g.Replicas()) }

func TestReplicasComeAndGo(t *testing.T) {
	f := startFleet(t, recite, "a", "b")
	now := time.Now()
	if err := f.g.ready(); err == nil || !strings.Contains(err.Detail, "no replica of fake is there") {
		t.Errorf("without replicas: %v", err)
	}
	other := report("other")
	other.Model = "another"
	f.hear(other, now)
	f.hear(report("a"), now)
	f.hear(report("b"), now)
	eventually(t, "both are known, and nobody else", func() bool { return f.known() == 2 })
	eventually(t, "their prefixes are fetched", func() bool { return f.g.HeldPrefixes("a") == 2 && f.g.HeldPrefixes("b") == 2 })

	// What changes follows, also from a state that is older than the known one; a gap is closed by asking.
	r := report("a")
	r.Since, r.Serial, r.Added, r.Removed = 8, 12, schemas.U64{3, 4}, schemas.U64{1}
	f.hear(r, now)
	if held := f.g.HeldPrefixes("a"); held != 3 {
		t.Errorf("%d prefixes are held after two came and one went; want 3", held)
	}
	before := f.fetches.Load()
	r = report("a")
	r.Since, r.Serial = 20, 21
	f.hear(r, now)
	eventually(t, "what was missed is fetched", func() bool { return f.fetches.Load() > before && f.g.HeldPrefixes("a") == 2 })

	// Silence, a restart, a farewell.
	b := f.g.replicas.known["b"]
	f.hear(report("a"), now.Add(50*time.Second))
	f.g.replicas.look(now.Add(61 * time.Second))
	if f.known() != 1 || b.lost() == nil || !strings.Contains(b.lost().Error(), "silent for 1m1s") {
		t.Errorf("%d replicas are known; the silent one: %v", f.known(), b.lost())
	}
	a := f.g.replicas.known["a"]
	r = report("a")
	r.Incarnation = 2
	f.hear(r, now)
	if a.lost() == nil || !strings.Contains(a.lost().Error(), "restarted") {
		t.Errorf("the run before the restart: %v", a.lost())
	}
	eventually(t, "the next run is known", func() bool { return f.known() == 1 })
	r = report("a")
	r.Incarnation, r.Leaving = 2, true
	f.hear(r, now)
	if f.known() != 0 {
		t.Error("a replica that left is still used")
	}
}

func TestAStuckReplicaIsGivenUpUntilItMoves(t *testing.T) {
	f := startFleet(t, recite, "a")
	now := time.Now()
	busy := report("a")
	busy.Running, busy.Progress = 1, 5
	for s := range 4 {
		f.hear(busy, now.Add(time.Duration(s)*time.Minute))
	}
	f.g.replicas.look(now.Add(3*time.Minute + time.Second))
	if f.known() != 0 {
		t.Fatal("a replica without progress is used")
	}
	f.hear(busy, now.Add(4*time.Minute))
	if len(f.g.replicas.known) != 0 {
		t.Error("it came back without having moved")
	}
	idle := report("a")
	idle.Progress = 5
	f.hear(idle, now.Add(5*time.Minute))
	eventually(t, "it is back", func() bool { return f.known() == 1 })
}

func TestReportsThatCannotBeAreRefused(t *testing.T) {
	for want, spoil := range map[string]func(*schemas.ReplicaReport){
		"replica is x":        func(r *schemas.ReplicaReport) { r.Replica = "x" },
		"model is \"\"":       func(r *schemas.ReplicaReport) { r.Model = "" },
		"bytes of UTF-8":      func(r *schemas.ReplicaReport) { r.Model = "\xff" },
		"1 to 256 bytes":      func(r *schemas.ReplicaReport) { r.Model = strings.Repeat("x", 257) },
		"block_size is 0":     func(r *schemas.ReplicaReport) { r.BlockSize = 0 },
		"sequences_max is -1": func(r *schemas.ReplicaReport) { r.SequencesMax = -1 },
		"load is":             func(r *schemas.ReplicaReport) { r.QueuedTokens = -1 },
		"version is 9.0.0":    func(r *schemas.ReplicaReport) { r.Version = "9.0.0" },
	} {
		r := report("a")
		spoil(r)
		if err := checkReport("a", r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	for pair, want := range map[[2]string]bool{{"0.1.0", "0.2.7"}: true, {"v1.4.0", "1.3.9"}: true, {"0.1.0", "0.3.0"}: false, {"1.0.0", "2.0.0"}: false, {"devel", "0.1.0"}: true} {
		if bus.Compatible(pair[0], pair[1]) != want || bus.Compatible(pair[1], pair[0]) != want {
			t.Errorf("%q work together: want %v", pair, want)
		}
	}
}

// A request that one replica cannot take goes to another; if all are full, the client hears so.
func TestAFullReplicaIsPassedOver(t *testing.T) {
	f := startFleet(t, recite, "a", "b")
	var refusals atomic.Int64
	full := int64(1)
	f.refuse = func(*schemas.SubmitRequest) *schemas.Error {
		if refusals.Add(1) > atomic.LoadInt64(&full) {
			return nil
		}
		return schemas.Errorf(schemas.KindOverloaded, "submit", "the queue is full")
	}
	f.hear(report("a"), time.Now())
	f.hear(report("b"), time.Now())
	eventually(t, "both are known", func() bool { return f.known() == 2 })
	ask := func() (int, string) {
		server := f.g.HTTPServer()
		w := &recorder{header: http.Header{}}
		req, err := http.NewRequest("POST", "/v1/completions", strings.NewReader(`{"prompt":"one two","max_tokens":3}`))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		server.Handler.ServeHTTP(w, req)
		return w.status, w.body.String()
	}
	if status, body := ask(); status != http.StatusOK || f.g.Moved() != 1 {
		t.Errorf("status %d, %d requests moved: %s", status, f.g.Moved(), body)
	}
	atomic.StoreInt64(&full, 1000)
	refusals.Store(0)
	if status, body := ask(); status != http.StatusTooManyRequests || !strings.Contains(body, "the queue is full") {
		t.Errorf("all are full: status %d: %s", status, body)
	}
	if n := refusals.Load(); n != 2 {
		t.Errorf("%d replicas were asked; there are 2", n)
	}
}

// recorder is an http.ResponseWriter.
type recorder struct {
	header http.Header
	status int
	body   strings.Builder
}

func (w *recorder) Header() http.Header { return w.header }
func (w *recorder) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}
func (w *recorder) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
