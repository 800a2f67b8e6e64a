package troupe

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// A lost device ends everything with a named error, over HTTP and NATS, waiting requests included, and says so to whoever
// looks after the process.
func TestALostDeviceEndsEverythingByName(t *testing.T) {
	e := openEngine(t, func(o *Options) { o.SequencesMax = 4 })
	faults(t, e, "slow_device inf.v1.compute.execute.> delay=5ms") // or all is over before it is lost
	c := clientOf(t, e)
	endings := streams(t.Context(), t, c, 4, 1900)
	waiting := make(chan error, 1)
	go func() { // all slots are taken
		_, err := streamText(e, `{"prompt": "The queen", "max_tokens": 5, "stream": true}`, nil)
		waiting <- err
	}()
	waitFor(t, "a request waits", func() bool { return e.gateway.Running() == 5 })
	faults(t, e, "lose_device inf.v1.compute.execute.* count=1")
	for i, ending := range endings() {
		if ending.Status != http.StatusServiceUnavailable || ending.Endings != 1 || !strings.Contains(ending.Detail, "device lost on request (troupe faults)") {
			t.Errorf("stream %d: %+v", i, ending)
		}
	}
	if err := <-waiting; err == nil || !strings.HasPrefix(err.Error(), "device_lost: ") {
		t.Errorf("what waited: %v", err)
	}
	saysItsDeviceIsLost(t, e)
	for _, path := range []string{"/health", "/health/ready"} {
		status, body := debug(t, e, http.MethodGet, path, "")
		if status != http.StatusServiceUnavailable || !strings.Contains(string(body), "device lost") {
			t.Errorf("%s: %d %s", path, status, body)
		}
	}
	if status, body := debug(t, e, http.MethodPost, "/v1/completions", `{"prompt":"x","max_tokens":1}`); status != http.StatusServiceUnavailable || !strings.Contains(string(body), "device_lost") {
		t.Errorf("a new request: %d %s", status, body)
	}
}

func saysItsDeviceIsLost(t *testing.T, e *Engine) {
	t.Helper()
	select {
	case err := <-e.Failed():
		if !errors.Is(err, &schemas.Error{Kind: schemas.KindDeviceLost}) {
			t.Errorf("it failed with %v", err)
		}
	case <-time.After(time.Minute):
		t.Error("it does not say that it failed")
	}
}

// faults switches an engine's faults.
func faults(t *testing.T, e *Engine, rule string) {
	t.Helper()
	r, err := schemas.ParseFaultRule(rule)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.node.SetFaults(&schemas.FaultPlan{Seed: 1, Rules: []schemas.FaultRule{*r}}); err != nil {
		t.Fatal(err)
	}
}

// In a cluster, what ran on the node whose device is lost goes on elsewhere.
func TestALostDeviceOfAClusterIsNotMissed(t *testing.T) {
	list := asks(t, 11, 8, 300)
	hub := startHub(t, nil)
	startChild(t, hub, "survivor")
	node := openEngine(t, func(o *Options) {
		*o = clusterOptions()
		o.Node, o.Attach, o.Actors, o.HTTP = "loser", hub.LeafURL(), RoleReplica, "none"
	})
	faults(t, node, "slow_device inf.v1.compute.execute.> delay=5ms") // or all is over before it is lost
	waitFor(t, "both are known", func() bool { return len(reports(t, hub)) == 2 })
	askTogether(t, hub, list, func() {
		waitFor(t, "tokens come from it", func() bool { r := reports(t, hub)["loser"]; return r.Running > 0 && r.Progress > 50 })
		faults(t, node, "lose_device inf.v1.compute.execute.>")
		saysItsDeviceIsLost(t, node)
		waitFor(t, "it is given up", func() bool { return reports(t, hub)["loser"] == nil })
	})
	if hub.gateway.Moved() == 0 {
		t.Error("nothing moved; nothing was tested")
	}
}
