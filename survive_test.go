package troupe

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/actors/tokenizer"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/soak"
)

var (
	surviveSeed  = flag.Uint64("survive.seed", 1, "seed of the first bad network")
	surviveSeeds = flag.Uint64("survive.seeds", 2, "bad networks to survive")
)

// failureLog keeps an engine's last words for a test that fails: warnings are what the others are about.
type failureLog struct {
	t     testing.TB
	mu    sync.Mutex
	lines []string
}

const failureLogLinesMax = 40

func (l *failureLog) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) < failureLogLinesMax {
		l.lines = append(l.lines, string(line))
	}
	return len(line), nil
}

func (l *failureLog) show() {
	if l.t.Failed() {
		l.t.Logf("the engine's first warnings:\n%s", strings.Join(l.lines, ""))
	}
}

// openOn starts an engine on a network.
func openOn(t testing.TB, n network, change func(*Options)) *Engine {
	t.Helper()
	opts := DefaultOptions()
	opts.HTTP, opts.NATSListen = "127.0.0.1:0", "127.0.0.1:0"
	if change != nil {
		change(&opts)
	}
	log := &failureLog{t: t}
	e := newEngine(opts, zerolog.New(log).Level(zerolog.WarnLevel))
	e.network = n
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		log.show()
	})
	if err := e.open(ctx, nil); err != nil {
		t.Fatal(err)
	}
	return e
}

func clientOf(t testing.TB, e *Engine) *soak.Client {
	t.Helper()
	c, err := soak.NewClient(e.HTTPURL(), e.NATSURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// question is a request whose answer is known, because sampling depends on seed and position alone.
type question struct {
	body map[string]any
	want *soak.Ending
}

func questions(t testing.TB, count int) []question {
	t.Helper()
	prompts := []string{"Once upon a time there was a", "The king said to his daughter", "In the beginning", "A poor miller", "x"}
	qs := make([]question, count)
	for i := range qs {
		body := map[string]any{"prompt": strings.Repeat(prompts[i%len(prompts)]+" ", 1+i%7), "max_tokens": 4 + 5*(i%8), "temperature": 0}
		if i%3 == 1 {
			body["n"], body["temperature"], body["seed"] = 2+i%2, 0.9, i
		}
		if i%4 == 2 {
			body["stop"] = []string{"the", ", "}
		}
		qs[i].body = body
	}
	e := openEngine(t, nil)
	c := clientOf(t, e)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for i := range qs {
		answer, err := c.Post(ctx, "/v1/completions", marshal(t, qs[i].body), nil)
		if err != nil || !answer.OK() {
			t.Fatalf("question %d on an undisturbed engine: %v %v", i, answer, err)
		}
		qs[i].want = answer
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return qs
}

func marshal(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// askAll asks every question at once, in four ways of asking, and returns what is wrong with the answers.
// Every third is given up on the way. A named error that the caller allows is asked again.
func askAll(ctx context.Context, t testing.TB, c *soak.Client, qs []question, seed uint64, allowed func(*soak.Ending) bool) (wrong []string, again int) {
	t.Helper()
	var mu sync.Mutex
	var asking sync.WaitGroup
	fail := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		wrong = append(wrong, fmt.Sprintf(format, args...))
	}
	for i := range qs {
		rng := rand.New(rand.NewPCG(seed, uint64(i)))
		asking.Go(func() {
			for tries := 0; ; tries++ {
				answer, cancelled, err := qs[i].ask(ctx, t, c, rng)
				switch {
				case err != nil:
					fail("question %d: %v %v", i, answer, err)
				case answer.Endings != 1:
					fail("question %d ended %d times", i, answer.Endings)
				case cancelled && !answer.OK():
					if !qs[i].isBeginning(answer.Texts) {
						fail("question %d, cancelled: %q does not begin %q", i, answer.Texts, qs[i].want.Texts)
					}
				case !answer.OK() && allowed(answer) && tries < 20:
					mu.Lock()
					again++
					mu.Unlock()
					continue
				case !answer.OK() || !slices.Equal(answer.Texts, qs[i].want.Texts) || !slices.Equal(answer.Finishes, qs[i].want.Finishes):
					fail("question %d: %v\nwant %v", i, answer, qs[i].want)
				}
				return
			}
		})
	}
	asking.Wait()
	return wrong, again
}

// ask asks once; cancelled says that it was also cancelled, perhaps too late.
func (q question) ask(ctx context.Context, t testing.TB, c *soak.Client, rng *rand.Rand) (answer *soak.Ending, cancelled bool, err error) {
	body := map[string]any{}
	for k, v := range q.body {
		body[k] = v
	}
	stream, overHTTP, giveUp, after := rng.IntN(2) == 0, rng.IntN(2) == 0, rng.IntN(3) == 0, 1+rng.IntN(6)
	body["stream"] = stream
	var watch soak.Watch
	if giveUp && stream {
		watch = func(e *soak.Ending, events int) {
			if events == after && e.ID != "" {
				cancelled = true
				if _, err := c.Cancel(ctx, e.ID); err != nil {
					t.Errorf("cancel %s: %v", e.ID, err)
				}
			}
		}
	}
	if overHTTP {
		answer, err = c.Post(ctx, "/v1/completions", marshal(t, body), watch)
	} else {
		answer, err = c.Request(ctx, "inf.v1.generate", marshal(t, body), stream, watch)
	}
	return answer, cancelled, err
}

func (q question) isBeginning(texts []string) bool {
	for i, text := range texts {
		if !strings.HasPrefix(q.want.Texts[i], text) {
			return false
		}
	}
	return true
}

func TestAnswersSurviveABadNetwork(t *testing.T) {
	qs := questions(t, 32)
	for seed := *surviveSeed; seed < *surviveSeed+*surviveSeeds; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			faults := bus.LossyNetwork(seed, 0.05, 0.10, 0.20, 30*time.Millisecond)
			e := openOn(t, network{remoteOnly: true, faults: faults, attemptTimeMax: 100 * time.Millisecond}, func(o *Options) {
				o.KVBlocks, o.BlockSize, o.SequencesMax, o.WaitingMax = 28, 8, 12, 200 // preemption, too
				o.TokensStepMax = 64
			})
			c := clientOf(t, e)
			c.Linger = 20 * time.Millisecond
			ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
			defer cancel()
			began := time.Now()
			wrong, _ := askAll(ctx, t, c, qs, seed, func(*soak.Ending) bool { return false })
			t.Logf("%d questions in %v; %s", len(qs), time.Since(began).Round(time.Millisecond), faults)
			for _, w := range wrong {
				t.Errorf("%s: %s", faults, w)
			}
			state, err := c.WaitQuiet(ctx)
			if err != nil {
				t.Fatalf("%s: %v", faults, err)
			}
			t.Logf("%d steps, %d step errors, %d preemptions", state.Scheduler.Step, state.Scheduler.StepErrors, state.Scheduler.Preemptions)
		})
	}
}

// TestAnswersSurviveLostPeers replaces memory and compute by new ones that know nothing, over and over, while
// requests run: what was lost is recomputed, with the same result.
func TestAnswersSurviveLostPeers(t *testing.T) {
	qs := questions(t, 24)
	for name, n := range map[string]network{
		"in process": {},
		"over NATS":  {stepTimeMax: time.Second, remoteOnly: true, attemptTimeMax: 100 * time.Millisecond},
		"on a bad network": {stepTimeMax: 2 * time.Second, remoteOnly: true, attemptTimeMax: 100 * time.Millisecond,
			faults: bus.LossyNetwork(7, 0.02, 0.1, 0.2, 10*time.Millisecond)},
	} {
		t.Run(name, func(t *testing.T) {
			e := openOn(t, n, nil)
			c := clientOf(t, e)
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			peers := []func() error{e.replica.RestartMemory, e.replica.RestartCompute}
			began := time.Now()
			var wrong []string
			restarts, again := 0, 0
			// Restarts can fall between two steps: it is asked, and restarted, until one has hit something.
			for rounds := 0; rounds < 5; rounds++ {
				over := make(chan struct{})
				var drill sync.WaitGroup
				drill.Go(func() {
					for i := range 12 { // few enough for the questions to come to an end, and rarer on slow machines
						select {
						case <-over:
							return
						case <-time.After(10 * time.Millisecond << min(i, 4)):
						}
						if err := peers[restarts%len(peers)](); err != nil {
							t.Error(err)
							return
						}
						restarts++
					}
				})
				// A sequence that was part of too many lost steps ends with their error.
				w, a := askAll(ctx, t, c, qs, 1, func(e *soak.Ending) bool { return e.Status >= 500 && e.Detail != "" })
				close(over)
				drill.Wait()
				wrong, again = append(wrong, w...), again+a
				if state, err := c.State(ctx); err == nil && state.Scheduler.StepErrors > 0 {
					break
				}
			}
			for _, w := range wrong {
				t.Error(w)
			}
			state, err := c.WaitQuiet(ctx)
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d questions in %v, %d restarts, %d steps given up, %d requests ended with an error and were asked again",
				len(qs), time.Since(began).Round(time.Millisecond), restarts, state.Scheduler.StepErrors, again)
			if restarts == 0 || state.Scheduler.StepErrors == 0 {
				t.Error("nothing was lost: the test is too quick for its restarts")
			}
		})
	}
}

// TestALostTokenizerEndsItsRequests: the sessions of a tokenizer that dies are gone with it. Requests that
// had one end with an error soon; those that come later find the new one.
func TestALostTokenizerEndsItsRequests(t *testing.T) {
	e := openOn(t, network{stallTimeMax: 300 * time.Millisecond}, nil)
	c := clientOf(t, e)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	wait := streams(ctx, t, c, 4, 400)
	e.tokenizer.Stop()
	fresh, err := tokenizer.New(e.node, tokenizer.Config{Instance: tokenizerInstance, ModelName: e.model.Name, Files: e.model.Files}, e.log)
	if err != nil {
		t.Fatal(err)
	}
	if err := fresh.Start(); err != nil {
		t.Fatal(err)
	}
	e.tokenizer = fresh
	began := time.Now()
	for i, ending := range wait() {
		if ending.Status != 503 || ending.Endings != 1 || !strings.Contains(ending.Detail, "tokenizer0") {
			t.Errorf("stream %d: %v, %d endings; expected 503 naming the tokenizer", i, ending, ending.Endings)
		}
	}
	t.Logf("every request had ended %v after the tokenizer was back", time.Since(began).Round(time.Millisecond))
	if answer, err := c.Post(ctx, "/v1/completions", []byte(`{"prompt": "x", "max_tokens": 3}`), nil); err != nil || !answer.OK() {
		t.Errorf("a later request: %v %v", answer, err)
	}
	if _, err := c.WaitQuiet(ctx); err != nil {
		t.Error(err)
	}
}
