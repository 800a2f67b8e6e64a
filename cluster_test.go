package troupe

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/internal/nettest"
	"github.com/troupe-engine/troupe/schemas"
)

// childVariable makes the test binary a node of its own: "NAME ADDRESS ACTORS [PHASE]" attaches it, with the pipeline depth
// that depthVariable says, if any.
const (
	childVariable = "TROUPE_TEST_ATTACH"
	depthVariable = "TROUPE_TEST_DEPTH"
	// deviceVariable is what such nodes compute on, in float32.
	deviceVariable = "TROUPE_TEST_DEVICE"
)

func TestMain(m *testing.M) {
	if attach := os.Getenv(childVariable); attach != "" {
		os.Exit(runChild(attach))
	}
	if os.Getenv(isolatedVariable) != "" {
		os.Exit(runIsolated())
	}
	if os.Getenv(replicaVariable) != "" {
		os.Exit(runReplica())
	}
	if actors := os.Getenv(hubVariable); actors != "" {
		os.Exit(runHub(actors))
	}
	if options := os.Getenv(nodeVariable); options != "" {
		os.Exit(runNode(options))
	}
	flag.Parse()
	os.Exit(m.Run())
}

// hubVariable makes the test binary a hub with these actors for nodes on other hosts.
const hubVariable = "TROUPE_TEST_HUB"

// runHub is a process with actors that listens on all of its host's addresses.
func runHub(actors string) int {
	opts := clusterOptions()
	opts.HTTP, opts.Leaf, opts.Actors, opts.Node, opts.InsecureNetwork, opts.InsecureHTTP = "0.0.0.0:8000", "0.0.0.0:7422", actors, "hub", true, true
	return runUntilInputEnds(opts)
}

// runChild is a process with some actors, which ends when its input does.
func runChild(attach string) int {
	part := strings.Fields(attach)
	opts := clusterOptions()
	opts.Node, opts.Attach, opts.Actors, opts.HTTP = part[0], part[1], part[2], "none"
	if len(part) > 3 {
		opts.ReplicaPhase = part[3]
	}
	return runUntilInputEnds(opts)
}

// runUntilInputEnds serves. It says "ready" when it does.
func runUntilInputEnds(opts Options) int {
	e, err := Open(context.Background(), opts, zerolog.New(os.Stderr).Level(zerolog.ErrorLevel).With().Str("child", opts.Node).Logger(), nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println("ready")
	bufio.NewScanner(os.Stdin).Scan() // the parent closes it, or dies
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_ = e.Drain(ctx) // what is left goes on elsewhere
	if err := e.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func clusterOptions() Options {
	opts := DefaultOptions()
	opts.NATSListen, opts.Threads, opts.KVBlocks = "127.0.0.1:0", 1, 1024
	if device := os.Getenv(deviceVariable); device != "" {
		opts.Device, opts.Compute = device, "f32"
	}
	if depth, err := strconv.Atoi(os.Getenv(depthVariable)); err == nil {
		opts.PipelineDepth = depth
	}
	return opts
}

// child is a replica in a process of its own.
type child struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	in   interface{ Close() error }
	once sync.Once
}

// startChild attaches a replica to hub.
func startChild(t *testing.T, hub *Engine, name string) *child {
	t.Helper()
	return startChildAt(t, hub, name, hub.LeafURL())
}

// startChildAt attaches it by way of another address.
func startChildAt(t *testing.T, hub *Engine, name, address string) *child {
	t.Helper()
	c := startNode(t, name, address, RoleReplica)
	waitFor(t, name+" is known", func() bool { return reports(t, hub)[name] != nil })
	return c
}

// startNode attaches a process with some actors.
func startNode(t testing.TB, name, address, actors string) *child {
	t.Helper()
	return startProcess(t, name, childVariable+"="+name+" "+address+" "+actors)
}

// startProcess runs the test binary as a node that a variable describes.
func startProcess(t testing.TB, name, variable string) *child {
	t.Helper()
	c := &child{t: t, name: name, cmd: exec.Command(os.Args[0])}
	c.cmd.Env, c.cmd.Stderr = append(os.Environ(), variable), os.Stderr
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.in = in
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.kill)
	if s := bufio.NewScanner(out); !s.Scan() || s.Text() != "ready" {
		t.Fatalf("the node %s did not start: %q, %v", name, s.Text(), s.Err())
	}
	return c
}

func (c *child) signal(s syscall.Signal) {
	if err := c.cmd.Process.Signal(s); err != nil {
		c.t.Errorf("%s: %v", c.name, err)
	}
}

// kill ends the process as kill -9 does.
func (c *child) kill() {
	c.once.Do(func() {
		_ = c.cmd.Process.Kill() // an error means that it has ended
		_ = c.cmd.Wait()
	})
}

// leave lets the process end as a signal to stop does.
func (c *child) leave() {
	c.once.Do(func() {
		_ = c.in.Close()
		if err := c.cmd.Wait(); err != nil {
			c.t.Errorf("%s: %v", c.name, err)
		}
	})
}

// reports are the replicas that hub's gateway knows, by name.
func reports(t testing.TB, hub *Engine) map[string]*schemas.ReplicaReport {
	t.Helper()
	found := map[string]*schemas.ReplicaReport{}
	for _, r := range hub.gateway.Replicas() {
		found[string(r.Replica)] = r
	}
	return found
}

func waitFor(t testing.TB, what string, reached func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !reached(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come true that %s", what)
		}
	}
}

// startHub opens an engine that others can join: a gateway alone, unless actors says otherwise.
func startHub(t *testing.T, change func(*Options)) *Engine {
	t.Helper()
	return openEngine(t, func(o *Options) {
		listen := o.NATSListen
		*o = clusterOptions()
		o.HTTP, o.NATSListen, o.Leaf, o.Actors = "127.0.0.1:0", listen, "127.0.0.1:0", RoleGateway
		if change != nil {
			change(o)
		}
	})
}

// ask is a completion request, and what one node alone answers to it.
type ask struct {
	body string
	want string
}

// asks are requests whose answers a replica computes token for token as any other does. Their answers take a
// while: tokens come one by one.
func asks(t *testing.T, seed uint64, count, tokens int) []ask {
	t.Helper()
	return asksOf(t, seed, count, tokens, 3)
}

// asksOf are asks with prompts of at least so many words.
func asksOf(t *testing.T, seed uint64, count, tokens, wordsMin int) []ask {
	t.Helper()
	return asksOn(t, DefaultOptions().Device, seed, count, tokens, wordsMin)
}

// asksOn are asks with the answers of an engine on a device.
func asksOn(t *testing.T, device string, seed uint64, count, tokens, wordsMin int) []ask {
	t.Helper()
	return asksFor(t, openEngine(t, func(o *Options) { o.Threads, o.KVBlocks, o.Device, o.Compute = 1, 1024, device, "f32" }), "", seed, count, tokens, wordsMin)
}

// asksFor are asks for a model, "" for none by name, with the answers of alone.
func asksFor(t *testing.T, alone *Engine, model string, seed uint64, count, tokens, wordsMin int) []ask {
	t.Helper()
	rng := rand.New(rand.NewPCG(seed, 21))
	words := strings.Fields("Once upon a time there was an old king who had three sons and a daughter in the house by the sea")
	list := make([]ask, count)
	for i := range list {
		var prompt []string
		for range wordsMin + rng.IntN(20) {
			prompt = append(prompt, words[rng.IntN(len(words))])
		}
		body := map[string]any{"prompt": strings.Join(prompt, " "), "max_tokens": tokens/2 + rng.IntN(tokens/2), "ignore_eos": true, "seed": rng.IntN(1000), "stream": true}
		switch rng.IntN(4) {
		case 0:
			body["temperature"] = 0
		case 1:
			body["n"] = 2
		case 2:
			body["presence_penalty"], body["stop"] = 1.5, []string{"qqq"}
		}
		if model != "" {
			body["model"] = model
		}
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		list[i].body = string(raw)
		var failed error
		if list[i].want, failed = streamText(alone, list[i].body, nil); failed != nil {
			t.Fatal(failed)
		}
	}
	return list
}

// streamText posts a streamed completion and returns the texts of its choices. The error says why it is incomplete.
func streamText(e *Engine, body string, header http.Header) (string, error) {
	req, err := http.NewRequest("POST", e.HTTPURL()+"/v1/completions", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	for name, values := range header {
		req.Header[name] = values
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var texts [2]strings.Builder
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := strings.TrimPrefix(lines.Text(), "data: ")
		if line == "[DONE]" {
			return texts[0].String() + "|" + texts[1].String(), nil
		}
		var event struct {
			Choices []struct {
				Index int
				Text  string
			}
			Error *struct{ Message, Code string }
		}
		if line == "" || strings.HasPrefix(line, ":") {
			continue
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			return "", fmt.Errorf("%s: %w", line, err)
		}
		if event.Error != nil {
			return texts[0].String(), fmt.Errorf("%s: %s", event.Error.Code, event.Error.Message)
		}
		for _, c := range event.Choices {
			texts[c.Index].WriteString(c.Text)
		}
	}
	return "", fmt.Errorf("the stream ended early: %v", lines.Err())
}

// askTogether sends all requests at once and holds the answers to what one node says. It returns when they have ended.
func askTogether(t *testing.T, hub *Engine, list []ask, meanwhile func()) {
	t.Helper()
	var running sync.WaitGroup
	for _, a := range list {
		running.Go(func() {
			got, err := streamText(hub, a.body, nil)
			if err != nil {
				t.Errorf("%s: %v", a.body, err)
			} else if got != a.want {
				t.Errorf("%s:\ngot  %q\nwant %q", a.body, got, a.want)
			}
		})
	}
	meanwhile()
	running.Wait()
}

func TestReplicasAnswerLikeOneNode(t *testing.T) {
	list := asks(t, 1, 24, 60)
	hub := startHub(t, func(o *Options) { o.Routing, o.Actors = "round-robin", RoleGateway+","+RoleReplica })
	startChild(t, hub, "r1")
	startChild(t, hub, "r2")
	askTogether(t, hub, list, func() {})
	waitFor(t, "all replicas report progress", func() bool {
		known := reports(t, hub)
		return len(known) == 3 && known["r1"].Progress > 0 && known["r2"].Progress > 0 && known["replica0"].Progress > 0
	})
	// Prompts that share a beginning go where it is.
	waitFor(t, "prefixes are reported", func() bool { return hub.gateway.HeldPrefixes("r1") > 0 })
}

func TestStreamsGoOnWhenReplicasDie(t *testing.T) {
	list := asks(t, 2, 16, 400)
	hub := startHub(t, func(o *Options) { o.Routing = "round-robin" })
	killed, frozen := startChild(t, hub, "killed"), startChild(t, hub, "frozen")
	startChild(t, hub, "survivor")
	askTogether(t, hub, list, func() {
		waitFor(t, "tokens come from all", func() bool {
			known := reports(t, hub)
			return known["killed"].Running > 0 && known["frozen"].Running > 0 && known["killed"].Progress > 300 && known["frozen"].Progress > 300
		})
		killed.kill()
		frozen.signal(syscall.SIGSTOP)
		waitFor(t, "both are given up", func() bool { return len(reports(t, hub)) == 1 })
	})
	if moved := hub.gateway.Moved(); moved < 2 {
		t.Errorf("%d requests moved; nothing was tested", moved)
	}
	frozen.signal(syscall.SIGCONT) // what it has to say is said to nobody
	waitFor(t, "it is back, with nothing to do", func() bool { r := reports(t, hub)["frozen"]; return r != nil && r.Running+r.Waiting == 0 })
	askTogether(t, hub, list[:4], func() {})
}

func TestAClientMayWantAnErrorInstead(t *testing.T) {
	list := asks(t, 3, 1, 1900)
	hub := startHub(t, nil)
	nodes := []*child{startChild(t, hub, "a"), startChild(t, hub, "b")}
	failed := make(chan error, 1)
	go func() {
		_, err := streamText(hub, list[0].body, http.Header{"Troupe-Failover": {"none"}})
		failed <- err
	}()
	var runs *child
	waitFor(t, "tokens come", func() bool {
		for _, n := range nodes {
			if r := reports(t, hub)[n.name]; r.Running > 0 && r.Progress > 50 {
				runs = n
			}
		}
		return runs != nil
	})
	runs.kill()
	if err := <-failed; err == nil || !strings.Contains(err.Error(), "the replica "+runs.name+" was given up") || !strings.Contains(err.Error(), "the client asked not to go on elsewhere") {
		t.Errorf("got %v, want an error that names the replica and the client's wish", err)
	}
}

// Nodes are replaced one after the other under load, as a rolling update does.
func TestARollingUpdateLosesNothing(t *testing.T) {
	list := asks(t, 4, 12, 200)
	hub := startHub(t, nil)
	nodes := []*child{startChild(t, hub, "a0"), startChild(t, hub, "b0")}
	over := make(chan struct{})
	var load sync.WaitGroup
	for i := range 3 {
		load.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-over:
					return
				default:
					a := list[(i*4+n)%len(list)]
					if got, err := streamText(hub, a.body, nil); err != nil || got != a.want {
						t.Errorf("%s: %v\ngot  %q\nwant %q", a.body, err, got, a.want)
					}
				}
			}
		})
	}
	for i, n := range nodes {
		startChild(t, hub, fmt.Sprintf("%c1", 'a'+i))
		n.leave()
		waitFor(t, n.name+" is gone", func() bool { return reports(t, hub)[n.name] == nil })
	}
	close(over)
	load.Wait()
}

// Nodes that have joined outlive their hub: they join the next one at its address, with their weights loaded and their
// prefixes kept.
func TestNodesJoinTheNextHub(t *testing.T) {
	list := asks(t, 5, 4, 60)
	leaf := fmt.Sprintf("127.0.0.1:%d", nettest.Ports(t, 1)[0])
	at := func(o *Options) { o.Leaf = leaf }
	hub := startHub(t, at)
	startChild(t, hub, "r1")
	askTogether(t, hub, list, func() {})
	incarnation := reports(t, hub)["r1"].Incarnation
	if err := hub.Close(); err != nil {
		t.Fatal(err)
	}
	next := startHub(t, at)
	waitFor(t, "the node has joined the next hub", func() bool { return reports(t, next)["r1"] != nil })
	if reports(t, next)["r1"].Incarnation != incarnation {
		t.Error("the node was restarted")
	}
	waitFor(t, "its prefixes are known there", func() bool { return next.gateway.HeldPrefixes("r1") > 0 })
	askTogether(t, next, list, func() {})
}
