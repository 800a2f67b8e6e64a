package troupe

import (
	"testing"

	"github.com/troupe-engine/troupe/internal/cluster"
)

// What operators decide holds on all nodes at once, on those that start later, and when it can be changed no more.
func TestNodesFollowDecisions(t *testing.T) {
	list := asks(t, 8, 2, 40)
	hub := startHub(t, func(o *Options) { o.Store = t.TempDir() })
	second := openEngine(t, func(o *Options) {
		*o = clusterOptions()
		o.HTTP, o.Attach, o.Actors, o.Node = "127.0.0.1:0", hub.LeafURL(), RoleGateway, "g2"
	})
	startChild(t, hub, "r1")
	s, err := cluster.OpenState(t.Context(), hub.node.Conn(), true)
	if err != nil {
		t.Fatal(err)
	}
	decide := func(key, value string) {
		t.Helper()
		if err := s.Set(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
	}
	decide(cluster.KeyRouting, "round-robin")
	for _, e := range []*Engine{hub, second} {
		waitFor(t, "it routes as decided", func() bool { return e.gateway.Routing() == "round-robin" })
	}
	decide(cluster.KeyRouting, "nosuch") // of a newer version, say: what holds goes on
	decide(cluster.PlacementPrefix+"g3", "nosuchmodel")
	waitFor(t, "a node that is to serve what is not there says so", func() bool {
		opts := clusterOptions()
		opts.HTTP, opts.Attach, opts.Actors, opts.Node = "none", hub.LeafURL(), RoleGateway, "g3"
		e, err := Open(t.Context(), opts, hub.log, nil)
		if err == nil {
			e.Close()
		}
		return err != nil
	})
	if got := second.gateway.Routing(); got != "round-robin" {
		t.Errorf("a policy that does not exist was chosen: %s", got)
	}
	decide(cluster.KeyRouting, "")
	for _, e := range []*Engine{hub, second} {
		waitFor(t, "it routes as its options say", func() bool { return e.gateway.Routing() == "prefix" })
	}
	askTogether(t, second, list, func() {})
}
