package bus

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"github.com/vmihailenco/msgpack/v5"
	"go.uber.org/goleak"

	"github.com/troupe-engine/troupe/schemas"
)

// The test binary is also the second process of the conformance suite. Started with the first variable set
// to a leaf URL, it attaches there and hosts the actors of a stage until its standard input ends. With the
// second set to a NATS URL, it is a client that knows nothing of the bus.
const (
	helperVariable   = "TROUPE_BUS_TEST_LEAF_URL"
	strangerVariable = "TROUPE_BUS_TEST_CLIENT_URL"
)

func TestMain(m *testing.M) {
	var err error
	switch leaf, client := os.Getenv(helperVariable), os.Getenv(strangerVariable); {
	case leaf != "":
		err = helper(leaf)
	case client != "":
		err = stranger(client)
	default:
		goleak.VerifyTestMain(m)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// stranger asks the stage as people's scripts do: JSON and msgpack maps, on the shared and the instance's
// subject, with and without a content type.
func stranger(url string) error {
	c, err := nats.Connect(url)
	if err != nil {
		return err
	}
	defer c.Close()
	asMap, err := msgpack.Marshal(map[string]any{"number": 9, "text": "hi", "column": []int{1, 2, 3}})
	if err != nil {
		return err
	}
	asJSON := []byte(`{"number":9,"text":"hi","column":[1,2,3]}`)
	type content struct {
		name, header string
		body         []byte
		read         func([]byte, any) error
	}
	for _, form := range []content{
		{"JSON", "", asJSON, json.Unmarshal},
		{"JSON by header", "application/json; charset=utf-8", asJSON, json.Unmarshal},
		{"msgpack map", "", asMap, msgpack.Unmarshal},
		{"msgpack map by header", "application/msgpack", asMap, msgpack.Unmarshal},
	} {
		for _, subject := range []string{"inf.v1.stage.serial", "inf.v1.stage.serial.stage", "inf.v1.stage.pooled"} {
			m := &nats.Msg{Subject: subject, Data: form.body}
			if form.header != "" {
				m.Header = nats.Header{"Content-Type": {form.header}}
			}
			reply, err := c.RequestMsg(m, 5*time.Second)
			if err != nil {
				return fmt.Errorf("%s to %s: %w", form.name, subject, err)
			}
			var a answer
			if err := form.read(reply.Data, &a); err != nil || a.Number != 9 || a.Text != "hi" || len(a.Column) != 3 || a.Column[2] != 3 {
				return fmt.Errorf("%s to %s: got %q, headers %v: %+v, %w", form.name, subject, reply.Data, reply.Header, a, err)
			}
		}
	}
	return nil
}

func helper(url string) error {
	n, err := Start(Options{ID: "helper", Listen: "none", Leafs: []string{url}, Log: zerolog.New(os.Stderr).Level(zerolog.ErrorLevel)})
	if err != nil {
		return err
	}
	defer n.Close()
	if _, err := newStage(n); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// startHelper runs the helper process until the test or stop ends it.
func startHelper(t testing.TB, n *Node) (stop func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), helperVariable+"="+n.LeafURL())
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var once sync.Once
	stop = func() {
		once.Do(func() {
			_ = stdin.Close()
			_ = cmd.Wait()
		})
	}
	t.Cleanup(stop)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := n.WaitForService(ctx, pooled.Subject("stage")); err != nil {
		t.Fatal(err)
	}
	return stop
}

func startNode(t testing.TB, opts Options) *Node {
	t.Helper()
	if opts.Listen == "" {
		opts.Listen = "127.0.0.1:-1"
	}
	opts.Log = zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.ErrorLevel)
	n, err := Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// probe is what the stage's actors are asked. They do what it says.
type probe struct {
	_msgpack struct{} `msgpack:",as_array"`

	Caller     int32          `json:"caller"`
	Number     int64          `json:"number"`
	Text       string         `json:"text,omitempty"`
	Column     schemas.I32    `json:"column,omitempty"`
	WaitMs     int64          `json:"wait_ms,omitempty"`  // or until the handler's context ends
	Stubborn   bool           `json:"stubborn,omitempty"` // wait to the end in any case
	Fail       *schemas.Error `json:"fail,omitempty"`
	ReplyBytes int32          `json:"reply_bytes,omitempty"`
	Panic      bool           `json:"panic,omitempty"`
}

type answer struct {
	_msgpack struct{} `msgpack:",as_array"`

	Number    int64       `json:"number"`
	Text      string      `json:"text"`
	Column    schemas.I32 `json:"column"`
	Bytes     schemas.U8  `json:"bytes,omitempty"`
	Started   int64       `json:"started"`  // handlers started so far, this one included
	Together  int32       `json:"together"` // most handlers that ran at one time
	Disorder  int32       `json:"disorder"` // requests whose number did not follow their caller's last one
	LeftMs    int64       `json:"left_ms"`  // until the handler's deadline; -1: none
	Cancelled bool        `json:"cancelled"`
}

func (*probe) Example() *probe   { return &probe{Caller: 1, Number: 2, Text: "three"} }
func (*answer) Example() *answer { return &answer{Number: 2, Text: "three"} }

var (
	serial   = schemas.Endpoint[probe, answer]{Service: "stage", Verb: "serial", Doc: "Under a Group.", Timeout: 2 * time.Second, Attempts: 2}
	looped   = schemas.Endpoint[probe, answer]{Service: "stage", Verb: "looped", Doc: "Under a Loop.", Timeout: 2 * time.Second, Attempts: 2}
	pooled   = schemas.Endpoint[probe, answer]{Service: "stage", Verb: "pooled", Doc: "Under a Pool.", Timeout: 2 * time.Second, Attempts: 2}
	restart  = schemas.Endpoint[probe, answer]{Service: "usher", Verb: "restart", Doc: "Stops the stage for WaitMs.", Timeout: 5 * time.Second, Attempts: 1}
	poolSize = int32(3)
	poolWait = 2
)

// stage is the actor that the conformance suite calls.
type stage struct {
	node *Node
	loop *Loop
	mu   sync.Mutex
	now  *Actor
}

func newStage(n *Node) (*stage, error) {
	s := &stage{node: n, loop: NewLoop(LoopQueueMax)}
	usher := NewActor(n, "usher", "usher", "Restarts the stage.")
	Handle(usher, restart, NewPool(1), s.restart)
	if err := usher.Start(); err != nil {
		return nil, err
	}
	return s, s.open()
}

func (s *stage) open() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = NewActor(s.node, "stage", "stage", "Does what it is asked.")
	pool := NewPool(int(poolSize))
	pool.WaitingMax = poolWait
	Handle(s.now, serial, NewGroup(), new(scene).play)
	Handle(s.now, looped, s.loop, new(scene).play)
	Handle(s.now, pooled, pool, (&scene{concurrent: true}).play)
	return s.now.Start()
}

func (s *stage) restart(ctx context.Context, p *probe) (*answer, error) {
	s.mu.Lock()
	s.now.Stop()
	s.mu.Unlock()
	sleep(ctx, time.Duration(p.WaitMs)*time.Millisecond)
	return &answer{}, s.open()
}

// scene is one endpoint's handler and what it has seen.
type scene struct {
	concurrent bool
	// Without a lock, unless concurrent: the race detector checks the mailbox.
	last     map[int32]int64
	disorder int32
	started  int64

	mu       sync.Mutex
	running  atomic.Int32
	together atomic.Int32
}

func (s *scene) play(ctx context.Context, p *probe) (*answer, error) {
	if s.concurrent {
		s.mu.Lock()
	}
	s.started++
	if s.last == nil {
		s.last = map[int32]int64{}
	}
	if p.Number <= s.last[p.Caller] {
		s.disorder++
	}
	s.last[p.Caller] = p.Number
	a := &answer{Number: p.Number, Text: p.Text, Column: p.Column, Bytes: make(schemas.U8, p.ReplyBytes),
		Started: s.started, Disorder: s.disorder, LeftMs: -1}
	if s.concurrent {
		s.mu.Unlock()
	}
	running := s.running.Add(1)
	defer s.running.Add(-1)
	for most := s.together.Load(); running > most && !s.together.CompareAndSwap(most, running); most = s.together.Load() {
	}
	if end, ok := ctx.Deadline(); ok {
		a.LeftMs = time.Until(end).Milliseconds()
	}
	if p.Panic {
		panic("asked to")
	}
	if wait := time.Duration(p.WaitMs) * time.Millisecond; p.Stubborn {
		time.Sleep(wait)
	} else {
		sleep(ctx, wait)
	}
	a.Cancelled, a.Together = ctx.Err() != nil, s.together.Load()
	if p.Fail != nil {
		return nil, p.Fail
	}
	return a, nil
}
