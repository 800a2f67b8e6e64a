package main

import (
	"encoding/json"
	"runtime"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/internal/bench"
)

// The whole command: an engine in a process of its own with this command's options, whose processor time is told apart.
func TestBenchOverloadStartsAnEngine(t *testing.T) {
	cmd := process(t, "bench", "overload", "--json", "--quiet", "--rounds=1", "--phase-time=1s", "--factor=8", "--max-concurrency=8",
		"--random-input-len=8", "--random-output-len=16", "--requests-max=8", "--sequences-max=8")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	var r bench.OverloadReport
	if err := json.Unmarshal(out, &r); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	o := r.Rounds[0]
	if o.Completed == 0 || o.Refused == 0 || o.Failed > 0 || o.WithoutRetryAfter > 0 {
		t.Errorf("%+v", o)
	}
	if runtime.GOOS == "linux" && (o.PeakCPU <= 0 || o.OverloadCPU <= 0 || o.CPUShare <= 0) {
		t.Errorf("the engine's processor time is not known: %+v", o)
	}
	cmd = process(t, "bench", "overload", "--quiet", "--model=/nowhere")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "/nowhere") {
		t.Errorf("with a model that is not there: %v, %s", err, out)
	}
}
