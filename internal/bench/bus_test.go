package bench

import (
	"context"
	"math"
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
		if parts := float64(s.Ledger.Device+s.Ledger.Upload+s.Ledger.Idle) / 1e3; s.Ledger.Steps < stepsMin || math.Abs(parts-s.WallUs) > s.WallUs/100 {
			t.Errorf("%s at depth %d: the parts add up to %.0f µs of %.0f: %+v", s.Mode, s.Depth, parts, s.WallUs, s.Ledger)
		}
		if host := s.Ledger.Schedule > 0 && s.Ledger.Memory > 0 && s.Ledger.Launch > 0; host != (s.Mode != ModeBare) {
			t.Errorf("%s at depth %d: the host's parts: %+v", s.Mode, s.Depth, s.Ledger)
		}
		if (s.Mode == ModeTapped || s.Mode == ModeRecorded) && (s.Messages == 0 || s.Missing > 0) {
			t.Errorf("%s: %d messages came and %d were missed", s.Mode, s.Messages, s.Missing)
		}
	}
	fits(t, r)
}
