package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/nettest"
	"github.com/troupe-engine/troupe/schemas"
)

// followed is what a node has heard.
type followed struct {
	mu    sync.Mutex
	known map[string]string
}

func follow(t *testing.T, n *bus.Node) *followed {
	t.Helper()
	f := &followed{known: map[string]string{}}
	s, err := OpenState(t.Context(), n.Conn(), false)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var ended sync.WaitGroup
	ended.Go(func() {
		if err := s.Follow(ctx, func(key, value string) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.known[key] = value
		}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	t.Cleanup(func() { stop(); ended.Wait() })
	return f
}

func (f *followed) waitFor(t *testing.T, key, value string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		f.mu.Lock()
		got := f.known[key]
		f.mu.Unlock()
		if got == value {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is %q; want %q", key, got, value)
		}
	}
}

func TestDecisionsOfOneServer(t *testing.T) {
	plain, err := bus.Start(bus.Options{Listen: "none", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plain.Close)
	if _, err := OpenState(t.Context(), plain.Conn(), true); err == nil || !strings.Contains(fmt.Sprint(err.(*schemas.Error).Hint), "--store") {
		t.Errorf("without JetStream: %v", err)
	}
	n, err := bus.Start(bus.Options{Listen: "none", StoreDir: t.TempDir(), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	if _, err := OpenState(t.Context(), n.Conn(), false); schemas.AsError(err, "").Kind != schemas.KindNotFound {
		t.Errorf("before there is a decision: %v", err)
	}
	s, err := OpenState(t.Context(), n.Conn(), true)
	if err != nil {
		t.Fatal(err)
	}
	f := follow(t, n)
	for _, key := range []string{"", "config.nosuch", "placement.", "placement.a.b", "placement.*"} {
		if err := s.Set(t.Context(), key, "x"); err == nil {
			t.Errorf("the key %q is taken", key)
		}
	}
	for key, value := range map[string]string{KeyRouting: "round-robin", PlacementPrefix + "a": "m"} {
		if err := s.Set(t.Context(), key, value); err != nil {
			t.Fatal(err)
		}
		f.waitFor(t, key, value)
	}
	all, replicas, err := s.All(t.Context())
	if err != nil || len(all) != 2 || replicas != 1 || all[KeyRouting] != "round-robin" || fmt.Sprint(Nodes(all)) != "[a]" {
		t.Errorf("%v on %d servers, %v", all, replicas, err)
	}
	if err := s.Set(t.Context(), KeyRouting, ""); err != nil {
		t.Fatal(err)
	}
	f.waitFor(t, KeyRouting, "")
	if value, err := s.Get(t.Context(), KeyRouting); value != "" || err != nil {
		t.Errorf("what was taken back is %q, %v", value, err)
	}
}

// Of three servers, one may be lost without a consequence. With two of them lost, decisions cannot be made, and what was
// decided is still known; when one comes back, all is well.
func TestDecisionsOutliveAMinority(t *testing.T) {
	dirs, ports := make([]string, 3), nettest.Ports(t, 3)
	start := func(i int) *bus.Node {
		t.Helper()
		if dirs[i] == "" {
			dirs[i] = t.TempDir()
		}
		config := fmt.Sprintf("cluster {name: hubs, listen: \"127.0.0.1:%d\", routes: [\"nats://127.0.0.1:%d\", \"nats://127.0.0.1:%d\", \"nats://127.0.0.1:%d\"]}", ports[i], ports[0], ports[1], ports[2])
		n, err := bus.Start(bus.Options{ID: schemas.NodeID(fmt.Sprintf("hub%d", i)), Listen: "127.0.0.1:-1", Config: config, StoreDir: dirs[i], Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(n.Close)
		return n
	}
	nodes := []*bus.Node{start(0), start(1), start(2)}
	var s *State
	var err error
	for end := time.Now().Add(30 * time.Second); ; {
		if s, err = OpenState(t.Context(), nodes[0].Conn(), true); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	set := func(value string) {
		t.Helper()
		var err error
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); { // a new leader may have to be found
			if err = s.Set(t.Context(), KeyRouting, value); err == nil {
				return
			}
		}
		t.Fatal(err)
	}
	set("round-robin")
	f := follow(t, nodes[0])
	f.waitFor(t, KeyRouting, "round-robin")
	if _, replicas, err := s.All(t.Context()); replicas != 3 || err != nil {
		t.Fatalf("it lies on %d servers, %v; want 3", replicas, err)
	}
	nodes[2].Close()
	set("least-loaded")
	f.waitFor(t, KeyRouting, "least-loaded")
	nodes[1].Close()
	if err := s.Set(t.Context(), KeyRouting, "prefix"); err == nil {
		t.Error("one server of three decides alone")
	}
	f.waitFor(t, KeyRouting, "least-loaded")
	start(1)
	set("two-choices")
	f.waitFor(t, KeyRouting, "two-choices")
}
