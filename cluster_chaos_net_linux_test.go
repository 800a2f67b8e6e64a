package troupe

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/link"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	wireNetwork  = "10.79.1."        // hosts: the hub is .1, replicas follow
	wireHub      = wireNetwork + "1" //
	clientNet    = "10.78.1."        // between the test and the hub, which nothing disturbs
	clientHubURL = "http://10.78.1.1:8000"
)

// netChaos is a hub and replicas as processes on hosts of their own, on a bad network.
type netChaos struct {
	t        *testing.T
	wire     *link.Wire
	rng      *rand.Rand
	hosts    []string // namespaces: the hub's first
	parts    bool     // the hub has the schedulers, and the other hosts only compute
	hub      *process
	replicas []*process
	made     int
	hubs     atomic.Int64 // how often a hub was killed or started
	hubSince atomic.Int64 // unix nanoseconds: replicas join a hub within a second or two
	log      []string
	watch    *bus.Node
}

type process struct {
	name string
	host string
	cmd  *exec.Cmd
	in   io.Closer
}

func (p *process) kill() {
	_ = p.cmd.Process.Kill() // an error means that it has ended
	_ = p.cmd.Wait()
}

// start runs the test binary on a host and returns when it says that it is ready.
func (c *netChaos) start(host, name, variable string) *process {
	c.t.Helper()
	p := &process{name: name, host: host, cmd: exec.Command("ip", "netns", "exec", host, os.Args[0])}
	p.cmd.Env, p.cmd.Stderr = append(os.Environ(), variable), os.Stderr
	in, err := p.cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	p.in = in
	if err := p.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(p.kill)
	if s := bufio.NewScanner(out); !s.Scan() || s.Text() != "ready" {
		c.t.Fatalf("%s did not start: %q, %v", name, s.Text(), s.Err())
	}
	return p
}

func (c *netChaos) startHub() {
	actors := RoleGateway
	if c.parts {
		actors += "," + RoleScheduler
	}
	c.hub = c.start(c.hosts[0], "hub", hubVariable+"="+actors)
}

func (c *netChaos) startReplica(host string) *process {
	c.made++
	name, role := fmt.Sprintf("r%d", c.made), RoleReplica
	if c.parts {
		role = RoleCompute
	}
	return c.start(host, name, childVariable+"="+name+" nats-leaf://"+wireHub+":7422 "+role)
}

// open makes hosts, and skips the test where there can be none.
func (c *netChaos) open(replicas int) {
	t := c.t
	t.Helper()
	ip := func(format string, args ...any) {
		t.Helper()
		if out, err := exec.Command("ip", strings.Fields(fmt.Sprintf(format, args...))...).CombinedOutput(); err != nil {
			t.Skipf("ip "+format+": %s: hosts need root and network namespaces", append(args, out)...)
		}
	}
	t.Cleanup(c.wire.Close)
	for i := range replicas + 1 {
		host := fmt.Sprintf("tc%d-%d", os.Getpid(), i)
		ip("netns add %s", host)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", host).Run() }) // of a test that has ended
		if err := c.wire.Attach(host); err != nil {
			t.Skip(err)
		}
		ip("-n %s addr add %s%d/24 dev eth0", host, wireNetwork, i+1)
		ip("-n %s link set eth0 up", host)
		ip("-n %s link set lo up", host)
		c.hosts = append(c.hosts, host)
	}
	veth := fmt.Sprintf("tcv%d", os.Getpid())
	ip("link add %s type veth peer name eth1 netns %s", veth, c.hosts[0])
	t.Cleanup(func() { _ = exec.Command("ip", "link", "del", veth).Run() }) // at once: with its host it goes some time later
	ip("addr add %s2/24 dev %s", clientNet, veth)
	ip("link set %s up", veth)
	ip("-n %s addr add %s1/24 dev eth1", c.hosts[0], clientNet)
	ip("-n %s link set eth1 up", c.hosts[0])
	c.startHub()
	for _, host := range c.hosts[1:] {
		c.replicas = append(c.replicas, c.startReplica(host))
	}
	var err error
	if c.watch, err = bus.Start(bus.Options{ID: "watch", Listen: "none", Leafs: []string{"nats-leaf://" + clientNet + "1:7422"}, Log: zerolog.Nop()}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.watch.Close)
}

// disturb does something bad. The first replica and its host are left alone, but for the network.
func (c *netChaos) disturb() {
	i := 1 + c.rng.IntN(len(c.replicas)-1)
	p := c.replicas[i]
	pause := time.Duration(200+c.rng.IntN(3000)) * time.Millisecond // some are noticed, some not
	what := []string{"kill", "stop", "cut", "hub", "loss", "jitter", "bad network"}[c.rng.IntN(7)]
	c.log = append(c.log, what+" "+p.name)
	switch what {
	case "kill":
		p.kill()
		c.replicas[i] = c.startReplica(p.host)
	case "stop":
		_ = p.cmd.Process.Signal(syscall.SIGSTOP) // an error shows in what is not noticed
		time.Sleep(pause)
		_ = p.cmd.Process.Signal(syscall.SIGCONT)
	case "cut":
		c.wire.Cut(p.host, true)
		time.Sleep(pause)
		c.wire.Cut(p.host, false)
	case "hub":
		c.hubs.Add(1)
		c.hub.kill()
		c.startHub()
		c.hubSince.Store(time.Now().UnixNano())
		c.hubs.Add(1)
	default:
		loss, jitter := 0.05, 50*time.Millisecond
		switch what {
		case "loss":
			jitter = 0
		case "jitter":
			loss = 0
		}
		c.wire.Set(loss, 0, jitter)
		time.Sleep(pause)
		c.wire.Set(0, 0, 0)
	}
}

// outcome is how one request ended.
type outcome struct {
	text  string
	named string // the code of an error
	cut   error  // the connection ended without a word
}

// askHub sends a streamed request and reads what comes until the connection is done with it.
func askHub(body string) (o outcome) {
	resp, err := http.Post(clientHubURL+"/v1/completions", "application/json", strings.NewReader(body))
	if err != nil {
		return outcome{cut: err}
	}
	defer resp.Body.Close()
	var texts [2]strings.Builder
	var event struct {
		Choices []struct {
			Index int
			Text  string
		}
		Error *struct{ Message, Code string }
	}
	if resp.StatusCode != http.StatusOK {
		if err := json.NewDecoder(resp.Body).Decode(&event); err != nil || event.Error == nil {
			return outcome{cut: fmt.Errorf("%s: %w", resp.Status, err)}
		}
		return outcome{named: event.Error.Code}
	}
	ends := 0
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, is := strings.CutPrefix(lines.Text(), "data: ")
		if !is {
			continue
		}
		if ends > 0 && data != "[DONE]" {
			return outcome{named: "", cut: errors.New("something came after the end: " + data)}
		}
		if data == "[DONE]" {
			ends++
			continue
		}
		event.Choices, event.Error = nil, nil
		if err := json.Unmarshal([]byte(data), &event); err != nil {
			return outcome{cut: err}
		}
		if event.Error != nil {
			o.named = event.Error.Code
		}
		for _, choice := range event.Choices {
			texts[choice.Index].WriteString(choice.Text)
		}
	}
	switch {
	case o.named != "":
	case ends != 1:
		o.cut = fmt.Errorf("the stream has %d ends: %w", ends, errors.Join(io.ErrUnexpectedEOF, lines.Err()))
	default:
		o.text = texts[0].String() + "|" + texts[1].String()
	}
	return o
}

// TestChaosOfHosts holds every answer to what one undisturbed node says, while processes on hosts of their own are killed
// and frozen, the hub too, and the network loses 5 % of its frames, delays them by up to 50 ms and parts hosts. A
// request ends once: in the same tokens, in a named error, or with the connection to a hub that was killed. Run it
// longer with -chaos.duration=10m.
func TestChaosOfHosts(t *testing.T) { chaosOfHosts(t, false) }

// TestChaosOfComputes is the same with computes that the hub's schedulers plan for: what both stream to each other is lost, late and
// cut off.
func TestChaosOfComputes(t *testing.T) { chaosOfHosts(t, true) }

func chaosOfHosts(t *testing.T, parts bool) {
	if testing.Short() {
		t.Skip("takes long")
	}
	c := &netChaos{t: t, rng: rand.New(rand.NewPCG(*chaosSeed, 32)), wire: link.NewWire(*chaosSeed), parts: parts}
	c.open(3)
	list := asks(t, *chaosSeed, 12, 300)
	var answered, named, early, cut atomic.Int64
	var kinds sync.Map
	over := make(chan struct{})
	var load sync.WaitGroup
	for i := range 4 {
		load.Go(func() {
			for n := i; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				a, hubs := list[n%len(list)], c.hubs.Load()
				switch o := askHub(a.body); {
				case o.cut != nil && (hubs%2 == 1 || c.hubs.Load() != hubs):
					cut.Add(1)
					time.Sleep(20 * time.Millisecond) // until there is a hub again
				case o.cut != nil:
					t.Errorf("%s: %v", a.body, o.cut)
				case o.named != "":
					if time.Now().UnixNano()-c.hubSince.Load() < int64(5*time.Second) {
						early.Add(1)
					} else {
						named.Add(1)
						kinds.Store(o.named, true)
					}
					time.Sleep(20 * time.Millisecond)
				case o.text != a.want:
					t.Errorf("%s:\ngot  %q\nwant %q", a.body, o.text, a.want)
				default:
					answered.Add(1)
				}
			}
		})
	}
	for end := time.Now().Add(*chaosDuration); time.Now().Before(end) && !t.Failed(); {
		c.disturb()
	}
	close(over)
	load.Wait()
	passed, lost := c.wire.Frames()
	var codes []string
	kinds.Range(func(code, _ any) bool { codes = append(codes, code.(string)); return true })
	t.Logf("seed %d: %d answers as undisturbed, %d named errors %v, %d of a hub that nobody had joined yet, %d cut off with a killed hub; %d frames passed, %d lost; %s",
		*chaosSeed, answered.Load(), named.Load(), codes, early.Load(), cut.Load(), passed, lost, strings.Join(c.log, ", "))
	if answered.Load() == 0 {
		t.Error("nothing was answered")
	}
	c.waitHoldNothing()
}

// waitHoldNothing waits until no replica has blocks of a request. A compute has another name with each scheduler.
func (c *netChaos) waitHoldNothing() {
	var served sync.Map // the replica of each compute
	reports, err := bus.Subscribe(c.watch, schemas.ReplicaReports, "", func(_ schemas.Instance, r *schemas.ReplicaReport) { served.Store(string(r.Compute), r.Replica) })
	if err != nil {
		c.t.Fatal(err)
	}
	defer reports.Close()
	for _, p := range c.replicas {
		if !c.parts {
			waitHoldsNothing(c.t, c.watch, p.name)
			continue
		}
		waitFor(c.t, p.name+" is served and holds no blocks", func() bool {
			replica, is := served.Load(p.name)
			return is && holdsNothing(c.watch, replica.(schemas.Instance))
		})
	}
}
