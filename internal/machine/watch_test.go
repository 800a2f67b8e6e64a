package machine

import (
	"strings"
	"testing"
	"time"
)

// TestWatch: what this process burns is not others'.
func TestWatch(t *testing.T) {
	w, own := Begin(), CPUTime()
	for time.Since(w.began) < 50*time.Millisecond {
		_ = strings.Repeat("x", 1000)
	}
	if share := w.Others(CPUTime() - own); share < 0 || share > 1 {
		t.Errorf("others used %v", share)
	}
	before := w
	before.busy.time -= 1000 * time.Hour
	if share := before.Others(0); w.busy.processors > 0 && share != 1 {
		t.Errorf("a thousand hours of others' time is a share of %v", share)
	}
}

// TestParseStat: a container may use few of the machine's processors, and what happens on the others does not disturb it.
func TestParseStat(t *testing.T) {
	const line = " 100 20 30 4000 50 6 7 8 0 0\n"
	text := "cpu " + line + "cpu0" + line + "cpu1" + line + "cpu12" + line + "intr 1 2 3 4 5 6 7 8 9\nctxt 5\n"
	for want, usable := range map[busy]func(int) bool{
		{3 * 1710 * time.Millisecond, 3}: func(int) bool { return true },
		{1710 * time.Millisecond, 1}:     func(n int) bool { return n == 12 },
		{}:                               func(int) bool { return false },
	} {
		if got := parseStat(text, usable); got != want {
			t.Errorf("%+v, want %+v", got, want)
		}
	}
	for _, bad := range []string{"", "cpu", "cpu0", "cpu0 x 1 1 1 1 1 1 1\n", "cpux" + line} {
		if got := parseStat(bad, func(int) bool { return true }); got != (busy{}) {
			t.Errorf("%q: %+v", bad, got)
		}
	}
}
