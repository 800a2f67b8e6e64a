package bus

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/schemas"
)

func TestPeopleCallWithJSONAndMaps(t *testing.T) {
	w := stageHere(t, Options{})
	c, err := nats.Connect(w.node.URL())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	client := exec.Command(self)
	client.Env = append(os.Environ(), strangerVariable+"="+w.node.URL())
	if out, err := client.CombinedOutput(); err != nil {
		t.Fatalf("a plain client in another process: %v: %s", err, out)
	}
	reply, err := c.Request(serial.Subject(""), nil, 5*time.Second) // as `nats req SUBJECT ''`
	if err != nil || len(reply.Data) == 0 || reply.Data[0] != '{' {
		t.Errorf("an empty request: %q, %v", reply.Data, err)
	}
	for _, bad := range []string{`{"number":"nine"}`, `{"nubmer":9}`, `{"number":9} x`, "\x81\xa6nubmer\x09", "\x93", "\xc1", "{" + strings.Repeat("[", 1000)} {
		reply, err := c.Request(serial.Subject(""), []byte(bad), 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		e := wantKind(t, errorOf(reply), schemas.KindInvalid)
		if e.Actor != "stage.stage" || e.Hint == "" || reply.Header.Get(micro.ErrorCodeHeader) != "400" {
			t.Errorf("%.20q: got %#v, headers %v", bad, e, reply.Header)
		}
	}
	if err := c.Publish(serial.Subject(""), []byte(`{"number":10}`)); err != nil { // nobody wants the answer
		t.Fatal(err)
	}
}

// Columns lie in the payload they came with; it must not be used for anything else.
func TestColumnsKeepTheirPayload(t *testing.T) {
	w := stageHere(t, Options{RemoteOnly: true})
	var kept []*answer
	for i := range 300 {
		a, err := w.serial.Call(within(t, 5*time.Second), &probe{Number: int64(i), Column: slices.Repeat(schemas.I32{int32(i)}, 1+i*i%3000)})
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, a)
	}
	for i, a := range kept {
		if len(a.Column) != 1+i*i%3000 || slices.Min(a.Column) != int32(i) || slices.Max(a.Column) != int32(i) {
			t.Fatalf("answer %d has changed", i)
		}
	}
}

func TestDirectoryListsActors(t *testing.T) {
	w := stageHere(t, Options{})
	if _, err := w.serial.Call(context.Background(), &probe{}); err != nil {
		t.Fatal(err)
	}
	info, err := w.node.data.Request("$SRV.INFO.stage", nil, time.Second)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"name":"serial"`, `"name":"serial-stage"`, `"subject":"inf.v1.stage.serial"`, `"subject":"inf.v1.stage.serial.stage"`,
		`request_schema`, `\"text\":\"three\"`, `"instance":"stage"`} {
		if !strings.Contains(string(info.Data), want) {
			t.Errorf("no %s in %s", want, info.Data)
		}
	}
	stats, err := w.node.data.Request("$SRV.STATS.stage", nil, time.Second)
	if err != nil || !strings.Contains(string(stats.Data), `"in_process":1`) {
		t.Errorf("got %s, %v", stats.Data, err)
	}
}

func TestInstanceNamesAreUnique(t *testing.T) {
	w := stageHere(t, Options{})
	twin := NewActor(w.node, "stage", "stage", "")
	Handle(twin, serial, NewGroup(), new(scene).play)
	if err := twin.Start(); err == nil {
		t.Fatal("a second actor took the subject")
	}
	if a, err := w.serial.Call(context.Background(), &probe{Number: 3}); err != nil || a.Number != 3 {
		t.Errorf("the first actor suffered: %+v, %v", a, err)
	}
	other := NewActor(w.node, "stage", "other", "")
	Handle(other, serial, NewGroup(), new(scene).play)
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	shared := NewRef(w.node, serial, "")
	if _, err := w.restart.Call(context.Background(), &probe{WaitMs: 0}); err != nil {
		t.Fatal(err)
	}
	if _, err := shared.Call(within(t, time.Second), &probe{}); err != nil {
		t.Errorf("the shared subject: %v", err)
	}
	other.Stop()
	if _, err := shared.Call(within(t, time.Second), &probe{}); err != nil {
		t.Errorf("the shared subject after one of two stopped: %v", err)
	}
	if err := other.Start(); err == nil {
		t.Error("an actor started twice")
	}
}

func TestStopWaitsForHandlersAndStartsNoMore(t *testing.T) {
	for _, remote := range []bool{false, true} {
		n := startNode(t, Options{RemoteOnly: remote})
		a := NewActor(n, "stage", "stage", "")
		began, open := make(chan struct{}, 10), true // open without a lock: Stop orders the accesses
		Handle(a, serial, NewGroup(), func(ctx context.Context, p *probe) (*answer, error) {
			if !open {
				t.Error("a handler started after Stop")
			}
			began <- struct{}{}
			time.Sleep(100 * time.Millisecond)
			return &answer{Number: p.Number}, nil
		})
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		ref := NewRef(n, serial, "stage")
		var all sync.WaitGroup
		results := make(chan error, 4)
		for range cap(results) {
			all.Go(func() {
				_, err := ref.Call(within(t, 5*time.Second), &probe{Number: 1})
				results <- err
			})
		}
		<-began
		a.Stop()
		open = false
		all.Wait()
		done := 0
		for range cap(results) {
			if err := <-results; err == nil {
				done++
			} else {
				wantKind(t, err, schemas.KindUnavailable)
			}
		}
		if done == 0 || done == cap(results) {
			t.Errorf("remote=%v: %d calls were answered; want the running one, not those that waited", remote, done)
		}
	}
}

func TestCloseEndsWaitingCalls(t *testing.T) {
	silent := startNode(t, Options{LeafListen: "127.0.0.1:-1"})
	sub, err := silent.data.Subscribe(serial.Subject("mute"), func(*nats.Msg) {}) // takes requests, never answers
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	n := startNode(t, Options{Leafs: []string{silent.LeafURL()}})
	if err := n.WaitForService(within(t, 10*time.Second), serial.Subject("mute")); err != nil {
		t.Fatal(err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := NewRef(n, serial, "mute").Call(context.Background(), &probe{})
		failed <- err
	}()
	time.Sleep(50 * time.Millisecond)
	n.Close()
	select {
	case err := <-failed:
		wantKind(t, err, schemas.KindUnavailable)
	case <-time.After(time.Second):
		t.Fatal("the call still waits")
	}
	_, err = NewRef(n, serial, "mute").Call(context.Background(), &probe{})
	wantKind(t, err, schemas.KindUnavailable)
	if err := NewActor(n, "stage", "late", "").Start(); err == nil {
		t.Error("an actor started on a closed node")
	}
}

func TestCallsSurviveAnInterruptedConnection(t *testing.T) {
	w := stageHere(t, Options{RemoteOnly: true})
	for range 3 {
		id, err := w.node.data.GetClientID()
		if err != nil {
			t.Fatal(err)
		}
		if err := w.node.server.DisconnectClientByID(id); err != nil {
			t.Fatal(err)
		}
		if _, err := w.serial.Call(within(t, 10*time.Second), &probe{}); err != nil {
			t.Errorf("after the connection broke: %v", err)
		}
	}
}

func TestCallsSurviveALostLeaf(t *testing.T) {
	n := startNode(t, Options{LeafListen: "127.0.0.1:-1"})
	stop := startHelper(t, n)
	w := newWorld(n, false)
	if _, err := w.serial.Call(within(t, 5*time.Second), &probe{}); err != nil {
		t.Fatal(err)
	}
	stop()
	began := time.Now()
	_, err := w.serial.Call(context.Background(), &probe{})
	wantKind(t, err, schemas.KindUnavailable)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s to notice", took)
	}
	startHelper(t, n)
	if _, err := w.serial.Call(within(t, 5*time.Second), &probe{}); err != nil {
		t.Errorf("after the leaf came back: %v", err)
	}
}

func TestNodeLogsInToItsOwnServer(t *testing.T) {
	for name, c := range map[string]struct {
		config, account string
		login           []nats.Option
	}{
		"one user":     {`authorization { user: u, password: secret }`, "", []nats.Option{nats.UserInfo("u", "secret")}},
		"token":        {`authorization { token: secret }`, "", []nats.Option{nats.Token("secret")}},
		"users":        {`authorization { users: [{user: u, password: secret}, {user: v, password: w}] }`, "", []nats.Option{nats.UserInfo("u", "secret")}},
		"one account":  {`accounts { A: { users: [{user: u, password: secret}] } }`, "", []nats.Option{nats.UserInfo("u", "secret")}},
		"two accounts": {`accounts { A: { users: [{user: u, password: secret}] }, B: { users: [{user: v, password: w}] } }`, "A", []nats.Option{nats.UserInfo("u", "secret")}},
		"with a system account": {`system_account: SYS, accounts { SYS: { users: [{user: s, password: s}] }, A: { users: [{user: u, password: secret}] } }`, "",
			[]nats.Option{nats.UserInfo("u", "secret")}},
	} {
		t.Run(name, func(t *testing.T) {
			w := stageHere(t, Options{Config: c.config, Account: c.account, RemoteOnly: true})
			if _, err := w.serial.Call(within(t, 5*time.Second), &probe{}); err != nil {
				t.Fatal(err)
			}
			if conn, err := nats.Connect(w.node.URL(), nats.NoReconnect()); err == nil {
				conn.Close()
				t.Fatal("a stranger got in")
			}
			conn, err := nats.Connect(w.node.URL(), c.login...)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			tap, err := conn.SubscribeSync("tap.>")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := conn.Request(serial.Subject(""), []byte(`{}`), 5*time.Second); err != nil {
				t.Fatal(err)
			}
			if _, err := tap.NextMsg(2 * time.Second); err != nil {
				t.Errorf("nothing mirrored in the account: %v", err)
			}
		})
	}
	for name, opts := range map[string]Options{
		"which account":  {Config: `accounts { A: { users: [{user: u, password: p}] }, B: { users: [{user: v, password: w}] } }`},
		"no account":     {Config: `accounts { A: { users: [{user: u, password: p}] } }`, Account: "C"},
		"syntax":         {Config: `authorization {`},
		"address":        {Listen: "127.0.0.1"},
		"port":           {Listen: "127.0.0.1:70000"},
		"leaf address":   {LeafListen: "127.0.0.1:1:x"},
		"leaf URL":       {Leafs: []string{"hostonly:"}},
		"hashed token":   {Config: `authorization { token: "$2a$11$PWIFAL8RsWyGI3jVZtO9Nu8.6jOxzxfZo7c/W0eLk017hjgUKWrhy" }`},
		"port in use":    {Listen: strings.TrimPrefix(startNode(t, Options{}).URL(), "nats://")},
		"operator setup": {Config: `operator: "x"`},
	} {
		if opts.Listen == "" {
			opts.Listen = "none"
		}
		began := time.Now()
		if n, err := Start(opts); err == nil {
			n.Close()
			t.Errorf("%s: started", name)
		} else if time.Since(began) > 5*time.Second {
			t.Errorf("%s: took %s", name, time.Since(began))
		}
	}
}

func TestAddresses(t *testing.T) {
	n := startNode(t, Options{Listen: "0.0.0.0:-1", LeafListen: "0.0.0.0:0", Security: Security{Insecure: true}})
	if !strings.HasPrefix(n.URL(), "nats://127.0.0.1:") || !strings.HasPrefix(n.LeafURL(), "nats-leaf://127.0.0.1:") || strings.HasSuffix(n.LeafURL(), ":-1") {
		t.Errorf("got %s and %s", n.URL(), n.LeafURL())
	}
	closed := startNode(t, Options{Listen: "none"})
	if closed.URL() != "" || closed.LeafURL() != "" {
		t.Errorf("got %q and %q for a node without listeners", closed.URL(), closed.LeafURL())
	}
	private := startNode(t, Options{Listen: "none", LeafListen: "127.0.0.1:-1"}) // for other nodes only
	guest := startNode(t, Options{Listen: "none", Leafs: []string{private.LeafURL()}})
	sub, err := private.data.Subscribe("inf.v1.stage.here", func(*nats.Msg) {})
	if err != nil {
		t.Fatal(err)
	}
	defer sub.Unsubscribe()
	if err := guest.WaitForService(within(t, 10*time.Second), "inf.v1.stage.here"); err != nil {
		t.Error(err)
	}
	if n.ID() == closed.ID() {
		t.Errorf("two nodes are called %s", n.ID())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Millisecond)
	defer cancel()
	if err := n.WaitForService(ctx, "inf.v1.nobody.home"); !errors.Is(err, &schemas.Error{Kind: schemas.KindUnavailable}) {
		t.Errorf("got %v", err)
	}
}
