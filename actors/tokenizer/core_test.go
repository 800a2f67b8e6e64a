package tokenizer

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// letters decodes token t as the t-th letter, and holds an upper-case one back until the next token or
// the end, as a decoder does with incomplete characters.
type letters struct{ held string }

func (d *letters) Push(id int32) string {
	text := d.held
	if id < 26 {
		d.held = ""
		return text + string('a'+id)
	}
	d.held = string('A' + id - 26)
	return text
}

func (d *letters) Flush() string { return d.held }

const request = schemas.RequestID(0x100)

func open(spec schemas.DetokSpec) *Core {
	c := newCore(func(bool, []int32) decoder { return &letters{} }, func(id int32) []byte { return []byte{byte(id)} })
	spec.Gateway, spec.Scheduler, spec.Choices = "g", "s", max(spec.Choices, 1)
	c.Open(1, request, schemas.I32{1}, &spec)
	return c
}

type row struct {
	choice, index, token int
	finish               schemas.FinishReason
}

func batch(rows ...row) *schemas.TokenBatch {
	b := &schemas.TokenBatch{From: "s"}
	for _, r := range rows {
		b.Seq = append(b.Seq, uint64(request.Seq(r.choice)))
		b.Index = append(b.Index, int32(r.index))
		b.Token = append(b.Token, int32(r.token))
		b.Finish = append(b.Finish, byte(r.finish))
		b.Cached = append(b.Cached, 0)
	}
	return b
}

func give(t *testing.T, c *Core, rows ...row) Effects {
	t.Helper()
	fx, err := c.Tokens(batch(rows...))
	if err != nil {
		t.Fatal(err)
	}
	return fx
}

func TestTextComesInOrderAndEndsOnce(t *testing.T) {
	c := open(schemas.DetokSpec{})
	fx := give(t, c, row{index: 0, token: 0}, row{index: 1, token: 27}, row{index: 2, token: 2, finish: schemas.FinishLength})
	var text strings.Builder
	for i, d := range fx.Deltas {
		text.WriteString(d.Text)
		if int(d.Tokens) != i+1 || d.Gateway != "g" {
			t.Errorf("row %d: %+v", i, d)
		}
	}
	if text.String() != "aBc" || fx.Deltas[2].Finish != schemas.FinishLength || len(c.sessions) != 0 {
		t.Errorf("text %q, last row %+v, %d sessions", text.String(), fx.Deltas[2], len(c.sessions))
	}
	if fx := give(t, c, row{index: 3, token: 3}); len(fx.Forgotten) != 1 || len(fx.Deltas) != 0 {
		t.Errorf("a row after the end: %+v; want it forgotten", fx)
	}
}

func TestHeldTextComesWithTheEnd(t *testing.T) {
	c := open(schemas.DetokSpec{})
	fx := give(t, c, row{index: 0, token: 30, finish: schemas.FinishLength})
	if d := fx.Deltas[0]; d.Text != "E" || d.Finish != schemas.FinishLength {
		t.Errorf("%+v; want the held-back letter E and the end", d)
	}
}

func TestEndTokenIsNotText(t *testing.T) {
	c := open(schemas.DetokSpec{})
	fx := give(t, c, row{index: 0, token: 0}, row{index: 1, token: 5, finish: schemas.FinishStop})
	if last := fx.Deltas[1]; last.Text != "" || last.Tokens != 2 || last.Finish != schemas.FinishStop || len(fx.Stops) != 0 {
		t.Errorf("%+v, stops %v; want no text, two tokens, and nobody told to stop", last, fx.Stops)
	}
}

func TestRepeatsAreIgnoredAndGapsEndTheSequence(t *testing.T) {
	c := open(schemas.DetokSpec{})
	give(t, c, row{index: 0, token: 0})
	if fx := give(t, c, row{index: 0, token: 0}); len(fx.Deltas) != 0 {
		t.Errorf("a repeat gave %+v", fx.Deltas)
	}
	fx := give(t, c, row{index: 2, token: 2})
	if len(fx.Deltas) != 1 || fx.Deltas[0].Err == nil || fx.Deltas[0].Finish != schemas.FinishError || len(fx.Stops) != 1 || len(c.sessions) != 0 {
		t.Errorf("a gap gave %+v", fx)
	}
}

func TestColumnsOfUnequalLengthAreRefused(t *testing.T) {
	c := open(schemas.DetokSpec{})
	b := batch(row{})
	b.Token = nil
	if _, err := c.Tokens(b); err == nil || err.Kind != schemas.KindInvalid {
		t.Errorf("got %v", err)
	}
}

// TestStopStrings compares the incremental filter with a search in the whole text, on random texts and
// stop strings of a tiny alphabet.
func TestStopStrings(t *testing.T) {
	for seed := range uint64(5000) {
		rng := rand.New(rand.NewPCG(seed, 0))
		word := func(n int) string {
			var b strings.Builder
			for range n {
				b.WriteByte("ab"[rng.IntN(2)])
			}
			return b.String()
		}
		spec := schemas.DetokSpec{KeepStop: rng.IntN(2) == 0}
		for range 1 + rng.IntN(3) {
			spec.Stop = append(spec.Stop, word(1+rng.IntN(4)))
		}
		text := word(rng.IntN(12))
		want, reason := cut(text, spec)

		c := open(spec)
		got, finish, stops := "", schemas.FinishNone, 0
		for i, letter := range text {
			end := schemas.FinishNone
			if i == len(text)-1 {
				end = schemas.FinishLength
			}
			fx := give(t, c, row{index: i, token: int(letter - 'a'), finish: end})
			for _, d := range fx.Deltas {
				got += d.Text
				if finish != schemas.FinishNone {
					t.Fatalf("seed %d: a row after the end", seed)
				}
				finish = d.Finish
			}
			stops += len(fx.Stops)
		}
		if text == "" {
			continue
		}
		if got != want || finish != reason {
			t.Fatalf("seed %d: text %q stop %q keep %v: got %q (%s), want %q (%s)", seed, text, spec.Stop, spec.KeepStop, got, finish, want, reason)
		}
		if stops > 1 {
			t.Fatalf("seed %d: the scheduler was told %d times", seed, stops)
		}
	}
}

// cut ends text at the stop string that is complete first; of several, at the one that begins first.
func cut(text string, spec schemas.DetokSpec) (string, schemas.FinishReason) {
	for end := 1; end <= len(text); end++ {
		first, length := -1, 0
		for _, s := range spec.Stop {
			if at := strings.Index(text[:end], s); at >= 0 && (first < 0 || at < first || at == first && len(s) < length) {
				first, length = at, len(s)
			}
		}
		if first < 0 {
			continue
		}
		if spec.KeepStop {
			first += length
		}
		return text[:first], schemas.FinishStop
	}
	return text, schemas.FinishLength
}

func TestSessionsThatSeeNoTokenExpire(t *testing.T) {
	c := open(schemas.DetokSpec{Choices: 2})
	give(t, c, row{choice: 0, index: 0, token: 0})
	if n := c.Expire(11, 10); n != 0 {
		t.Errorf("%d expired before their time", n)
	}
	if n := c.Expire(12, 10); n != 1 || len(c.sessions) != 1 {
		t.Errorf("%d expired, %d left; want only the one without a token to go", n, len(c.sessions))
	}
	if n := c.Expire(22, 10); n != 1 || len(c.sessions) != 0 {
		t.Errorf("%d expired, %d left; want the one whose tokens no longer come to go", n, len(c.sessions))
	}
	c = open(schemas.DetokSpec{Choices: 1})
	if n := c.Close(schemas.U64{uint64(request.Seq(0)), uint64(request.Seq(1))}); n != 1 || len(c.sessions) != 0 {
		t.Errorf("%d closed, %d left", n, len(c.sessions))
	}
}

// A session that goes on elsewhere says exactly what the first one would have said from there on.
func TestResumedSessionsGoOnWhereTheyWere(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 9))
		spec := schemas.DetokSpec{Stop: []string{"ab", "Bc", "aba"}[:rng.IntN(4)], KeepStop: rng.IntN(2) == 0, Choices: 2}
		var rows []row
		for i := range 1 + rng.IntN(20) {
			token := rng.IntN(3)
			if rng.IntN(4) == 0 {
				token += 26
			}
			rows = append(rows, row{choice: 1, index: i, token: token})
		}
		rows[len(rows)-1].finish = schemas.FinishLength
		texts := func(fx Effects) (all []string) {
			for _, d := range fx.Deltas {
				all = append(all, d.Text+"/"+d.Finish.String())
			}
			return all
		}
		want := texts(give(t, open(spec), rows...))
		cut := rng.IntN(len(want)) // what was delivered before
		resumed := spec
		resumed.Resume = &schemas.Resumed{Counts: schemas.I32{-1, int32(cut)}}
		for _, r := range rows[:cut] {
			resumed.Resume.Tokens = append(resumed.Resume.Tokens, int32(r.token))
		}
		c := open(resumed)
		if len(c.sessions) != 1 {
			t.Fatalf("seed %d: %d sessions are open; want that of the choice that has not ended", seed, len(c.sessions))
		}
		if got := texts(give(t, c, rows[cut:]...)); strings.Join(got, "|") != strings.Join(want[cut:], "|") {
			t.Fatalf("seed %d, after %d tokens:\ngot  %q\nwant %q", seed, cut, got, want[cut:])
		}
	}
}

// A session that names no scheduler tells the one that feeds it to stop.
func TestTheSenderIsToldToStop(t *testing.T) {
	c := newCore(func(bool, []int32) decoder { return &letters{} }, func(id int32) []byte { return nil })
	c.Open(1, request, schemas.I32{1}, &schemas.DetokSpec{Gateway: "g", Choices: 1, Stop: []string{"a"}})
	if fx := give(t, c, row{token: 0}); len(fx.Stops) != 1 || fx.Stops[0].Scheduler != "s" {
		t.Errorf("stops are %+v, want one for the sender s", fx.Stops)
	}
}
