package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// engine stands in for tokenizer, scheduler and memory: a token is a word, and what a request answers is
// up to the test.
type engine struct {
	t    testing.TB
	node *bus.Node
	gate *bus.Ref[schemas.DeltaBatch, schemas.Ack]

	info       *schemas.EngineInfo
	toolFormat string
	// play answers an accepted request; nil lets the test do it by hand.
	play func(e *engine, r *schemas.SubmitRequest)
	// refuse, if set, is what Submit returns.
	refuse func(r *schemas.SubmitRequest) *schemas.Error

	mu        sync.Mutex
	encodes   []*schemas.EncodeRequest
	submits   []*schemas.SubmitRequest
	compiles  []*schemas.CompileRequest
	cancelled map[uint64]bool
	sessions  map[schemas.RequestID]int32 // choices of each open session
	number    uint64

	submitted chan *schemas.SubmitRequest
	playing   sync.WaitGroup
}

const engineContext = 64

func startEngine(t testing.TB, play func(*engine, *schemas.SubmitRequest)) *engine {
	t.Helper()
	return startEngineOn(t, bus.Options{}, play)
}

func startEngineOn(t testing.TB, opts bus.Options, play func(*engine, *schemas.SubmitRequest)) *engine {
	t.Helper()
	opts.Listen, opts.Log = "127.0.0.1:-1", zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.ErrorLevel)
	node, err := bus.Start(opts)
	if err != nil {
		t.Fatal(err)
	}
	info := *(*schemas.EngineInfo)(nil).Example()
	info.Model, info.ContextMax = "fake", engineContext
	e := &engine{t: t, node: node, play: play, info: &info, gate: bus.NewRef(node, schemas.Deltas, "gateway0"),
		cancelled: map[uint64]bool{}, sessions: map[schemas.RequestID]int32{}, submitted: make(chan *schemas.SubmitRequest, 4096)}
	tokenizer := bus.NewActor(node, "tokenizer", "tokenizer0", "fake")
	bus.Handle(tokenizer, schemas.Encode, bus.NewPool(4), e.encode)
	bus.Handle(tokenizer, schemas.Decode, bus.NewPool(4), e.decode)
	bus.Handle(tokenizer, schemas.TokenizerInfo, bus.NewGroup(), func(context.Context, *schemas.InfoRequest) (*schemas.TokenizerState, error) {
		return &schemas.TokenizerState{ToolFormat: e.toolFormat}, nil
	})
	bus.Handle(tokenizer, schemas.CloseSessions, bus.NewGroup(), e.closeSessions)
	scheduler := bus.NewActor(node, "scheduler", "replica0", "fake")
	group := bus.NewGroup()
	bus.Handle(scheduler, schemas.Submit, group, e.submit)
	bus.Handle(scheduler, schemas.CancelSeqs, group, e.cancel)
	bus.Handle(scheduler, schemas.Engine, group, func(context.Context, *schemas.InfoRequest) (*schemas.EngineInfo, error) {
		return e.info, nil
	})
	bus.Handle(scheduler, schemas.SchedulerInfo, group, func(context.Context, *schemas.InfoRequest) (*schemas.SchedulerState, error) {
		return &schemas.SchedulerState{Policy: "fcfs", Running: 3, Preemptions: 2}, nil
	})
	bus.Handle(scheduler, schemas.Policy, group, func(_ context.Context, r *schemas.PolicyRequest) (*schemas.PolicyReply, error) {
		if r.Name != "" && r.Name != "priority" {
			return nil, schemas.Errorf(schemas.KindInvalid, "policy", "there is no policy %q", r.Name).WithParam("name")
		}
		return &schemas.PolicyReply{Active: "fcfs" + r.Name, Policies: []string{"fcfs", "priority"}}, nil
	})
	memory := bus.NewActor(node, "memory", "replica0", "fake")
	bus.Handle(memory, schemas.MemoryInfo, group, func(context.Context, *schemas.InfoRequest) (*schemas.MemoryState, error) {
		return &schemas.MemoryState{Total: 10, Used: 5, QueryTokens: 8, HitTokens: 4}, nil
	})
	compute := bus.NewActor(node, "compute", "replica0", "fake")
	bus.Handle(compute, schemas.Compile, group, e.compile)
	for _, a := range []*bus.Actor{tokenizer, scheduler, memory, compute} {
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		e.playing.Wait()
		node.Close()
	})
	return e
}

func (e *engine) encode(_ context.Context, r *schemas.EncodeRequest) (*schemas.EncodeReply, error) {
	e.mu.Lock()
	e.encodes = append(e.encodes, r)
	if r.Detok != nil {
		e.sessions[r.Request] += r.Detok.Choices
	}
	e.mu.Unlock()
	for i, id := range r.Tokens {
		if id >= e.info.VocabSize {
			return nil, schemas.Errorf(schemas.KindInvalid, "encode", "token %d is %d; the vocabulary has 0 to %d", i, id, e.info.VocabSize-1).WithParam("prompt")
		}
	}
	if r.Tokens != nil {
		return &schemas.EncodeReply{Tokens: r.Tokens}, nil
	}
	words := strings.Fields(r.Prompt + string(r.Messages))
	tokens := make(schemas.I32, len(words))
	return &schemas.EncodeReply{Tokens: tokens}, nil
}

// decode gives token n the text "tn ".
func (e *engine) decode(_ context.Context, r *schemas.DecodeRequest) (*schemas.DecodeReply, error) {
	text := ""
	for _, id := range r.Tokens {
		if id >= e.info.VocabSize {
			return nil, schemas.Errorf(schemas.KindInvalid, "decode", "token %d is not in the vocabulary", id).WithParam("tokens")
		}
		text += fmt.Sprintf("t%d ", id)
	}
	return &schemas.DecodeReply{Text: text}, nil
}

// compile takes every guide but those that contain "bad".
func (e *engine) compile(_ context.Context, r *schemas.CompileRequest) (*schemas.CompileReply, error) {
	if strings.Contains(r.Guide.Source, "bad") {
		return nil, schemas.Errorf(schemas.KindInvalid, "compile", "the guide is bad")
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.compiles = append(e.compiles, r)
	return &schemas.CompileReply{MinTokens: 1}, nil
}

func (e *engine) closeSessions(_ context.Context, r *schemas.CancelRequest) (*schemas.CancelReply, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range r.Seq {
		e.endSession(schemas.SeqID(s))
	}
	return &schemas.CancelReply{}, nil
}

// endSession closes one choice's session. The caller holds mu.
func (e *engine) endSession(seq schemas.SeqID) {
	if e.sessions[seq.Request()]--; e.sessions[seq.Request()] <= 0 {
		delete(e.sessions, seq.Request())
	}
}

// openSessions counts the requests whose text somebody still waits for.
func (e *engine) openSessions() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.sessions)
}

func (e *engine) submit(_ context.Context, r *schemas.SubmitRequest) (*schemas.SubmitReply, error) {
	if e.refuse != nil {
		if err := e.refuse(r); err != nil {
			return nil, err
		}
	}
	e.mu.Lock()
	again := slices.ContainsFunc(e.submits, func(s *schemas.SubmitRequest) bool { return s.Request == r.Request })
	e.submits = append(e.submits, r)
	e.mu.Unlock()
	play := e.play // a test may change it once it has taken the request
	e.submitted <- r
	if play != nil && !again { // schedulers know what a bad network repeats
		e.playing.Go(func() { play(e, r) })
	}
	return &schemas.SubmitReply{}, nil
}

func (e *engine) cancel(_ context.Context, r *schemas.CancelRequest) (*schemas.CancelReply, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range r.Seq {
		e.cancelled[s] = true
	}
	return &schemas.CancelReply{Cancelled: int32(len(r.Seq))}, nil
}

func (e *engine) isCancelled(seq schemas.SeqID) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.cancelled[uint64(seq)]
}

// delta is one row that a test sends.
type delta struct {
	seq    schemas.SeqID
	text   string
	tokens int32
	finish schemas.FinishReason
	cached int32
	err    *schemas.Error

	id        int32 // of the row's token
	logprobs  []schemas.TextLogprobs
	embedding schemas.F32
}

func batchOf(rows ...delta) *schemas.DeltaBatch {
	b := &schemas.DeltaBatch{From: "tokenizer0"}
	for i, r := range rows {
		b.Seq = append(b.Seq, uint64(r.seq))
		b.Text = append(b.Text, r.text)
		b.Tokens = append(b.Tokens, r.tokens)
		b.IDs = append(b.IDs, r.id)
		b.Finish = append(b.Finish, byte(r.finish))
		b.Cached = append(b.Cached, r.cached)
		if r.err != nil {
			b.Errors = append(b.Errors, schemas.SeqError{Seq: r.seq, Error: *r.err})
		}
		for _, l := range r.logprobs {
			l.Logprobs.Row = int32(i)
			b.Logprobs = append(b.Logprobs, l)
		}
		if r.embedding != nil {
			b.Embeddings = append(b.Embeddings, schemas.Embedding{Row: int32(i), Values: r.embedding})
		}
	}
	return b
}

// send delivers rows and returns the sequences that the gateway does not know.
func (e *engine) send(rows ...delta) schemas.U64 {
	e.t.Helper()
	e.mu.Lock()
	e.number++
	b := batchOf(rows...)
	b.Number = e.number
	for _, r := range rows {
		if r.finish != schemas.FinishNone {
			e.endSession(r.seq)
		}
	}
	e.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	ack, err := e.gate.Call(ctx, b)
	if err != nil {
		e.t.Error(err)
		return nil
	}
	return ack.Forgotten
}

// recite answers every choice with "w0 w1 …", one word per batch, until the token limit.
func recite(e *engine, r *schemas.SubmitRequest) {
	for n := int32(1); n <= r.MaxTokens; n++ {
		var rows []delta
		for c := range int(r.Choices) {
			d := delta{seq: r.Request.Seq(c), text: "w" + string('0'+(n-1)%10) + " ", tokens: n, cached: int32(c)}
			if n == r.MaxTokens {
				d.finish = schemas.FinishLength
			}
			rows = append(rows, d)
		}
		if len(e.send(rows...)) > 0 {
			return
		}
	}
}

// startGateway runs a gateway on the engine's node, ready, and its HTTP server.
func startGateway(t testing.TB, e *engine, change func(*Config)) (*Gateway, *httptest.Server) {
	t.Helper()
	cfg := Config{Instance: "gateway0", Scheduler: "replica0", Tokenizer: "tokenizer0", Aliases: []string{"alias", "org/name"},
		Log: zerolog.New(zerolog.NewTestWriter(t)).Level(zerolog.ErrorLevel)}
	if change != nil {
		change(&cfg)
	}
	g, err := New(e.node, cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(nil)
	server.Config = g.HTTPServer()
	server.Start()
	t.Cleanup(func() {
		g.Close()
		server.Close()
	})
	eventually(t, "the gateway is ready", func() bool { return g.ready() == nil })
	return g, server
}

func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		if condition() {
			return
		}
	}
	t.Fatalf("not within 10 s: %s", what)
}

// post sends a body and returns status and reply.
func post(t testing.TB, server *httptest.Server, path, body string) (*http.Response, []byte) {
	t.Helper()
	resp, err := server.Client().Post(server.URL+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return resp, []byte(readAll(resp))
}

// readAll reads a body as far as it comes.
func readAll(resp *http.Response) string {
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body) // a stream that breaks off is a test's own business
	return string(body)
}

// unread is the text that waits in the gateway.
func (e *engine) unread() (bytes int32) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	state, err := bus.NewRef(e.node, schemas.GatewayInfo, "gateway0").Call(ctx, &schemas.InfoRequest{})
	if err != nil {
		e.t.Error(err)
		return 0
	}
	for _, r := range state.Requests {
		bytes += r.QueuedBytes
	}
	return bytes
}

func decode[T any](t testing.TB, body []byte) *T {
	t.Helper()
	v := new(T)
	if err := json.Unmarshal(body, v); err != nil {
		t.Fatalf("%v in %s", err, body)
	}
	return v
}
