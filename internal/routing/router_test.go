package routing

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

const blockSize = 16

func name(i int) schemas.Instance { return schemas.Instance(fmt.Sprintf("r%03d", i)) }

// fleet is a router that knows n idle replicas of the model "m".
func fleet(t testing.TB, n int, o Options) *Router {
	t.Helper()
	r, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		set(t, r, Replica{Name: name(i)})
	}
	return r
}

func set(t testing.TB, r *Router, s Replica) {
	t.Helper()
	if s.Model == "" {
		s.Model = "m"
	}
	s.BlockSize, s.SequencesMax, s.Blocks = blockSize, 8, 1024
	if s.Load.FreeBlocks == 0 {
		s.Load.FreeBlocks = 1024
	}
	if err := r.Set(s); err != nil {
		t.Fatal(err)
	}
}

func route(t testing.TB, r *Router, q *Request) *Ticket {
	t.Helper()
	q.BlockSize = blockSize
	ticket, err := r.Route(q)
	if err != nil {
		t.Fatal(err)
	}
	return ticket
}

func prompt(rng *rand.Rand, n int) schemas.I32 {
	tokens := make(schemas.I32, n)
	for i := range tokens {
		tokens[i] = rng.Int32N(1000)
	}
	return tokens
}

func TestBlockKeysNamePrefixes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	a := prompt(rng, 100)
	keys := BlockKeys(nil, a, blockSize, 7)
	if len(keys) != 6 {
		t.Fatalf("%d keys for 100 tokens; want the 6 full blocks'", len(keys))
	}
	b := slices.Clone(a)
	b[40]++ // in block 2
	other := BlockKeys(nil, b, blockSize, 7)
	for i := range keys {
		if (keys[i] == other[i]) != (i < 2) {
			t.Errorf("block %d: %x and %x", i, keys[i], other[i])
		}
	}
	if BlockKeys(nil, a, blockSize, 8)[0] == keys[0] || BlockKeys(nil, a, 8, 7)[1] == keys[0] {
		t.Error("another salt or block size gives the same key")
	}
	// The names are a promise between processes of different versions.
	if got := fmt.Sprintf("%016x", BlockKeys(nil, schemas.I32{1, 2, 3}, 3, 0)); got != "[828a90a5651104d2]" {
		t.Errorf("the key of tokens 1, 2, 3 is %s", got)
	}
}

// The search finds what looking at every block finds, for replicas whose prefixes end anywhere.
func TestOverlapsEqualALinearSearch(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 2))
		n := 1 + rng.IntN(200)
		r := fleet(t, n, Options{})
		keys := BlockKeys(nil, prompt(rng, rng.IntN(3000)), blockSize, 0)
		want := make([]int32, n)
		for i := range n {
			if rng.IntN(3) > 0 {
				want[i] = rng.Int32N(int32(len(keys)) + 1)
			}
			r.Update(name(i), keys[:want[i]], nil)
			r.Update(name(i), BlockKeys(nil, prompt(rng, 64), blockSize, 1), nil) // others' prompts
		}
		for i := range n {
			if rng.IntN(8) == 0 {
				r.Remove(name(i))
				set(t, r, Replica{Name: name(i)}) // in a slot that was used
				want[i] = 0
			}
			if rng.IntN(8) == 0 && want[i] > 0 {
				cut := rng.Int32N(want[i])
				r.Update(name(i), nil, keys[cut:want[i]])
				want[i] = cut
			}
		}
		if err := r.collect(&Request{Prompt: 1, Keys: keys, BlockSize: blockSize}); err != nil {
			t.Fatal(err)
		}
		for i, c := range r.candidates {
			if c.Overlap != want[i] {
				t.Fatalf("seed %d: %s holds %d of %d blocks, want %d", seed, c.Name, c.Overlap, len(keys), want[i])
			}
		}
	}
}

func TestPoliciesSpreadAndFollow(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 3))
	keys := BlockKeys(nil, prompt(rng, 640), blockSize, 0)
	for _, policy := range Policies() {
		r := fleet(t, 4, Options{Policy: policy, Seed: 1})
		counts := map[schemas.Instance]int{}
		for range 400 {
			ticket := route(t, r, &Request{Prompt: 100})
			counts[ticket.Replica]++
			r.Done(ticket)
		}
		for i := range 4 {
			if n := counts[name(i)]; n < 60 || n > 140 {
				t.Errorf("%s: %d of 400 requests to one of four idle replicas", policy, n)
			}
		}
		r.Update(name(2), keys, nil)
		ticket := route(t, r, &Request{Prompt: 640, Keys: keys})
		if policy == "prefix" && (ticket.Replica != name(2) || ticket.Overlap != 40) {
			t.Errorf("the prompt's blocks are at %s; it went to %s (overlap %d)", name(2), ticket.Replica, ticket.Overlap)
		}
	}
}

func TestLoadIsAvoided(t *testing.T) {
	for _, policy := range []string{"least-loaded", "two-choices", "prefix"} {
		r := fleet(t, 2, Options{Policy: policy})
		set(t, r, Replica{Name: name(0), Load: Load{Running: 8, Waiting: 4, QueuedTokens: 4000}})
		for range 8 {
			if at := route(t, r, &Request{Prompt: 100}).Replica; at != name(1) {
				t.Errorf("%s chose the replica with 12 requests", policy)
			}
		}
	}
	// A cached prefix is worth its tokens, not more.
	rng := rand.New(rand.NewPCG(1, 4))
	keys := BlockKeys(nil, prompt(rng, 320), blockSize, 0)
	r := fleet(t, 2, Options{})
	r.Update(name(0), keys, nil)
	for queued, want := range map[int64]schemas.Instance{100: name(0), 10000: name(1)} {
		set(t, r, Replica{Name: name(0), Load: Load{Running: 1, QueuedTokens: queued}})
		ticket := route(t, r, &Request{Prompt: 320, Keys: keys})
		if ticket.Replica != want {
			t.Errorf("with %d tokens queued where the prefix is, the request went to %s", queued, ticket.Replica)
		}
		r.Done(ticket)
	}
}

// What was sent since the last report counts.
func TestRequestsOnTheirWayCount(t *testing.T) {
	for _, policy := range []string{"least-loaded", "prefix"} {
		r := fleet(t, 3, Options{Policy: policy})
		counts := map[schemas.Instance]int{}
		var tickets []*Ticket
		for range 12 {
			ticket := route(t, r, &Request{Prompt: 50})
			counts[ticket.Replica]++
			tickets = append(tickets, ticket)
		}
		for i := range 3 {
			if counts[name(i)] != 4 {
				t.Errorf("%s: %v; want 4 each", policy, counts)
			}
		}
		for _, ticket := range tickets {
			r.Started(ticket)
			r.Done(ticket)
			r.Done(ticket)
		}
		for _, n := range r.replicas {
			if n.own != 0 || n.queued != 0 {
				t.Errorf("%s: %d requests and %d tokens are left at %s", policy, n.own, n.queued, n.Name)
			}
		}
	}
}

func TestSessionsStay(t *testing.T) {
	r := fleet(t, 10, Options{})
	at := map[string]schemas.Instance{}
	session := func(i int) string { return fmt.Sprintf("session %d", i) }
	visit := func(i int) schemas.Instance {
		ticket := route(t, r, &Request{Prompt: 10, Session: session(i)})
		r.Done(ticket)
		return ticket.Replica
	}
	for i := range 200 {
		at[session(i)] = visit(i)
	}
	r.Remove(name(3))
	for i := range 200 {
		if now := visit(i); now != at[session(i)] && at[session(i)] != name(3) {
			t.Errorf("%s moved from %s to %s when another replica left", session(i), at[session(i)], now)
		}
	}
	// One session cannot overload its replica.
	counts := map[schemas.Instance]int{}
	for range 90 {
		counts[route(t, r, &Request{Prompt: 10, Session: "busy"}).Replica]++
	}
	for where, n := range counts {
		if n > 15 {
			t.Errorf("%d of 90 requests of one session run at %s of 9", n, where)
		}
	}
}

func TestRefusals(t *testing.T) {
	r := fleet(t, 2, Options{})
	set(t, r, Replica{Name: name(0), Draining: true})
	for want, q := range map[string]*Request{
		`no replica serves the model "other"`:                       {Model: "other"},
		"all 2 replicas with the model are draining or have failed": {Model: "m", Avoid: []schemas.Instance{name(1)}},
	} {
		if _, err := r.Route(q); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if at := route(t, r, &Request{Model: "m"}).Replica; at != name(1) {
		t.Errorf("a draining replica got a request")
	}
	if _, err := New(Options{Policy: "nosuch"}); err == nil || !strings.Contains(err.Error(), "choose one of least-loaded, prefix, round-robin, two-choices") {
		t.Errorf("got %v", err)
	}
}

func TestPhases(t *testing.T) {
	r := fleet(t, 3, Options{})
	set(t, r, Replica{Name: name(0), Phase: schemas.PhasePrefill, Load: Load{Running: 9}})
	set(t, r, Replica{Name: name(1), Phase: schemas.PhaseDecode})
	set(t, r, Replica{Name: name(2), Draining: true})
	for phase, want := range map[string]schemas.Instance{schemas.PhasePrefill: name(0), schemas.PhaseDecode: name(1), "": name(1)} {
		if at := route(t, r, &Request{Model: "m", Phase: phase}).Replica; at != want {
			t.Errorf("a request in phase %q goes to %s, want %s", phase, at, want)
		}
	}
	set(t, r, Replica{Name: name(2)}) // for both
	if at := route(t, r, &Request{Model: "m", Phase: schemas.PhaseDecode, Avoid: []schemas.Instance{name(1)}}).Replica; at != name(2) {
		t.Errorf("a request that goes on goes to %s", at)
	}
	if _, err := r.Route(&Request{Model: "m", Phase: schemas.PhaseDecode, Avoid: []schemas.Instance{name(1), name(2)}}); err == nil {
		t.Error("a replica for prompts alone takes an answer")
	}
}

// The same history gives the same decisions, whatever order maps have.
func TestDeterminism(t *testing.T) {
	play := func(policy string, seed uint64) string {
		rng := rand.New(rand.NewPCG(seed, 5))
		r := fleet(t, 20, Options{Policy: policy, Seed: seed})
		var log strings.Builder
		var tickets []*Ticket
		for i := range 2000 {
			switch at := name(rng.IntN(20)); rng.IntN(6) {
			case 0:
				set(t, r, Replica{Name: at, Load: Load{Running: rng.Int32N(9), QueuedTokens: rng.Int64N(500)}})
			case 1:
				r.Remove(at)
				set(t, r, Replica{Name: at})
			case 2:
				r.Update(at, BlockKeys(nil, prompt(rand.New(rand.NewPCG(rng.Uint64N(10), 0)), 160), blockSize, 0)[:rng.IntN(11)], nil)
			case 3:
				if len(tickets) > 0 {
					k := rng.IntN(len(tickets))
					r.Done(tickets[k])
					tickets = slices.Delete(tickets, k, k+1)
				}
			default:
				q := &Request{Prompt: 160, Keys: BlockKeys(nil, prompt(rand.New(rand.NewPCG(rng.Uint64N(10), 0)), 160), blockSize, 0)}
				if rng.IntN(4) == 0 {
					q.Session = fmt.Sprint(i % 7)
				}
				ticket := route(t, r, q)
				tickets = append(tickets, ticket)
				fmt.Fprintln(&log, ticket.Replica, ticket.Overlap)
			}
		}
		return log.String()
	}
	for _, policy := range Policies() {
		for seed := range uint64(5) {
			if first, again := play(policy, seed), play(policy, seed); first != again {
				t.Errorf("%s, seed %d: two runs differ", policy, seed)
			}
		}
	}
}

// benchmarkRoute measures decisions among replicas that hold a million blocks in all, for prompts of 2048 blocks
// of which they hold some.
func benchmarkRoute(b *testing.B, replicas, blocks int) {
	const promptBlocks, prompts = 2048, 64
	rng := rand.New(rand.NewPCG(1, 6))
	r := fleet(b, replicas, Options{})
	requests := make([]*Request, prompts)
	for i := range requests {
		requests[i] = &Request{Model: "m", Prompt: promptBlocks * blockSize, BlockSize: blockSize,
			Keys: BlockKeys(nil, prompt(rng, promptBlocks*blockSize), blockSize, 0)}
		for j := range replicas { // every replica holds a different part of every prompt: the worst case
			r.Update(name(j), requests[i].Keys[:rng.IntN(promptBlocks)], nil)
		}
	}
	for i := range blocks {
		r.Update(name(i%replicas), []uint64{rng.Uint64()}, nil)
	}
	i := 0
	b.ResetTimer()
	for b.Loop() {
		ticket, err := r.Route(requests[i%prompts])
		if err != nil {
			b.Fatal(err)
		}
		r.Done(ticket)
		i++
	}
}

func BenchmarkRoute64Replicas1MBlocks(b *testing.B)   { benchmarkRoute(b, 64, 1<<20) }
func BenchmarkRoute1000Replicas1MBlocks(b *testing.B) { benchmarkRoute(b, 1000, 1<<20) }

func BenchmarkBlockKeys32kTokens(b *testing.B) {
	tokens := prompt(rand.New(rand.NewPCG(1, 7)), 32<<10)
	var keys []uint64
	for b.Loop() {
		keys = BlockKeys(keys[:0], tokens, blockSize, 0)
	}
}

func BenchmarkUpdate(b *testing.B) {
	r := fleet(b, 64, Options{})
	rng := rand.New(rand.NewPCG(1, 8))
	keys := make([]uint64, 1<<20)
	for i := range keys {
		keys[i] = rng.Uint64()
		r.Update(name(i%64), keys[i:i+1], nil)
	}
	i := 0
	b.ResetTimer()
	for b.Loop() {
		at := name(i % 64)
		r.Update(at, nil, keys[i%len(keys):i%len(keys)+1])
		r.Update(at, keys[i%len(keys):i%len(keys)+1], nil)
		i++
	}
}
