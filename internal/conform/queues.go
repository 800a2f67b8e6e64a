package conform

import (
	"fmt"
	"hash/fnv"
	"math/rand/v2"

	"github.com/troupe-engine/troupe/schemas"
)

// A named question.
type sample struct {
	name    string
	request *schemas.RankRequest
}

// queues are the shapes that every policy must order: the edges first, then random ones.
func queues(random int, seed uint64) []sample {
	rng := rand.New(rand.NewPCG(seed, 1))
	list := []sample{{"an empty queue", queue(rng, 0)}, {"one sequence", queue(rng, 1)}, {"two sequences", queue(rng, 2)},
		{"the longest queue", queue(rng, schemas.RankRowsMax)}, {"sequences that are all alike", alike(50)}, {"the largest numbers", extreme(20)}}
	for n := range random {
		list = append(list, sample{fmt.Sprintf("random queue %d of seed %d", n, seed), queue(rng, 2+rng.IntN(1<<rng.IntN(9)))})
	}
	for i, q := range list {
		q.request.Number = uint64(i + 1)
	}
	return list
}

// queue is a plausible queue of n sequences.
func queue(rng *rand.Rand, n int) *schemas.RankRequest {
	r := header(n)
	users := []string{"", "ann", "bob", "carol"}
	running := min(n, rng.IntN(65))
	for i := range n {
		prompt, most := int32(1+rng.IntN(4000)), int32(1+rng.IntN(1000))
		state, output, computed, cached := byte(schemas.RankWaiting), int32(0), int32(0), int32(0)
		switch {
		case i < running:
			state, output = schemas.RankRunning, rng.Int32N(most)
			computed, cached = prompt+output, rng.Int32N(prompt)
		case rng.IntN(20) == 0:
			state, output = schemas.RankPreempted, rng.Int32N(most)
		}
		deadline := int32(schemas.RankForever)
		if rng.IntN(2) == 0 {
			deadline = rng.Int32N(60_000) - 1000
		}
		row(r, i, state, rng.Int32N(60_000), prompt, output, computed, cached, most, rng.Int32N(5)-2, deadline, users[rng.IntN(len(users))])
	}
	rng.Shuffle(n, func(i, j int) { r.Arrival[i], r.Arrival[j] = r.Arrival[j], r.Arrival[i] })
	return r
}

func alike(n int) *schemas.RankRequest {
	r := header(n)
	for i := range n {
		row(r, i, schemas.RankWaiting, 5, 10, 0, 0, 0, 20, 0, schemas.RankForever, "ann")
	}
	return r
}

func extreme(n int) *schemas.RankRequest {
	r := header(n)
	const most, least = 1<<31 - 1, -1 << 31
	for i := range n {
		priority, deadline := int32(most), int32(least)
		if i%2 == 0 {
			priority, deadline = least, most
		}
		row(r, i, byte(i%3), most, most, most, most, most, most, priority, deadline, "ann")
		r.Seq[i], r.User[i] = 1<<64-1-uint64(i), 1<<64-1
	}
	return r
}

func header(n int) *schemas.RankRequest {
	column := func() schemas.I32 { return make(schemas.I32, n) }
	return &schemas.RankRequest{Version: 1, Replica: "conform", NowMs: 1_750_000_000_000, Step: 1, SequencesMax: 64, SlotsFree: 1, TokensStepMax: 512,
		Seq: make(schemas.U64, n), State: make(schemas.U8, n), Arrival: column(), AgeMs: column(), Prompt: column(), Output: column(), Computed: column(),
		Cached: column(), MaxTokens: column(), Priority: column(), DeadlineMs: column(), User: make(schemas.U64, n)}
}

func row(r *schemas.RankRequest, i int, state byte, age, prompt, output, computed, cached, most, priority, deadline int32, user string) {
	r.Seq[i], r.State[i], r.Arrival[i], r.AgeMs[i] = uint64(i+1)<<8, state, int32(i), age
	r.Prompt[i], r.Output[i], r.Computed[i], r.Cached[i], r.MaxTokens[i] = prompt, output, computed, cached, most
	r.Priority[i], r.DeadlineMs[i] = priority, deadline
	if user != "" {
		h := fnv.New64a()
		_, _ = h.Write([]byte(user)) // never fails
		r.User[i] = h.Sum64()
	}
}

// shuffled is the same question with its rows in another order; the row i of it is row from[i] of r.
func shuffled(r *schemas.RankRequest, rng *rand.Rand) (s *schemas.RankRequest, from []int) {
	from = rng.Perm(len(r.Seq))
	c := *r
	s = &c
	i32 := func(column schemas.I32) schemas.I32 {
		out := make(schemas.I32, len(column))
		for i, j := range from {
			out[i] = column[j]
		}
		return out
	}
	u64 := func(column schemas.U64) schemas.U64 {
		out := make(schemas.U64, len(column))
		for i, j := range from {
			out[i] = column[j]
		}
		return out
	}
	s.Seq, s.User = u64(r.Seq), u64(r.User)
	s.State = make(schemas.U8, len(r.State))
	for i, j := range from {
		s.State[i] = r.State[j]
	}
	for _, p := range []*schemas.I32{&s.Arrival, &s.AgeMs, &s.Prompt, &s.Output, &s.Computed, &s.Cached, &s.MaxTokens, &s.Priority, &s.DeadlineMs} {
		*p = i32(*p)
	}
	return s, from
}

// hostile are payloads that are no question. A policy refuses them with an error, and answers the next question.
func hostile() map[string][]byte {
	good, err := schemas.MarshalMap(queue(rand.New(rand.NewPCG(1, 1)), 5))
	if err != nil {
		panic("conform: a question of our own cannot be encoded: " + err.Error())
	}
	uneven := queue(rand.New(rand.NewPCG(2, 1)), 5)
	uneven.Output, uneven.Prompt, uneven.AgeMs, uneven.Arrival = uneven.Output[:3], uneven.Prompt[:2], uneven.AgeMs[:1], uneven.Arrival[:4]
	unevenWire, err := schemas.MarshalMap(uneven)
	if err != nil {
		panic("conform: a question of our own cannot be encoded: " + err.Error())
	}
	future := queue(rand.New(rand.NewPCG(3, 1)), 5)
	future.Version = 1000
	futureWire, err := schemas.MarshalMap(future)
	if err != nil {
		panic("conform: a question of our own cannot be encoded: " + err.Error())
	}
	return map[string][]byte{
		"no bytes": {}, "no message": []byte("what shall I do?"), "a truncated question": good[:len(good)/2],
		"a number": {7}, "an empty map": {0x80}, "a list that claims 4 G elements": {0xdd, 0xff, 0xff, 0xff, 0xff},
		"columns of different lengths": unevenWire, "version 1000": futureWire,
	}
}
