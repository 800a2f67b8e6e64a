package scheduler

import (
	"flag"
	"math/rand/v2"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

var seeds = flag.Int("scheduler.seeds", 150, "random histories to run")

// TestRandomHistories drives the core with random requests, cancellations, losses, repeats and policy
// changes in tiny pools, and checks every answer against the fake model alone.
func TestRandomHistories(t *testing.T) {
	var preempted, cached, lost uint64
	var asked, waited int
	for seed := range uint64(*seeds) {
		w := randomHistory(t, seed)
		st := w.core.State(w.now)
		preempted, cached, lost = preempted+st.Preemptions, cached+st.CachedTotal, lost+st.StepErrors
		asked, waited = asked+w.asked, waited+w.waited
	}
	if asked == 0 || waited == 0 {
		t.Errorf("policies in other processes were asked %d times ahead and %d times before a step: one of them was not tested", asked, waited)
	}
	if preempted == 0 || cached == 0 || lost == 0 {
		t.Fatalf("the histories preempted %d times, took %d tokens from the cache and lost %d steps: one of them was not tested", preempted, cached, lost)
	}
	t.Logf("%d histories: %d preemptions, %d cached tokens, %d lost steps", *seeds, preempted, cached, lost)
}

func randomHistory(t *testing.T, seed uint64) *world {
	t.Helper()
	return randomHistoryWith(t, seed, func(*world) {}, func(*world) {})
}

// randomHistoryWith is a random history that begin prepares and whose every turn starts with turn.
func randomHistoryWith(t *testing.T, seed uint64, begin, turn func(*world)) *world {
	rng := rand.New(rand.NewPCG(seed, 1))
	between := func(low, high int) int32 { return int32(low + rng.IntN(high-low+1)) }
	t.Helper()
	defer func() {
		if t.Failed() {
			t.Logf("seed %d (rerun with -scheduler.seeds=%d)", seed, seed+1)
		}
	}()
	cfg := Config{ContextMax: between(8, 60), SequencesMax: between(1, 6), WaitingMax: 200, BlockSize: between(1, 5),
		Blocks: between(4, 40), PipelineDepth: between(1, 3), PrefixCacheOff: rng.IntN(4) == 0}
	cfg.TokensStepMax = cfg.SequencesMax + between(0, 20)
	if rng.IntN(2) == 0 {
		cfg.Policy = "priority"
	}
	w := newWorld(t, cfg)
	w.policy = func(q *Question) *schemas.RankOutcome {
		if q.Wait {
			w.waited++
		} else {
			w.asked++
		}
		return randomOutcome(rng, q)
	}
	begin(w)
	next := uint32(0)
	var known []*schemas.SubmitRequest
	for range 120 {
		w.now += int64(rng.IntN(1e9))
		turn(w)
		if len(w.questions) > 0 && rng.IntN(2) == 0 {
			w.answerOne()
		}
		switch n := rng.IntN(100); {
		case n < 25:
			next++
			r := randomRequest(rng, next, known, w.core.contextMax)
			if w.submit(r) == nil {
				known = append(known, r)
			}
		case n < 85:
			if len(w.queue) > 0 {
				w.finish()
			}
		case n < 91 && len(known) > 0:
			r := known[rng.IntN(len(known))]
			w.event(Cancelled{&schemas.CancelRequest{Seq: schemas.U64{uint64(r.Request.Seq(rng.IntN(int(r.Choices))))}, Finish: schemas.FinishCancel}})
		case n < 94 && len(known) > 0: // a late repeat
			w.submit(known[rng.IntN(len(known))])
		case n < 96:
			names := append(Policies(), "nats:a", "nats:b?wait&fallback=fair", "nats:c?preempt&limit=1s&fallback=prefix")
			p, err := PolicyByName(names[rng.IntN(len(names))])
			if err != nil {
				t.Fatal(err)
			}
			w.event(PolicyChosen{p})
		case n < 97:
			w.lose()
		default:
			w.event(Tick{})
		}
	}
	w.drain()
	w.check()
	return w
}

// randomOutcome is what a policy in another process may say: mostly an order, sometimes nonsense or nothing.
func randomOutcome(rng *rand.Rand, q *Question) *schemas.RankOutcome {
	n := len(q.Request.Seq)
	o := &schemas.RankOutcome{Number: q.Request.Number, TripNs: int64(rng.IntN(1e6)), Reply: &schemas.RankReply{Number: q.Request.Number}}
	for _, row := range rng.Perm(n) {
		o.Reply.Order = append(o.Reply.Order, int32(row))
	}
	switch rng.IntN(20) {
	case 0:
		o.Reply.Order = o.Reply.Order[1:]
	case 1:
		o.Reply.Order[rng.IntN(n)] = rng.Int32() - 1<<30
	case 2:
		o.Reply.Number++
	case 3:
		o.Number--
	case 4:
		o.Reply, o.Error = nil, schemas.Errorf(schemas.KindTimeout, "test", "late")
	case 5:
		o.Reply, o.Error = nil, schemas.Errorf(schemas.KindUnavailable, "test", "absent")
	case 6:
		o.Reply = nil
	}
	return o
}

func randomRequest(rng *rand.Rand, id uint32, known []*schemas.SubmitRequest, contextMax int32) *schemas.SubmitRequest {
	r := &schemas.SubmitRequest{Request: schemas.NewRequestID(1, id), Choices: 1, MaxTokens: int32(1 + rng.IntN(30)),
		Sampling: schemas.SamplingParams{TopP: 1, Seed: rng.Uint64()}, Priority: int32(rng.IntN(5)), User: []string{"", "ann", "bob"}[rng.IntN(3)], StopTokens: schemas.I32{worldEnd},
		MinTokens: int32(rng.IntN(3))}
	if rng.IntN(4) == 0 {
		r.Choices = int32(1 + rng.IntN(4))
	}
	if len(known) > 0 && rng.IntN(2) == 0 { // a common prefix
		p := known[rng.IntN(len(known))].Tokens
		r.Tokens = append(r.Tokens, p[:1+rng.IntN(len(p))]...)
	}
	for range 1 + rng.IntN(20) {
		r.Tokens = append(r.Tokens, int32(rng.IntN(worldVocab)))
	}
	if most := int(contextMax) - 1; most > 0 && len(r.Tokens) > most && rng.IntN(8) > 0 {
		r.Tokens = r.Tokens[:most]
	}
	return r
}
