package gateway

import (
	"math"
	"time"
)

// turns estimates how long a request that comes now would wait for its turn: as many choices as the engine runs at once
// have one, and the others wait, one after the other (Little's law). How fast turns come is measured while somebody
// waits, which is when the engine does what it can; a recent second counts for more than one long ago.
type turns struct {
	slots int // choices that the engine runs at once; 0 if that is not known
	alive int // choices under way, with or without a token so far

	at     time.Time // of what follows
	waited float64   // seconds in which somebody waited
	begun  float64   // choices that got their first token in them
}

// turnsMemory is the time in which what was measured loses weight to 1/e.
const turnsMemory = 5 * time.Second

// change notes that choices came (positive) or went.
func (t *turns) change(choices int, now time.Time) {
	t.advance(now)
	t.alive += choices
}

// begin notes that a choice got its first token.
func (t *turns) begin(now time.Time) {
	t.advance(now)
	if t.alive > t.slots {
		t.begun++
	}
}

// advance lets time pass.
func (t *turns) advance(now time.Time) {
	passed := now.Sub(t.at).Seconds()
	if t.at = now; passed <= 0 || t.slots == 0 || t.alive <= t.slots {
		return
	}
	kept := math.Exp(-passed / turnsMemory.Seconds())
	t.waited, t.begun = t.waited*kept+passed, t.begun*kept
}

// wait is how long one that comes now would wait for its turn; 0 if it would get one at once, and if nobody has waited
// yet.
func (t *turns) wait(now time.Time) time.Duration {
	t.advance(now)
	before := t.alive - t.slots + 1
	if t.slots == 0 || before <= 0 {
		return 0
	}
	return time.Duration(float64(before) * t.waited / (t.begun + 1) * float64(time.Second))
}
