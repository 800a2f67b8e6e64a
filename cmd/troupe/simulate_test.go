package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/internal/simulate"
)

const azureSample = "../../internal/traces/testdata/azure.csv"

func TestSimulateAsJSON(t *testing.T) {
	dir := t.TempDir()
	page, picture := filepath.Join(dir, "r.html"), filepath.Join(dir, "r.png")
	var out, errs bytes.Buffer
	args := []string{"simulate", "--trace", azureSample, "--kv-blocks", "unlimited", "--json", "--quiet", "--html", page, "--png", picture, "--goodput", "ttft:500"}
	if code := run(context.Background(), args, &out, &errs); code != 0 {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	var r struct {
		Completed int      `json:"completed"`
		HitRate   *float64 `json:"prefix_hit_rate"`
		Goodput   *float64 `json:"request_goodput"`
		TTFT      struct {
			Median float64 `json:"median"`
		} `json:"ttft_ms"`
	}
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || r.Completed != 11 || r.HitRate == nil || r.Goodput == nil || r.TTFT.Median <= 0 {
		t.Errorf("%+v, %v\n%s", r, err, out.String())
	}
	for _, name := range []string{page, picture} {
		if info, err := os.Stat(name); err != nil || info.Size() < 1000 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSimulateSweeps(t *testing.T) {
	var out, errs bytes.Buffer
	args := []string{"simulate", "--num-prompts", "50", "--request-rate", "30", "--prefixes", "3", "--sweep", "eviction=lru,belady", "--sweep", "kv-blocks=30%,unlimited", "--quiet"}
	if code := run(context.Background(), args, &out, &errs); code != 0 {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 5 || !strings.Contains(lines[0], "hit%") || !strings.Contains(lines[2], "unlimited") {
		t.Errorf("got\n%s", out.String())
	}
}

// TestSimulateAPolicyInAnotherProcess: virtual time waits for it.
func TestSimulateAPolicyInAnotherProcess(t *testing.T) {
	engine := engineByArrival(t)
	args := []string{"simulate", "--num-prompts", "40", "--request-rate", "100", "--sequences-max", "4", "--sweep", "policy=fcfs,nats:arrival?wait", "--policy-time", "1ns", "--json", "--quiet"}
	var out, errs bytes.Buffer
	if code := run(t.Context(), append(args, "--nats", engine.NATSURL()), &out, &errs); code != 0 {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	var r struct{ Outcomes []simulate.Outcome }
	if err := json.Unmarshal(out.Bytes(), &r); err != nil || len(r.Outcomes) != 2 {
		t.Fatalf("%v\n%s", err, out.String())
	}
	fcfs, other := r.Outcomes[0].Report, r.Outcomes[1].Report
	if other.Rank == nil || other.Rank.Answered == 0 || other.Steps != fcfs.Steps || other.TTFT.Max > 1.001*fcfs.TTFT.Max {
		t.Errorf("%+v\n%+v", fcfs, other)
	}
	errs.Reset()
	if code := run(t.Context(), append(args, "--nats", "nats://127.0.0.1:1"), &out, &errs); code == 0 || !strings.Contains(errs.String(), "--nats") {
		t.Errorf("without a server: exit %d, %s", code, errs.String())
	}
}

func TestSimulateMistakes(t *testing.T) {
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--trace", "no-such-file"}, "no-such-file"},
		{[]string{"--trace", "main.go"}, "line 1"},
		{[]string{"--input-len", "zipf:3"}, "--input-len"},
		{[]string{"--sweep", "colour=red"}, "sweep"},
		{[]string{"--goodput", "itl:3"}, "--goodput"},
		{[]string{"--policy", "none"}, "policy"},
		{[]string{"--profile", "none"}, "profile"},
		{[]string{"--trace", azureSample, "--block-size", "0"}, "block_size"},
		{[]string{"--trace", azureSample, "--kv-blocks", "-1"}, "kv_blocks"},
		{[]string{"--request-rate", "-1"}, "request-rate"},
		{[]string{"--against-live"}, "--trace"},
	} {
		var out, errs bytes.Buffer
		if code := run(context.Background(), append([]string{"simulate", "--num-prompts", "5", "--quiet"}, c.args...), &out, &errs); code == 0 || !strings.Contains(errs.String(), c.want) {
			t.Errorf("%v: exit %d, %s; want %q", c.args, code, errs.String(), c.want)
		}
	}
}
