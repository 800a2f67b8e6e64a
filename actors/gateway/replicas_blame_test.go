package gateway

import (
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// complete posts a completion of three words.
func (f *fleet) complete() (int, string) {
	f.t.Helper()
	w := &recorder{header: http.Header{}}
	req, err := http.NewRequest("POST", "/v1/completions", strings.NewReader(`{"prompt":"one two","max_tokens":3}`))
	if err != nil {
		f.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	f.g.HTTPServer().Handler.ServeHTTP(w, req)
	return w.status, w.body.String()
}

// broken fails sequences after a word, as a device does that comes to nothing, as long as the test wants it.
func broken(left *atomic.Int64, kind schemas.Kind) func(*engine, *schemas.SubmitRequest) {
	return func(e *engine, r *schemas.SubmitRequest) {
		if left.Add(-1) < 0 {
			recite(e, r)
			return
		}
		e.send(delta{seq: r.Request.Seq(0), text: "w0 ", tokens: 1})
		e.send(delta{seq: r.Request.Seq(0), tokens: 1, id: -1, finish: schemas.FinishError, err: schemas.Errorf(kind, "step", "the device is broken")})
	}
}

func TestWhatAReplicaFailsGoesOnElsewhere(t *testing.T) {
	var left atomic.Int64
	f := startFleet(t, broken(&left, schemas.KindInternal), "a", "b")
	f.hear(report("a"), time.Now())
	f.hear(report("b"), time.Now())
	eventually(t, "both are known", func() bool { return f.known() == 2 })
	left.Store(1)
	status, body := f.complete()
	if status != http.StatusOK || f.g.Moved() != 1 {
		t.Fatalf("status %d, %d moved: %s", status, f.g.Moved(), body)
	}
	f.mu.Lock()
	last := f.submits[len(f.submits)-1]
	f.mu.Unlock()
	if last.Resume == nil || len(last.Resume.Tokens) != 1 {
		t.Errorf("it goes on from %+v, not from the token that had come", last.Resume)
	}

	// The same request fails elsewhere, too: it may be what breaks the steps.
	left.Store(2)
	if status, body = f.complete(); status != http.StatusInternalServerError || !strings.Contains(body, "the device is broken") {
		t.Errorf("failed twice: status %d: %s", status, body)
	}
	f.g.replicas.mu.Lock()
	faults := f.g.replicas.known["a"].faults + f.g.replicas.known["b"].faults
	f.g.replicas.mu.Unlock()
	if faults != 2 {
		t.Errorf("%d faults are known; two requests failed first somewhere", faults)
	}
}

func TestWhatIsTheClientsFaultStays(t *testing.T) {
	var left atomic.Int64
	f := startFleet(t, broken(&left, schemas.KindInvalid), "a", "b")
	f.hear(report("a"), time.Now())
	f.hear(report("b"), time.Now())
	eventually(t, "both are known", func() bool { return f.known() == 2 })
	left.Store(1)
	if status, body := f.complete(); status != http.StatusBadRequest || f.g.Moved() != 0 {
		t.Errorf("status %d, %d moved: %s", status, f.g.Moved(), body)
	}
}

func TestTheOnlyReplicasFaultIsTold(t *testing.T) {
	var left atomic.Int64
	f := startFleet(t, broken(&left, schemas.KindInternal), "a")
	f.hear(report("a"), time.Now())
	eventually(t, "it is known", func() bool { return f.known() == 1 })
	left.Store(1)
	f.g.replicas.cfg.MoveWaitMax = time.Hour // it does not wait: nobody else can come
	if status, body := f.complete(); status != http.StatusInternalServerError || !strings.Contains(body, "the device is broken") {
		t.Errorf("status %d: %s", status, body)
	}
}

func TestAReplicaThatKeepsFailingGetsNothingNew(t *testing.T) {
	f := startFleet(t, recite, "a", "b")
	now := time.Now()
	f.hear(report("a"), now)
	f.hear(report("b"), now)
	eventually(t, "both are known", func() bool { return f.known() == 2 })
	rs, why := f.g.replicas, schemas.Errorf(schemas.KindInternal, "step", "broken")
	drains := func(name schemas.Instance) bool {
		rs.mu.Lock()
		defer rs.mu.Unlock()
		for _, r := range rs.router.Replicas() {
			if r.Name == name {
				return r.Draining
			}
		}
		t.Fatalf("%s is not known", name)
		return false
	}
	for range faultsMax {
		if drains("a") {
			t.Error("one fault is enough")
		}
		rs.blame(rs.known["a"], why, now)
	}
	if !drains("a") || drains("b") {
		t.Errorf("a drains: %v, b drains: %v; want a alone", drains("a"), drains("b"))
	}
	for range faultsMax {
		rs.blame(rs.known["b"], why, now)
	}
	f.hear(report("a"), now)
	if drains("a") || drains("b") {
		t.Error("with all of them failing, none takes requests")
	}
}

// fatal fails sequences of one token as a step that loses its device does, with a token before it on request, as long as the
// test wants it.
func fatal(left *atomic.Int64, step schemas.StepID) func(*engine, *schemas.SubmitRequest) {
	return func(e *engine, r *schemas.SubmitRequest) {
		if left.Add(-1) < 0 {
			recite(e, r)
			return
		}
		err := schemas.Errorf(schemas.KindDeviceLost, "forward", "the device is gone")
		err.Step = step
		e.send(delta{seq: r.Request.Seq(0), id: -1, finish: schemas.FinishError, err: err})
	}
}

func TestARequestThatLosesDevicesIsNamed(t *testing.T) {
	var left atomic.Int64
	for step, want := range map[schemas.StepID]struct {
		losses int64
		status int
	}{
		7: {strikesMax, http.StatusServiceUnavailable}, // it was in the step, each time
		0: {strikesMax + 1, http.StatusOK},             // it only waited
	} {
		f := startFleet(t, fatal(&left, step), "a", "b", "c", "d", "e")
		for _, name := range []schemas.Instance{"a", "b", "c", "d", "e"} {
			f.hear(report(name), time.Now())
		}
		eventually(t, "all are known", func() bool { return f.known() == 5 })
		left.Store(want.losses)
		status, body := f.complete()
		if status != want.status || step != 0 && !strings.Contains(body, "3 times in a row while this request ran") {
			t.Errorf("step %d: status %d: %s", step, status, body)
		}
		if len(f.g.replicas.suspects) != 0 {
			t.Error("the suspects' turn is not given back")
		}
		left.Store(strikesMax - 1) // not often enough
		if status, body := f.complete(); status != http.StatusOK {
			t.Errorf("step %d, one time less: status %d: %s", step, status, body)
		}
		eventually(t, "the turn is given back", func() bool { return len(f.g.replicas.suspects) == 0 })
	}
}

// What is done about a missing replica is told, and new requests wait for it; when that is given up, they do not.
func TestNewRequestsWaitForAReplicaThatIsComing(t *testing.T) {
	f := startFleet(t, recite, "a")
	var coming atomic.Value
	coming.Store("it is started again")
	f.g.replicas.cfg.Coming = func() string { return coming.Load().(string) }
	f.hear(report("a"), time.Now())
	eventually(t, "it is known", func() bool { return f.known() == 1 })
	if status, body := f.complete(); status != http.StatusOK {
		t.Fatalf("%d %s", status, body)
	}
	leaving := report("a")
	leaving.Leaving = true
	f.hear(leaving, time.Now())
	if err := f.g.ready(); err == nil || !strings.Contains(err.Detail, "it is started again") {
		t.Errorf("not ready: %v", err)
	}
	f.g.replicas.cfg.MoveWaitMax = time.Hour
	again := time.AfterFunc(100*time.Millisecond, func() { f.hear(report("a"), time.Now()) })
	defer again.Stop()
	if status, body := f.complete(); status != http.StatusOK {
		t.Errorf("what waited: %d %s", status, body)
	}
	f.hear(leaving, time.Now())
	f.g.replicas.cfg.MoveWaitMax = 300 * time.Millisecond
	if status, body := f.complete(); status != http.StatusServiceUnavailable || !strings.Contains(body, "no replica came within 300ms") {
		t.Errorf("what waited in vain: %d %s", status, body)
	}
	coming.Store("")
	f.g.replicas.cfg.MoveWaitMax = time.Hour // it does not wait
	if status, _ := f.complete(); status != http.StatusServiceUnavailable {
		t.Errorf("nothing is coming: %d", status)
	}
}
