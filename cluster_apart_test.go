package troupe

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// on is the replica whose compute is a node's, as hub's gateway knows it; nil if it knows none.
func on(t *testing.T, hub *Engine, compute string) *schemas.ReplicaReport {
	t.Helper()
	for _, r := range reports(t, hub) {
		if string(r.Compute) == compute {
			return r
		}
	}
	return nil
}

// startApart attaches a node with a replica's part, and waits until the computes are served.
func startApart(t *testing.T, hub *Engine, name, role string, computes ...string) *child {
	t.Helper()
	c := startNode(t, name, hub.LeafURL(), role)
	for _, compute := range computes {
		waitFor(t, compute+" is served", func() bool { return on(t, hub, compute) != nil })
	}
	return c
}

// A scheduler on one node and a compute on another answer as one node does, token for token; so do a scheduler on the hub and a
// compute alone, next to a whole replica. Nothing is left behind.
func TestASchedulerServesTheComputeOfAnotherNode(t *testing.T) {
	list := asks(t, 51, 24, 60)
	for name, start := range map[string]func(t *testing.T) *Engine{
		"each a node of its own": func(t *testing.T) *Engine {
			hub := startHub(t, nil)
			startNode(t, "s1", hub.LeafURL(), RoleScheduler)
			startApart(t, hub, "g1", RoleCompute, "g1")
			return hub
		},
		"a scheduler on the hub": func(t *testing.T) *Engine {
			hub := startHub(t, func(o *Options) { o.Actors, o.Routing = RoleGateway+","+RoleScheduler, "round-robin" })
			startApart(t, hub, "g1", RoleCompute, "g1")
			startApart(t, hub, "g2", RoleCompute, "g2")
			startChild(t, hub, "r1")
			return hub
		},
	} {
		t.Run(name, func(t *testing.T) {
			hub := start(t)
			askTogether(t, hub, list, func() {})
			r := on(t, hub, "g1")
			if r == nil || r.Node == "g1" || r.Numerics == "" {
				t.Fatalf("the replica is reported as %+v", r)
			}
			waitFor(t, "progress is reported", func() bool { return on(t, hub, "g1").Progress > 0 })
			waitHoldsNothing(t, hub.node, string(r.Replica))
			// Answers in a form are compiled by the compute, whose node has no tokenizer beside.
			text := complete(t, hub, `{"prompt":"Once","max_tokens":40,"temperature":0,"regex":"[0-9]{4}"}`)
			if len(text) != 4 || strings.Trim(text, "0123456789") != "" {
				t.Errorf("an answer of four digits is %q", text)
			}
		})
	}
}

// Either part may die, freeze or leave at any moment: the requests go on, token for token.
func TestPartsOfReplicasDie(t *testing.T) {
	list := asks(t, 52, 12, 500)
	hub, whole := startHub(t, nil), t // nodes outlive the part of the test that starts them
	first := startNode(t, "s1", hub.LeafURL(), RoleScheduler)
	compute := startApart(t, hub, "g1", RoleCompute, "g1")
	second := startNode(t, "s2", hub.LeafURL(), RoleScheduler)
	running := func(t *testing.T, compute string) *schemas.ReplicaReport {
		t.Helper()
		waitFor(t, "tokens come from "+compute, func() bool { r := on(t, hub, compute); return r != nil && r.Running > 2 && r.Progress > 200 })
		return on(t, hub, compute)
	}
	// replaced waits until a compute, maybe another, has a scheduler again.
	replaced := func(t *testing.T, old *schemas.ReplicaReport, compute string) {
		t.Helper()
		from := time.Now()
		waitFor(t, "another replica is there", func() bool { r := on(t, hub, compute); return r != nil && r.Replica != old.Replica })
		t.Logf("%s was replaced after %s", old.Replica, time.Since(from))
	}
	for _, c := range []struct {
		name   string
		before func(t *testing.T) // the requests: a node takes as long to start as they do
		do     func(t *testing.T)
	}{
		{"the scheduler is killed", nil, func(t *testing.T) {
			old := running(t, "g1")
			first.kill()
			replaced(t, old, "g1")
		}},
		{"the scheduler freezes", func(*testing.T) { first = startNode(whole, "s3", hub.LeafURL(), RoleScheduler) }, func(t *testing.T) {
			old := running(t, "g1")
			second.signal(syscall.SIGSTOP)
			replaced(t, old, "g1") // it is missed after 1.5 s
			second.signal(syscall.SIGCONT)
		}},
		{"the compute is killed and comes back", nil, func(t *testing.T) {
			old := running(t, "g1")
			from := time.Now()
			compute.kill()
			waitFor(t, "it is given up", func() bool { return on(t, hub, "g1") == nil })
			t.Logf("a dead compute was given up after %s", time.Since(from))
			compute = startNode(whole, "g1", hub.LeafURL(), RoleCompute)
			replaced(t, old, "g1") // a process loads its model
		}},
		{"the compute freezes and thaws", nil, func(t *testing.T) {
			running(t, "g1")
			from := time.Now()
			compute.signal(syscall.SIGSTOP)
			waitFor(t, "it is given up", func() bool { return on(t, hub, "g1") == nil })
			t.Logf("a frozen compute was given up after %s", time.Since(from))
			compute.signal(syscall.SIGCONT) // its scheduler may not have missed it yet, or claims it anew
			waitFor(t, "it is back", func() bool { return on(t, hub, "g1") != nil })
		}},
		{"another compute takes over", func(*testing.T) { startApart(whole, hub, "g2", RoleCompute, "g2") }, func(t *testing.T) {
			running(t, "g1")
			compute.kill()
			waitFor(t, "it is given up", func() bool { return on(t, hub, "g1") == nil })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.before != nil {
				c.before(t)
			}
			moved := hub.gateway.Moved()
			askTogether(t, hub, list, func() { c.do(t) })
			if hub.gateway.Moved() == moved {
				t.Error("no request moved; nothing was tested")
			}
		})
	}
	waitHoldsNothing(t, hub.node, string(on(t, hub, "g2").Replica))
}

// Parts are replaced one after the other under load, as a rolling update does.
func TestARollingUpdateOfParts(t *testing.T) {
	list := asks(t, 53, 6, 150)
	hub := startHub(t, nil)
	scheduler := startNode(t, "s1", hub.LeafURL(), RoleScheduler)
	compute := startApart(t, hub, "g1", RoleCompute, "g1")
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-over:
				return
			default:
				askTogether(t, hub, list, func() {})
			}
		}
	}()
	startApart(t, hub, "g2", RoleCompute, "g2")
	compute.leave()
	startNode(t, "s2", hub.LeafURL(), RoleScheduler)
	startChild(t, hub, "r1") // has the requests while the schedulers change
	old := on(t, hub, "g2").Replica
	scheduler.leave()
	waitFor(t, "the other scheduler serves the compute", func() bool { r := on(t, hub, "g2"); return r != nil && r.Replica != old })
	close(over)
	<-ended
}

// On a network that loses and delays what the parts say to each other, claims included, nothing of it shows in the answers.
func TestPartsOnABadNetwork(t *testing.T) {
	list := asks(t, 56, 12, 60)
	hub := startHub(t, nil)
	var rules []schemas.FaultRule
	for _, subject := range []string{"inf.v1.compute.execute.>", "inf.v1.scheduler.step_done.>", "inf.v1.device.claim.>"} {
		rules = append(rules, schemas.FaultRule{Kind: schemas.FaultDrop, Subject: subject, Probability: 0.02},
			schemas.FaultRule{Kind: schemas.FaultDuplicate, Subject: subject, Probability: 0.05}, schemas.FaultRule{Kind: schemas.FaultDelay, Subject: subject, Probability: 0.1, DelayUs: 20_000})
	}
	for _, role := range []string{RoleScheduler, RoleCompute} {
		openOn(t, network{attemptTimeMax: 100 * time.Millisecond, faults: &schemas.FaultPlan{Seed: 9, Rules: rules}}, func(o *Options) {
			*o = clusterOptions()
			o.HTTP, o.Attach, o.Actors, o.Node = "none", hub.LeafURL(), role, role
		})
	}
	waitFor(t, "the compute is served", func() bool { return on(t, hub, RoleCompute) != nil })
	replica := on(t, hub, RoleCompute).Replica
	for range 2 {
		askTogether(t, hub, list, func() {})
	}
	if now := on(t, hub, RoleCompute); now == nil || now.Replica != replica {
		t.Errorf("the compute was given up: %+v serves it now, %s did", now, replica)
	}
	waitHoldsNothing(t, hub.node, string(replica))
}

// A compute alone can be for one phase of requests, as a replica.
func TestComputesForOnePhase(t *testing.T) {
	list := asksOf(t, 54, 12, 300, 120)
	hub := startHub(t, func(o *Options) { o.Actors = RoleGateway + "," + RoleScheduler })
	startApart(t, hub, "p", RoleCompute+" "+PhasePrefill, "p")
	startApart(t, hub, "d", RoleCompute+" "+PhaseDecode, "d")
	askTogether(t, hub, list, func() {})
	moved, failed, blocks := hub.gateway.HandedOver()
	t.Logf("%d requests handed over with %d blocks, %d without", moved, blocks, failed)
	if moved < 4 || blocks < 24 || failed > 0 {
		t.Errorf("%d requests were handed over with %d blocks, %d without", moved, blocks, failed)
	}
}

// What ran on a compute whose device is lost goes on elsewhere, and its process ends.
func TestAComputesLostDeviceIsNotMissed(t *testing.T) {
	list := asks(t, 58, 8, 300)
	hub := startHub(t, func(o *Options) { o.Actors = RoleGateway + "," + RoleScheduler })
	startApart(t, hub, "survivor", RoleCompute, "survivor")
	node := openEngine(t, func(o *Options) {
		*o = clusterOptions()
		o.Node, o.Attach, o.Actors, o.HTTP = "loser", hub.LeafURL(), RoleCompute, "none"
	})
	faults(t, node, "slow_device inf.v1.compute.execute.> delay=5ms") // or all is over before it is lost
	waitFor(t, "both are served", func() bool { return len(reports(t, hub)) == 2 })
	askTogether(t, hub, list, func() {
		waitFor(t, "tokens come from it", func() bool { r := on(t, hub, "loser"); return r.Running > 0 && r.Progress > 50 })
		faults(t, node, "lose_device inf.v1.compute.execute.>")
		select {
		case err := <-node.Failed():
			if !errors.Is(err, &schemas.Error{Kind: schemas.KindDeviceLost}) {
				t.Errorf("the node failed with %v", err)
			}
		case <-time.After(time.Minute):
			t.Error("the node does not say that it failed")
		}
		waitFor(t, "it gets no new requests", func() bool { r := on(t, hub, "loser"); return r == nil || r.Draining })
		if err := node.Close(); err != nil {
			t.Error(err)
		}
		waitFor(t, "it is given up", func() bool { return on(t, hub, "loser") == nil })
	})
	if hub.gateway.Moved() == 0 {
		t.Error("nothing moved; nothing was tested")
	}
}

// The roles that troupe keys makes for the parts suffice for what they do, over TLS.
func TestPartsHaveKeysOfTheirOwn(t *testing.T) {
	list := asks(t, 55, 8, 60)
	dir := t.TempDir()
	keys, err := bus.MakeKeys(bus.KeysConfig{Hosts: []string{"127.0.0.1"}, Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range keys {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hub := startHub(t, func(o *Options) { o.NATSConfig = filepath.Join(dir, "hub.conf") })
	for _, role := range []string{RoleScheduler, RoleCompute} {
		openEngine(t, func(o *Options) {
			*o = clusterOptions()
			o.HTTP, o.Attach, o.Actors, o.Node = "none", hub.LeafURL(), role, role
			o.Credentials, o.TLSCA, o.TLSCert, o.TLSKey = filepath.Join(dir, role+".nk"), filepath.Join(dir, "ca.pem"), filepath.Join(dir, role+".pem"), filepath.Join(dir, role+"-key.pem")
		})
	}
	waitFor(t, "the compute is served", func() bool { return on(t, hub, RoleCompute) != nil })
	askTogether(t, hub, list, func() {})
	if refused := hub.node.Refusals(); refused["publish"]+refused["subscribe"] > 0 {
		t.Errorf("the bus refused %v", refused)
	}
}

// A claim that is not in force, or not for the one that asks, is refused with the reason.
func TestClaimsAreRefused(t *testing.T) {
	list := asks(t, 57, 4, 40)
	hub := startHub(t, func(o *Options) { o.Actors = RoleGateway + "," + RoleScheduler })
	startApart(t, hub, "g1", RoleCompute, "g1")
	ask := bus.NewRef(hub.node, schemas.ClaimDevice, "g1")
	for name, c := range map[string]struct {
		request schemas.ClaimRequest
		kind    schemas.Kind
		says    string
	}{
		"of a device that is served": {schemas.ClaimRequest{Scheduler: "x", Claim: 7}, schemas.KindUnavailable, "has a scheduler"},
		"without a number":           {schemas.ClaimRequest{Scheduler: "x"}, schemas.KindInvalid, "claim is 0"},
		"of a long name":             {schemas.ClaimRequest{Scheduler: schemas.NodeID(strings.Repeat("x", 100)), Claim: 7}, schemas.KindInvalid, "at most 64"},
		"that never was":             {schemas.ClaimRequest{Scheduler: "x", Claim: 7, Renew: true}, schemas.KindNotFound, "not in force"},
		"of another's to end":        {schemas.ClaimRequest{Scheduler: "x", Claim: 7, Release: true}, schemas.KindNotFound, "not in force"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		_, err := ask.Call(ctx, &c.request)
		cancel()
		if e := schemas.AsError(err, "claim"); err == nil || e.Kind != c.kind || !strings.Contains(err.Error(), c.says) {
			t.Errorf("a claim %s: %v; want %s with %q", name, err, c.kind, c.says)
		}
	}
	h := &hostile{t: t, rng: rand.New(rand.NewPCG(57, 1))}
	for range 200 {
		body, header := h.payload((*schemas.ClaimRequest)(nil).Example())
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		reply, err := hub.node.Conn().RequestMsgWithContext(ctx, &nats.Msg{Subject: schemas.ClaimDevice.Subject("g1"), Data: body, Header: header})
		cancel()
		if err != nil || reply.Header.Get(micro.ErrorHeader) == "" {
			t.Errorf("%.100x is answered with %+v, %v", body, reply, err)
		}
	}
	askTogether(t, hub, list, func() {}) // nothing else noticed
	for _, actors := range []string{RoleCompute + "," + RoleReplica, RoleCompute + "," + RoleScheduler} {
		o := clusterOptions()
		o.Attach, o.Actors = "nats-leaf://127.0.0.1:1", actors
		if err := o.Validate(); err == nil || !strings.Contains(err.Error(), "expected replica") {
			t.Errorf("%s: %v", actors, err)
		}
	}
	o := DefaultOptions()
	o.Actors += "," + RoleScheduler
	if err := o.Validate(); err == nil || !strings.Contains(err.Error(), "no part of a replica") {
		t.Errorf("a scheduler without other nodes: %v", err)
	}
}
