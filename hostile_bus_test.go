package troupe

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/soak"
	"github.com/troupe-engine/troupe/schemas"
)

var (
	hostileSeed = flag.Uint64("hostile.seed", 1, "seed of TestHostileMessages")
	hostileTime = flag.Duration("hostile.time", 4*time.Second, "how long TestHostileMessages goes on")
)

// TestHostileMessages sends every subject of the engine, the actors' own included, what no actor would
// send: each is refused by name, and requests that run meanwhile come out as ever.
//
// What a client that may publish on the actors' own subjects can do by design, and what is therefore not tried
// here: cancel the sequences of others, give memory or compute a later epoch than the scheduler's, deliver
// made-up tokens or text for a running sequence. Accounts and permissions of the NATS server keep strangers from it.
func TestHostileMessages(t *testing.T) {
	qs := questions(t, 12)
	e := openOn(t, network{stepTimeMax: time.Second}, nil)
	c := clientOf(t, e)
	stranger, err := nats.Connect(e.NATSURL())
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	ctx, cancel := context.WithTimeout(context.Background(), *hostileTime+time.Minute)
	defer cancel()

	over := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for round := uint64(0); ; round++ {
			wrong, _ := askAll(ctx, t, c, qs, round, func(*soak.Ending) bool { return false })
			for _, w := range wrong {
				t.Errorf("seed %d: %s", *hostileSeed, w)
			}
			select {
			case <-over:
				return
			default:
			}
		}
	})
	stop := sync.OnceFunc(func() {
		close(over)
		asking.Wait()
	})
	defer stop()
	h := &hostile{t: t, conn: stranger, rng: rand.New(rand.NewPCG(*hostileSeed, 1)), refusals: map[string]int{}}
	for until := time.Now().Add(*hostileTime); time.Now().Before(until); {
		h.attack(ctx)
	}
	stop()
	t.Logf("seed %d: %d messages, refused as %v, %d accepted, %d asked nothing", *hostileSeed, h.sent, h.refusals, h.accepted, h.published)
	if _, err := c.WaitQuiet(ctx); err != nil {
		t.Errorf("seed %d: %v", *hostileSeed, err)
	}
}

type hostile struct {
	t                         *testing.T
	conn                      *nats.Conn
	rng                       *rand.Rand
	sent, accepted, published int
	refusals                  map[string]int
}

// attack sends one message and reads what comes of it.
func (h *hostile) attack(ctx context.Context) {
	h.t.Helper()
	subject, example := h.target()
	payload, header := h.payload(example)
	if disruptive(subject, payload) {
		return
	}
	h.sent++
	m := &nats.Msg{Subject: subject, Data: payload, Header: header}
	if h.rng.IntN(20) == 0 {
		h.published++
		if err := h.conn.PublishMsg(m); err != nil {
			h.t.Fatal(err)
		}
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	reply, err := h.conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		h.t.Fatalf("seed %d: %s: no answer to %.100x (%d bytes): %v", *hostileSeed, subject, payload, len(payload), err)
	}
	switch code := reply.Header.Get(micro.ErrorCodeHeader); {
	case code == "":
		h.accepted++
	case reply.Header.Get(micro.ErrorHeader) == "":
		h.t.Errorf("seed %d: %s: error %s without a text for %.100x", *hostileSeed, subject, code, payload)
	default:
		h.refusals[code]++
		if status, err := strconv.Atoi(code); err != nil || status == 500 {
			h.t.Errorf("seed %d: %s: %s %s for %.100x", *hostileSeed, subject, code, reply.Header.Get(micro.ErrorHeader), payload)
		}
	}
}

// target draws a subject and an example of what belongs there.
func (h *hostile) target() (string, any) {
	if h.rng.IntN(8) == 0 {
		clients := schemas.ClientEndpoints()
		e := clients[h.rng.IntN(len(clients))]
		return e.Subject(), e.RequestExample
	}
	// Policies in other processes, and nodes that work together, are not there; nor is what they hand over
	// (TestHandoversAreRefused) and claim (TestClaimsAreRefused).
	all := slices.DeleteFunc(slices.Clone(schemas.Endpoints()), func(e schemas.EndpointInfo) bool {
		handsOver := e.Service == "compute" && slices.Contains([]string{schemas.OfferKV.Verb, schemas.FetchKV.Verb, schemas.ImportKV.Verb}, e.Verb)
		return e.Service == "policy" || e.Service == "node" || e.Service == "device" || handsOver
	})
	e := all[h.rng.IntN(len(all))]
	instance := map[string]schemas.Instance{"gateway": gatewayInstance, "tokenizer": tokenizerInstance}[e.Service]
	if instance == "" {
		instance = replicaInstance
	}
	return e.Subject() + "." + string(instance), e.RequestExample
}

// payload draws what to send in place of example.
func (h *hostile) payload(example any) ([]byte, nats.Header) {
	h.t.Helper()
	valid, err := bus.Marshal(example)
	if err != nil {
		h.t.Fatal(err)
	}
	rng := h.rng
	switch rng.IntN(6) {
	case 0:
		return random(rng, rng.IntN(300)), nil
	case 1: // a head that promises gigabytes
		head := []byte{0xdd, 0xdf, 0xdb, 0xc6, 0xc9}[rng.IntN(5)]
		return append(binary.BigEndian.AppendUint32([]byte{0x91, head}, rng.Uint32()|1<<31), random(rng, rng.IntN(64))...), nil
	case 2: // nests
		deep := make([]byte, 1+rng.IntN(100_000))
		for i := range deep {
			deep[i] = []byte{0x91, 0x81, 0xc1}[rng.IntN(2)]
		}
		return deep, nil
	case 3: // well-formed, of another shape
		b, err := msgpack.Marshal(shape(rng, 4))
		if err != nil {
			h.t.Fatal(err)
		}
		return b, nil
	case 4: // JSON
		raw := mutated(rng, marshal(h.t, example))
		return raw, nats.Header{"Content-Type": {"application/json"}}
	}
	return mutated(rng, valid), nil
}

func random(rng *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// mutated changes a few bytes of b: flips, cuts, repeats.
func mutated(rng *rand.Rand, b []byte) []byte {
	b = append([]byte(nil), b...)
	for range 1 + rng.IntN(4) {
		if len(b) == 0 {
			break
		}
		at := rng.IntN(len(b))
		switch rng.IntN(4) {
		case 0:
			b[at] = byte(rng.Uint32())
		case 1:
			b[at] ^= 1 << rng.IntN(8)
		case 2:
			b = b[:at]
		case 3:
			b = append(b[:at:at], append(random(rng, 1+rng.IntN(8)), b[at:]...)...)
		}
	}
	return b
}

// shape draws a value of any type.
func shape(rng *rand.Rand, depth int) any {
	switch rng.IntN(8) {
	case 0:
		return nil
	case 1:
		return rng.Int64() - rng.Int64()
	case 2:
		return rng.NormFloat64() * 1e30
	case 3:
		return string(random(rng, rng.IntN(20)))
	case 4:
		return random(rng, rng.IntN(40))
	case 5:
		return rng.IntN(2) == 0
	case 6:
		m := map[string]any{}
		for range rng.IntN(5) * min(depth, 1) {
			m[string(random(rng, 3))] = shape(rng, depth-1)
		}
		return m
	}
	list := make([]any, rng.IntN(20)*min(depth, 1))
	for i := range list {
		list[i] = shape(rng, depth-1)
	}
	return list
}

// disruptive reports what can do harm by design (see TestHostileMessages), and sessions that nobody would close.
func disruptive(subject string, payload []byte) bool {
	const examples = 1 << 20 // epochs in examples are small, the engine's is the time of its start in nanoseconds
	read := func(v any) bool { return bus.Unmarshal(payload, v) == nil || json.Unmarshal(payload, v) == nil }
	switch subject {
	case schemas.Reserve.Subject(replicaInstance):
		r := &schemas.ReserveRequest{}
		return read(r) && r.Epoch > examples
	case schemas.Execute.Subject(replicaInstance):
		p := &schemas.StepPlan{}
		return read(p) && p.Epoch > examples
	case schemas.Kernels.Subject(replicaInstance): // another kernel may round otherwise
		r := &schemas.KernelsRequest{}
		return read(r) && r.Select != ""
	case schemas.Encode.Subject(tokenizerInstance):
		r := &schemas.EncodeRequest{}
		return read(r) && r.Detok != nil
	}
	return false
}

// TestPlansAndResultsThatLie sends the actors of a running engine well-formed messages of the current epoch
// that name slots, blocks, tokens, rows and sequences which do not exist.
func TestPlansAndResultsThatLie(t *testing.T) {
	qs := questions(t, 12)
	e := openOn(t, network{stepTimeMax: time.Second}, nil)
	c := clientOf(t, e)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	asked := make(chan []string, 1)
	go func() {
		wrong, _ := askAll(ctx, t, c, qs, 1, func(*soak.Ending) bool { return false })
		asked <- wrong
	}()
	state := &soak.State{}
	for state.Scheduler.InFlight == 0 {
		var err error
		if state, err = c.State(ctx); err != nil {
			t.Fatal(err)
		}
	}
	epoch, far := state.Scheduler.Epoch, state.Scheduler.Step+1000
	plan := func(change func(p *schemas.StepPlan)) *schemas.StepPlan {
		p := &schemas.StepPlan{Epoch: epoch, Step: far, Seq: schemas.U64{1 << 8}, Slot: schemas.I32{0}, Start: schemas.I32{0}, Count: schemas.I32{1},
			Known: schemas.I32{1}, Sample: schemas.U8{1}, Tokens: schemas.I32{1}, BlockFrom: schemas.I32{0}, BlockCount: schemas.I32{1}, Blocks: schemas.I32{0}}
		change(p)
		return p
	}
	old := epoch - 1
	for _, lie := range []struct {
		subject string
		message any
		code    string // "" is accepted: it concerns nobody
	}{
		{schemas.Execute.Subject(replicaInstance), plan(func(p *schemas.StepPlan) { p.Epoch = old }), "400"},
		{schemas.Reserve.Subject(replicaInstance), &schemas.ReserveRequest{Epoch: old, Step: far}, "400"},
		{schemas.Reserve.Subject(replicaInstance), &schemas.ReserveRequest{Epoch: epoch, Step: far, Seq: schemas.U64{77 << 8}, WantMax: schemas.I32{1}, MayPreempt: schemas.U8{1}}, "400"},
		{schemas.StepDone.Subject(replicaInstance), &schemas.StepResult{Epoch: old, Step: 1, Row: schemas.I32{0}, Token: schemas.I32{1}}, ""},
		{schemas.StepDone.Subject(replicaInstance), &schemas.StepResult{Epoch: epoch, Step: far, Row: schemas.I32{-1, 1 << 30}, Token: schemas.I32{1}}, ""},
		{schemas.Tokens.Subject(tokenizerInstance), &schemas.TokenBatch{From: "x", Seq: schemas.U64{99 << 8}, Index: schemas.I32{-5}, Token: schemas.I32{1 << 30},
			Finish: schemas.U8{200}, Cached: schemas.I32{-1}}, ""},
		{schemas.Tokens.Subject(tokenizerInstance), &schemas.TokenBatch{From: "x", Seq: schemas.U64{99 << 8, 1}}, "400"},
		{schemas.Deltas.Subject(gatewayInstance), &schemas.DeltaBatch{From: "x", Seq: schemas.U64{99<<8 | 255}, Text: []string{"x"}, Tokens: schemas.I32{1}, IDs: schemas.I32{1},
			Finish: schemas.U8{9}, Cached: schemas.I32{0}}, ""},
		{schemas.Deltas.Subject(gatewayInstance), &schemas.DeltaBatch{From: "x", Seq: schemas.U64{1, 2}}, "400"},
		// A step of the current epoch that the scheduler did not plan is compute's latest: the scheduler's own look
		// like repeats, until it misses a result and starts a new epoch.
		{schemas.Execute.Subject(replicaInstance), plan(func(p *schemas.StepPlan) {
			p.Slot, p.Blocks, p.Tokens = schemas.I32{1 << 30}, schemas.I32{-1}, schemas.I32{1 << 30}
		}), ""},
	} {
		body, err := bus.Marshal(lie.message)
		if err != nil {
			t.Fatal(err)
		}
		reply, err := c.Conn.RequestMsgWithContext(ctx, &nats.Msg{Subject: lie.subject, Data: body})
		if err != nil {
			t.Fatalf("%s: %v", lie.subject, err)
		}
		if code := reply.Header.Get(micro.ErrorCodeHeader); code != lie.code {
			t.Errorf("%s: code %q %s for %s; expected %q", lie.subject, code, reply.Header.Get(micro.ErrorHeader), fmt.Sprintf("%.200s", fmt.Sprint(lie.message)), lie.code)
		}
	}
	for _, w := range <-asked {
		t.Error(w)
	}
	if _, err := c.WaitQuiet(ctx); err != nil {
		t.Error(err)
	}
}
