package troupe

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/internal/cluster"
	"github.com/troupe-engine/troupe/internal/nettest"
)

// nodeVariable makes the test binary a node with these options, in JSON.
const nodeVariable = "TROUPE_TEST_NODE"

func runNode(options string) int {
	var opts Options
	if err := json.Unmarshal([]byte(options), &opts); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return runUntilInputEnds(opts)
}

// Three hubs that form a NATS cluster know the same replicas and decisions. When one is killed, its replicas join another by
// themselves, the answers of the others' clients go on token for token, and decisions are made as before.
func TestAHubOfThreeIsNotMissed(t *testing.T) {
	list := asks(t, 61, 12, 300)
	ports := nettest.Ports(t, 6)
	hubOptions := func(i int) Options {
		o := clusterOptions()
		config := filepath.Join(t.TempDir(), "nats.conf")
		if err := os.WriteFile(config, fmt.Appendf(nil, "cluster {name: hubs, listen: \"127.0.0.1:%d\", routes: [\"nats://127.0.0.1:%d\", \"nats://127.0.0.1:%d\", \"nats://127.0.0.1:%d\"]}\n",
			ports[i], ports[0], ports[1], ports[2]), 0o600); err != nil {
			t.Fatal(err)
		}
		o.HTTP, o.Leaf, o.Actors, o.Node, o.Store, o.NATSConfig = "127.0.0.1:0", fmt.Sprintf("127.0.0.1:%d", ports[3+i]), RoleGateway, fmt.Sprintf("hub%d", i), t.TempDir(), config
		return o
	}
	options, err := json.Marshal(hubOptions(0))
	if err != nil {
		t.Fatal(err)
	}
	hubs, errs, others := make([]*Engine, 2), make([]error, 2), []Options{hubOptions(1), hubOptions(2)}
	var opening sync.WaitGroup // together: each waits for a majority
	for i := range hubs {
		opening.Go(func() { hubs[i], errs[i] = Open(t.Context(), others[i], zerolog.Nop(), nil) })
	}
	killed := startProcess(t, "hub0", nodeVariable+"="+string(options))
	opening.Wait()
	for i, h := range hubs {
		if errs[i] != nil {
			t.Fatal(errs[i])
		}
		t.Cleanup(func() {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	startNode(t, "r1", fmt.Sprintf("nats-leaf://127.0.0.1:%d", ports[3]), RoleReplica) // of the hub that dies
	startNode(t, "r2", hubs[0].LeafURL(), RoleReplica)
	both := func() bool { return len(reports(t, hubs[0])) == 2 && len(reports(t, hubs[1])) == 2 }
	waitFor(t, "both other hubs know both replicas", both)
	var state *cluster.State
	waitFor(t, "the servers have agreed", func() bool {
		state, err = cluster.OpenState(t.Context(), hubs[0].node.Conn(), true)
		return err == nil
	})
	decide := func(policy string) {
		t.Helper()
		waitFor(t, policy+" is decided", func() bool { return state.Set(t.Context(), cluster.KeyRouting, policy) == nil })
		for _, h := range hubs {
			waitFor(t, "it routes as decided", func() bool { return h.gateway.Routing() == policy })
		}
	}
	decide("round-robin")
	for _, h := range hubs {
		askTogether(t, h, list, func() {})
	}
	askTogether(t, hubs[0], list, func() {
		waitFor(t, "tokens come from the killed hub's replica", func() bool { r := reports(t, hubs[0])["r1"]; return r != nil && r.Running > 2 })
		killed.kill()
	})
	from := time.Now()
	waitFor(t, "its replica has joined another", both)
	t.Logf("the killed hub's replica was back %s after its answers had moved", time.Since(from).Round(time.Millisecond))
	decide("least-loaded")
	for _, h := range hubs {
		askTogether(t, h, list, func() {})
	}
	for _, name := range []string{"r1", "r2"} {
		waitHoldsNothing(t, hubs[1].node, name)
	}
}
