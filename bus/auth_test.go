package bus

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/schemas"
)

// secured is a node that asks everybody who they are, and the files with which they can say so.
func secured(t *testing.T, valid time.Duration) (*Node, string) {
	t.Helper()
	dir := t.TempDir()
	keys, err := MakeKeys(KeysConfig{Hosts: []string{"127.0.0.1"}, Dir: dir, Valid: valid, Tenants: []string{"a", "b"}})
	if err != nil {
		t.Fatal(err)
	}
	for name, content := range keys {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n, err := Start(Options{ID: "hub", Config: string(keys["hub.conf"]), Listen: "127.0.0.1:-1", LeafListen: "127.0.0.1:-1", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n, dir
}

func security(dir, role string) Security {
	return Security{CA: dir + "/ca.pem", Cert: dir + "/" + role + ".pem", Key: dir + "/" + role + "-key.pem", Seed: dir + "/" + role + ".nk", JoinTimeMax: 5 * time.Second}
}

// connectAs is a client with a role's key. Violations gets what the server refuses.
func connectAs(t *testing.T, n *Node, dir, role string) (c *nats.Conn, violations func() string) {
	t.Helper()
	var mu sync.Mutex
	var seen []string
	inbox := InboxPrefix + role
	nkey, err := nats.NkeyOptionFromSeed(dir + "/" + role + ".nk")
	if err != nil {
		t.Fatal(err)
	}
	c, err = nats.Connect(strings.Replace(n.URL(), "nats://", "tls://", 1), nkey, nats.RootCAs(dir+"/ca.pem"), nats.ClientCert(dir+"/"+role+".pem", dir+"/"+role+"-key.pem"),
		nats.Timeout(10*time.Second), nats.CustomInboxPrefix(inbox), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, err.Error())
		}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c, func() string {
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // the handler runs on a goroutine of its own
		mu.Lock()
		defer mu.Unlock()
		return strings.Join(seen, "\n")
	}
}

// matrix says who may ask what, besides admin, which may do everything. Of a subject that it does not name, only the
// service that answers there may make use, and nobody may publish to it.
var matrix = map[string]struct{ publish, subscribe string }{
	"inf.v1.tokenizer.encode.x":                          {"gateway", "tokenizer gateway"},
	"inf.v1.tokenizer.decode.x":                          {"gateway", "tokenizer gateway"},
	"inf.v1.tokenizer.tokens.x":                          {"replica scheduler", "tokenizer gateway"},
	"inf.v1.tokenizer.close.x":                           {"gateway", "tokenizer gateway"},
	"inf.v1.tokenizer.state":                             {"observer", ""},
	"inf.v1.tokenizer.state.x":                           {"gateway observer", "tokenizer gateway"},
	"inf.v1.scheduler.submit.x":                          {"gateway", "replica scheduler"},
	"inf.v1.scheduler.cancel.x":                          {"gateway tokenizer", "replica scheduler"},
	"inf.v1.scheduler.info":                              {"observer", ""},
	"inf.v1.scheduler.info.x":                            {"gateway observer", "replica scheduler"},
	"inf.v1.scheduler.state":                             {"observer", ""},
	"inf.v1.scheduler.state.x":                           {"gateway observer", "replica scheduler"},
	"inf.v1.memory.prefixes.x":                           {"gateway", "replica scheduler"},
	"inf.v1.memory.state":                                {"observer", ""},
	"inf.v1.memory.state.x":                              {"gateway observer", "replica scheduler"},
	"inf.v1.compute.compile.x":                           {"gateway", "replica compute"},
	"inf.v1.compute.fetch.x":                             {"gateway", "replica compute"},
	"inf.v1.compute.offer.x":                             {"replica compute", "replica compute"},
	"inf.v1.compute.state":                               {"observer", ""},
	"inf.v1.compute.state.x":                             {"gateway observer", "replica compute"},
	"inf.v1.compute.execute.x":                           {"scheduler", "replica compute"},
	"inf.v1.compute.import.x":                            {"scheduler", "replica compute"},
	"inf.v1.scheduler.step_done.x":                       {"compute", "replica scheduler"},
	"inf.v1.memory.find.x":                               {"compute", "replica scheduler"},
	"inf.v1.memory.adopt.x":                              {"compute", "replica scheduler"},
	"inf.v1.device.claim.x":                              {"scheduler", "compute"},
	"inf.v1.device.claim":                                {"", "compute"},
	"inf.v1.gateway.deltas.x":                            {"tokenizer", "gateway"},
	"inf.v1.gateway.state":                               {"observer", ""},
	"inf.v1.gateway.state.x":                             {"observer", "gateway"},
	"inf.v1.tokenizer.health":                            {"observer", ""},
	"inf.v1.tokenizer.health.x":                          {"observer", "tokenizer gateway"},
	"inf.v1.scheduler.health":                            {"observer", ""},
	"inf.v1.scheduler.health.x":                          {"observer", "replica scheduler"},
	"inf.v1.memory.health":                               {"observer", ""},
	"inf.v1.memory.health.x":                             {"observer", "replica scheduler"},
	"inf.v1.compute.health":                              {"observer", ""},
	"inf.v1.compute.health.x":                            {"observer", "replica compute"},
	"inf.v1.gateway.health":                              {"observer", ""},
	"inf.v1.gateway.health.x":                            {"observer", "gateway"},
	"inf.v1.node.info":                                   {"observer", ""},
	"inf.v1.node.info.x":                                 {"observer", nodeRoles},
	"inf.v1.replica.report.x":                            {"replica scheduler", "gateway observer"},
	"inf.v1.node.report.x":                               {nodeRoles, nodeRoles + " observer"},
	"inf.v1.cancel.x":                                    {"client tenant-a tenant-b gateway", "gateway"},
	"inf.v1.credit.x":                                    {"client tenant-a tenant-b", "gateway"},
	"$SRV.PING":                                          {"observer", nodeRoles},
	"$SRV.PING.x":                                        {"observer", nodeRoles},
	"$SRV.INFO":                                          {"observer", nodeRoles},
	"$SRV.STATS":                                         {"observer", nodeRoles},
	"inf.v1.policy.rank.x":                               {"replica scheduler", "policy"},
	"inf.v1.policy.route.x":                              {"gateway", "policy"},
	"$JS.troupe.API.STREAM.INFO.KV_troupe-cluster":       {nodeRoles, ""},
	"$JS.troupe.API.CONSUMER.CREATE.KV_troupe-cluster.x": {nodeRoles, ""},
	"$JS.troupe.API.STREAM.DELETE.KV_troupe-cluster":     {"", ""},
	"$JS.troupe.API.STREAM.PURGE.KV_troupe-cluster":      {"", ""},
	"$JS.troupe.API.$KV.troupe-cluster.config.routing":   {"", ""},
	"$KV.troupe-cluster.config.routing":                  {"", ""},
	"orders.for.somebody.else":                           {"", ""},
	"inf.v1.scheduler.undefined":                         {"", "replica scheduler"},
	"$JS.API.STREAM.DELETE.ORDER":                        {"", ""},
}

const nodeRoles = "replica scheduler compute tokenizer gateway"

// subjects are all that the program uses, with x for names, from its own registries, and who may use them.
func subjects(roles []Role) map[string]struct{ publish, subscribe string } {
	type access = struct{ publish, subscribe string }
	all := map[string]access{}
	servants := map[string]string{"scheduler": "replica scheduler", "memory": "replica scheduler", "compute": "replica compute", "device": "compute", "tokenizer": "tokenizer gateway", "gateway": "gateway", "node": nodeRoles}
	for _, e := range schemas.Endpoints() {
		for _, s := range []string{e.Subject(), e.Subject() + ".x"} {
			all[s] = access{subscribe: servants[e.Service]} // an instance answers under both
		}
	}
	for _, t := range schemas.Topics() {
		all[t.Subject("x")] = access{}
	}
	for _, e := range schemas.ClientEndpoints() {
		for _, s := range []string{e.Subject(), e.Subject() + ".x"} {
			all[s] = access{"client tenant-a tenant-b", "gateway"}
		}
	}
	for _, r := range roles { // each inbox is of its owner and of those that answer
		all[InboxPrefix+r.Name+".x"] = access{nodeRoles, nodeRoles + " " + r.Name}
	}
	for _, prefix := range []string{schemas.TapPrefix, schemas.PeekPrefix, schemas.JournalPrefix} {
		all[prefix+"x"] = access{nodeRoles, "observer"}
	}
	all[schemas.RankSubjectPrefix+"x"], all[creditSubject("x")] = access{}, access{}
	for s, a := range matrix {
		if a.subscribe == "" {
			a.subscribe = all[s].subscribe
		}
		all[s] = a
	}
	return all
}

func TestEveryRoleMayDoWhatItNeedsAndNoMore(t *testing.T) {
	n, dir := secured(t, 0)
	roles := append(Roles(), TenantRole("a"), TenantRole("b"))
	all := subjects(roles)
	var denied [refusalsEnd]uint64
	for _, r := range roles {
		c, violations := connectAs(t, n, dir, r.Name)
		for subject, allowed := range all {
			for action, who := range map[string]string{"Publish": allowed.publish, "Subscription": allowed.subscribe} {
				want := r.Name == "admin" || slices.Contains(strings.Fields(who), r.Name)
				var err error
				if action == "Publish" {
					err = c.Publish(subject, []byte("x"))
				} else {
					var sub *nats.Subscription
					if sub, err = c.SubscribeSync(subject); err == nil {
						defer sub.Unsubscribe()
					}
				}
				if err != nil {
					t.Fatal(err)
				}
				violation := `permissions violation for ` + strings.ToLower(action+` to "`+subject+`"`)
				got := strings.ToLower(violations())
				for end := time.Now().Add(time.Second); !want && !strings.Contains(got, violation) && time.Now().Before(end); {
					got = strings.ToLower(violations())
				}
				refused := strings.Contains(got, violation)
				if refused == want {
					t.Errorf("%s: %s %s: refused %v, want %v", r.Name, action, subject, refused, !want)
				}
				if refused && action == "Publish" {
					denied[RefusedPublish]++
				} else if refused {
					denied[RefusedSubscribe]++
				}
			}
		}
	}
	if counts := n.Refusals(); counts["publish"] != denied[RefusedPublish] || counts["subscribe"] != denied[RefusedSubscribe] {
		t.Errorf("%v were counted, %d and %d were refused", counts, denied[RefusedPublish], denied[RefusedSubscribe])
	}
	t.Logf("%d roles, %d subjects: %d publications and %d subscriptions refused", len(roles), len(all), denied[RefusedPublish], denied[RefusedSubscribe])
}

// A policy may send an answer where it was asked to, and no second one; elsewhere nothing.
func TestAPolicyAnswersOnceAndNoMore(t *testing.T) {
	n, dir := secured(t, 0)
	policy, violations := connectAs(t, n, dir, "policy")
	second := make(chan error, 1)
	if _, err := policy.Subscribe(schemas.RouteSubjectPrefix+"mine", func(m *nats.Msg) {
		err := m.Respond([]byte("a"))
		second <- errors.Join(err, m.Respond([]byte("b")))
	}); err != nil {
		t.Fatal(err)
	}
	if err := policy.Flush(); err != nil {
		t.Fatal(err)
	}
	gateway, _ := connectAs(t, n, dir, "gateway")
	for range 2 {
		if m, err := gateway.Request(schemas.RouteSubjectPrefix+"mine", []byte("q"), 5*time.Second); err != nil || string(m.Data) != "a" {
			t.Fatalf("answer %v, error %v", m, err)
		}
		if err := <-second; err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(5 * time.Second); !strings.Contains(violations(), "Permissions Violation"); {
			if time.Now().After(end) {
				t.Fatal("a second answer was not refused")
			}
		}
	}
}

// What is wrong with a connection or a message is counted under its reason, and the node goes on.
func TestRefusalsAreCounted(t *testing.T) {
	n, dir := secured(t, 0)
	foreign, foreignDir := secured(t, 0)
	_ = foreign
	a := NewActor(n, "memory", "r1", "test")
	Handle(a, schemas.Prefixes, NewGroup(), func(context.Context, *schemas.PrefixRequest) (*schemas.PrefixReply, error) {
		return (*schemas.PrefixReply)(nil).Example(), nil
	})
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	sub, err := Subscribe(n, schemas.NodeReports, "", func(schemas.Instance, *schemas.NodeReport) { t.Error("a malformed report was delivered") })
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Close()
	url := strings.Replace(n.URL(), "nats://", "tls://", 1)
	connect := func(seeds, certificates string) error {
		nkey, err := nats.NkeyOptionFromSeed(seeds + "/gateway.nk")
		if err != nil {
			t.Fatal(err)
		}
		c, err := nats.Connect(url, nkey, nats.RootCAs(dir+"/ca.pem"), nats.ClientCert(certificates+"/gateway.pem", certificates+"/gateway-key.pem"))
		if err == nil {
			c.Close()
		}
		return err
	}
	expired, expiredDir := secured(t, time.Millisecond-2*clockSkewMax)
	_ = expired
	gateway, _ := connectAs(t, n, dir, "gateway")
	admin, _ := connectAs(t, n, dir, "admin")
	for _, c := range []struct {
		reason string
		do     func() error
		fails  bool
	}{
		{"credentials", func() error { return connect(foreignDir, dir) }, true},
		{"certificate", func() error { return connect(dir, foreignDir) }, true},
		{"certificate", func() error { return connect(dir, expiredDir) }, true},
		{"certificate", func() error {
			c, err := nats.Connect(n.URL(), nats.Secure(&tls.Config{InsecureSkipVerify: true}))
			if err == nil {
				c.Close()
			}
			return err
		}, true},
		{"malformed", func() error { return gateway.Publish(schemas.Prefixes.Subject("r1"), []byte{0xc1}) }, false},
		{"malformed", func() error {
			return admin.Publish(schemas.NodeReports.Subject("x"), []byte{0xdd, 0xff, 0xff, 0xff, 0xff})
		}, false},
		{"publish", func() error { // an actor would speak for a gateway where that may not
			return gateway.PublishRequest(schemas.Prefixes.Subject("r1"), schemas.DrainNode.Subject("x"), []byte{0x91, 0})
		}, false},
	} {
		counts(t, n, c.reason, func() {
			if err := c.do(); (err != nil) != c.fails {
				t.Errorf("%s: %v", c.reason, err)
			}
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := NewRef(n, schemas.Prefixes, "r1").Call(ctx, &schemas.PrefixRequest{}); err != nil {
		t.Errorf("the actor does not answer any more: %v", err)
	}
}

// counts holds that do is refused once, for one reason.
func counts(t *testing.T, n *Node, reason string, do func()) {
	t.Helper()
	want := n.Refusals()
	do()
	want[reason]++
	for end := time.Now().Add(5 * time.Second); n.Refusals()[reason] != want[reason] && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if got := n.Refusals(); !maps.Equal(got, want) {
		t.Errorf("%s: counted %v, want %v", reason, got, want)
	}
}

// Who does not speak NATS, or announces too large a message, is cut off.
func TestBadProtocolIsCounted(t *testing.T) {
	n, err := Start(Options{ID: "n", Listen: "127.0.0.1:-1", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	for text, reason := range map[string]string{"THIS IS NO NATS": "malformed", "SUB " + strings.Repeat("x", 8000): "malformed", "PUB x 99999999": "oversized"} {
		counts(t, n, reason, func() {
			c, err := net.Dial("tcp", strings.TrimPrefix(n.URL(), "nats://"))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			fmt.Fprintf(c, "CONNECT {\"verbose\": false}\r\n%s\r\n", text)
			if _, err := io.Copy(io.Discard, c); err != nil && !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
		})
	}
}

// A tenant hears the answers to its own questions, and nothing of another's.
func TestATenantSeesOnlyItsOwnInbox(t *testing.T) {
	n, dir := secured(t, 0)
	a, refusedA := connectAs(t, n, dir, "tenant-a")
	b, refusedB := connectAs(t, n, dir, "tenant-b")
	for _, subject := range []string{"_INBOX.>", "_INBOX.tenant-a.>", "_INBOX.*.x", "_INBOX.client.>", ">"} {
		if _, err := b.SubscribeSync(subject); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(5 * time.Second); !strings.Contains(refusedB(), subject) && time.Now().Before(end); {
		}
		if !strings.Contains(refusedB(), `Subscription to "`+subject+`"`) {
			t.Errorf("tenant b may listen to %s", subject)
		}
	}
	if _, err := n.Conn().Subscribe("inf.v1.models", func(m *nats.Msg) { _ = m.Respond([]byte("for a")) }); err != nil {
		t.Fatal(err)
	}
	if err := n.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	heard := make(chan string, 8)
	if _, err := b.Subscribe("_INBOX.tenant-b.>", func(m *nats.Msg) { heard <- string(m.Data) }); err != nil {
		t.Fatal(err)
	}
	if m, err := a.Request("inf.v1.models", nil, 5*time.Second); err != nil || string(m.Data) != "for a" {
		t.Fatalf("tenant a gets %v, %v; %s", m, err, refusedA())
	}
	if err := b.Flush(); err != nil {
		t.Fatal(err)
	}
	if len(heard) > 0 {
		t.Errorf("tenant b heard %q", <-heard)
	}
}

// A node with a role joins and does its part; what is none of its business does not get through.
func TestNodesJoinWithTheirKeys(t *testing.T) {
	hub, dir := secured(t, 0)
	leaf, err := Start(Options{ID: "leaf", Listen: "none", Leafs: []string{hub.LeafURL()}, Security: security(dir, "replica"), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer leaf.Close()
	a := NewActor(leaf, "memory", "r1", "test")
	Handle(a, schemas.Prefixes, NewGroup(), func(context.Context, *schemas.PrefixRequest) (*schemas.PrefixReply, error) {
		return (*schemas.PrefixReply)(nil).Example(), nil
	})
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := hub.WaitForService(ctx, schemas.Prefixes.Subject("r1")); err != nil {
		t.Fatal(err)
	}
	if reply, err := NewRef(hub, schemas.Prefixes, "r1").Call(ctx, &schemas.PrefixRequest{}); err != nil || reply.Serial == 0 {
		t.Errorf("the hub asks the leaf: %+v, %v", reply, err)
	}
	heard := make(chan string, 8)
	for _, subject := range []string{schemas.Submit.Subject("other"), schemas.ReplicaReports.Subject("r1")} {
		if _, err := hub.Conn().Subscribe(subject, func(m *nats.Msg) { heard <- m.Subject }); err != nil {
			t.Fatal(err)
		}
	}
	if err := hub.Conn().Flush(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(5 * time.Second); !leaf.Served(schemas.ReplicaReports.Subject("r1")) && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	for _, subject := range []string{schemas.Submit.Subject("other"), schemas.ReplicaReports.Subject("r1")} {
		if err := leaf.Conn().Publish(subject, []byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case subject := <-heard:
		if subject != schemas.ReplicaReports.Subject("r1") {
			t.Errorf("the hub heard %s from a replica, which has no business there", subject)
		}
	case <-ctx.Done():
		t.Error("the replica's report does not get through")
	}
}

func TestWrongCredentialsFailAtOnceWithAReason(t *testing.T) {
	hub, dir := secured(t, 0)
	_, foreign := secured(t, 0)
	expired, expiredDir := secured(t, time.Millisecond-2*clockSkewMax)
	_ = expired
	wide := filepath.Join(t.TempDir(), "wide.nk")
	seed, err := os.ReadFile(dir + "/replica.nk")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(wide, seed, 0o644); err != nil {
		t.Fatal(err)
	}
	good := security(dir, "replica")
	change := func(f func(*Security)) Security { s := good; f(&s); return s }
	for name, c := range map[string]struct {
		security Security
		want     string
	}{
		"no key":              {change(func(s *Security) { s.Seed = "" }), "does not know these credentials"},
		"a foreign key":       {change(func(s *Security) { s.Seed = foreign + "/replica.nk" }), "does not know these credentials"},
		"no TLS":              {Security{Seed: good.Seed, JoinTimeMax: good.JoinTimeMax}, "certificates do not fit"},
		"a foreign authority": {security(foreign, "replica"), "certificates do not fit"},
		"no certificate":      {change(func(s *Security) { s.Cert, s.Key = "", "" }), "it wants a certificate"},
		"an expired one":      {change(func(s *Security) { s.Cert, s.Key = expiredDir+"/replica.pem", expiredDir+"/replica-key.pem" }), "is valid from"},
		"a seed for all":      {change(func(s *Security) { s.Seed = wide }), "chmod 600"},
		"no seed":             {change(func(s *Security) { s.Seed = dir + "/ca.pem" }), "a seed has 58"},
	} {
		t.Run(name, func(t *testing.T) {
			from := time.Now()
			n, err := Start(Options{ID: "leaf", Listen: "none", Leafs: []string{hub.LeafURL()}, Security: c.security, Log: zerolog.Nop()})
			if err == nil {
				n.Close()
				t.Fatal("it was let in")
			}
			var e *schemas.Error
			if !errors.As(err, &e) || !strings.Contains(e.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
			if took := time.Since(from); took > 10*time.Second { // without a reason it goes on trying
				t.Errorf("it took %s", took)
			}
		})
	}
	if hub.server.NumLeafNodes() != 0 {
		t.Error("a leaf with wrong credentials is connected")
	}
}

func TestNothingListensBeyondThisMachineUnlessItIsSafeOrSaid(t *testing.T) {
	_, dir := secured(t, 0)
	conf, err := os.ReadFile(dir + "/hub.conf")
	if err != nil {
		t.Fatal(err)
	}
	tlsOnly, _, _ := strings.Cut(string(conf), "authorization")
	for name, c := range map[string]struct {
		opts Options
		want string
	}{
		"NATS":                    {Options{Listen: "0.0.0.0:-1"}, "has neither TLS nor credentials"},
		"leafs":                   {Options{Listen: "none", LeafListen: "0.0.0.0:-1"}, "the address for other nodes"},
		"all addresses by colon":  {Options{Listen: "none", LeafListen: ":-1"}, "the address for other nodes"},
		"credentials alone":       {Options{Listen: "0.0.0.0:-1", Config: `authorization {user: a, password: b}`}, "has no TLS"},
		"TLS alone":               {Options{Listen: "0.0.0.0:-1", Config: tlsOnly}, "has no credentials"},
		"monitor":                 {Options{Listen: "none", Config: `http: "0.0.0.0:18222"`}, "NATS's monitor"},
		"cluster":                 {Options{Listen: "127.0.0.1:-1", Config: `cluster {name: x, listen: "0.0.0.0:-1"}`}, "the NATS cluster"},
		"a cluster in silence":    {Options{Listen: "none", Config: `cluster {name: x, listen: "127.0.0.1:-1"}`}, "a cluster needs a listener"},
		"websocket":               {Options{Listen: "none", Config: `websocket {listen: "0.0.0.0:18223", no_tls: true}`}, "websockets"},
		"with keys":               {Options{Listen: "0.0.0.0:-1", LeafListen: "0.0.0.0:-1", Config: string(conf)}, ""},
		"loopback":                {Options{Listen: "127.0.0.1:-1", LeafListen: "[::1]:-1"}, ""},
		"on purpose":              {Options{Listen: "0.0.0.0:-1", LeafListen: "0.0.0.0:-1", Security: Security{Insecure: true}}, ""},
		"the default without any": {Options{}, "has neither TLS nor credentials"},
	} {
		c.opts.Log = zerolog.Nop()
		sopts, err := serverOptions(c.opts)
		if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q (%+v)", name, err, c.want, sopts)
		}
	}
}

func TestMadeKeysAreWhatTheySay(t *testing.T) {
	keys, err := MakeKeys(KeysConfig{Hosts: []string{"hub.example.org", "10.1.2.3"}, Dir: "/etc/troupe/keys"})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(keys["ca.pem"])
	for _, name := range []string{"hub", "replica", "client"} {
		pair, err := tls.X509KeyPair(keys[name+".pem"], keys[name+"-key.pem"])
		if err != nil {
			t.Fatal(err)
		}
		for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
			_, err = pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{use}})
			if serves := use == x509.ExtKeyUsageServerAuth; (err == nil) != (!serves || name == "hub") {
				t.Errorf("%s, usage %v: %v", name, use, err)
			}
		}
	}
	for _, host := range []string{"hub.example.org", "10.1.2.3"} {
		pair, _ := tls.X509KeyPair(keys["hub.pem"], keys["hub-key.pem"])
		if err := pair.Leaf.VerifyHostname(host); err != nil {
			t.Error(err)
		}
	}
	for _, r := range Roles() {
		pair, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(keys[r.Name+".nk"]))))
		if err != nil {
			t.Fatal(err)
		}
		if public, _ := pair.PublicKey(); !strings.Contains(string(keys["hub.conf"]), "{nkey: "+public) {
			t.Errorf("hub.conf does not know the key of %s", r.Name)
		}
	}
	if _, err := MakeKeys(KeysConfig{}); err == nil || !strings.Contains(err.Error(), "no host name") {
		t.Errorf("got %v", err)
	}
	if err := (&server.Options{}).ProcessConfigString(strings.ReplaceAll(string(keys["hub.conf"]), "/etc/troupe/keys", t.TempDir())); err == nil {
		t.Error("a configuration with files that are not there is taken")
	}
}

// A node that lets one process in by a key lets in nobody else.
func TestOnlyTheHolderOfTheKeyJoins(t *testing.T) {
	public, seed, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	_, other, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	hub, err := Start(Options{ID: "hub", Listen: "none", LeafListen: "127.0.0.1:0", LeafKey: public, Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	defer hub.Close()
	for name, c := range map[string]struct {
		seed string
		in   bool
	}{"no key": {"", false}, "another key": {other, false}, "the key": {seed, true}} {
		n, err := Start(Options{ID: "leaf", Listen: "none", Leafs: []string{hub.LeafURL()}, Security: Security{SeedText: c.seed, JoinTimeMax: 10 * time.Second}, Log: zerolog.Nop()})
		if (err == nil) != c.in {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			n.Close()
		}
	}
	if _, err := Start(Options{ID: "hub", Listen: "none", LeafListen: "127.0.0.1:0", LeafKey: public, Config: `leafnodes {listen: "127.0.0.1:-1"}`, Log: zerolog.Nop()}); err == nil {
		t.Error("a configuration with leafnodes of its own is taken")
	}
}
