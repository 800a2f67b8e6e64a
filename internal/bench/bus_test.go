package bench

import (
	"context"
	"testing"
	"time"
)

// Every mode runs, loses no token and no tapped message, and the report fits a terminal.
func TestBusModesRun(t *testing.T) {
	cfg := DefaultBusConfig()
	cfg.Steps, cfg.Rounds, cfg.PerRound, cfg.Sequences = []time.Duration{200 * time.Microsecond}, 1, time.Millisecond, 8
	r, err := RunBus(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if want := (1 + len(cfg.Modes)) * len(cfg.Depths); len(r.Steps) != want {
		t.Fatalf("%d modes and depths, want %d", len(r.Steps), want)
	}
	for _, s := range r.Steps {
		if s.P50Us < 200 {
			t.Errorf("%s at depth %d: a step took %.1f µs, less than the device alone", s.Mode, s.Depth, s.P50Us)
		}
		if (s.Mode == ModeTapped || s.Mode == ModeRecorded) && (s.Messages == 0 || s.Missing > 0) {
			t.Errorf("%s: %d messages came and %d were missed", s.Mode, s.Messages, s.Missing)
		}
	}
	fits(t, r)
}
