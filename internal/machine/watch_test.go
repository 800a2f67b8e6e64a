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
	if share := (Watch{began: w.began, busy: w.busy - time.Minute, known: w.known}).Others(0); w.known && share < 0.9 {
		t.Errorf("a minute of others' time is a share of %v", share)
	}
}
