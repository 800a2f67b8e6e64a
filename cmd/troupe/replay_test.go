package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/internal/replay"
	"github.com/troupe-engine/troupe/schemas"
)

// record makes a recording of a short answer.
func record(t *testing.T, ctx context.Context) (path string) {
	t.Helper()
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen, opts.Device = "none", "none", "cpu"
	e, err := troupe.Open(ctx, opts, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	conn, err := e.Node().Connection("test")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	path = filepath.Join(t.TempDir(), "one.troupe")
	r, _, err := recording.Start(ctx, conn, path, recording.Options{})
	if err != nil {
		t.Fatal(err)
	}
	tokens, zero := int64(4), 0.0
	for _, err := range e.Client().Generate(ctx, troupe.GenerateRequest{Prompt: "Once", GenerationParams: schemas.GenerationParams{MaxTokens: &tokens, Temperature: &zero}}) {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestReplayRefusesOtherWeights: a model with the recorded one's name and size in which one bit differs is refused, by the
// digests of both; the recorded weights, in a folder of their own, are taken.
func TestReplayRefusesOtherWeights(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	path := record(t, t.Context())
	folder := func(flip byte) string {
		dir := filepath.Join(t.TempDir(), "troupe-tiny")
		if err := os.CopyFS(dir, defaultmodel.Files()); err != nil {
			t.Fatal(err)
		}
		weights, err := filepath.Glob(filepath.Join(dir, "*.safetensors"))
		if err != nil || len(weights) == 0 {
			t.Fatalf("the model has no weights: %v", err)
		}
		raw, err := os.ReadFile(weights[0])
		if err != nil {
			t.Fatal(err)
		}
		raw[len(raw)-1] ^= flip
		if err := os.Chmod(weights[0], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(weights[0], raw, 0o600); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	if out, stderr, code := command(t, "replay", path, "--actor", "engine", "--model", folder(0)); code != 0 {
		t.Errorf("the recorded weights: exit code %d\n%s%s", code, out, stderr)
	}
	_, stderr, code := command(t, "replay", path, "--actor", "engine", "--model", folder(1))
	if code != 1 || !strings.Contains(stderr, "the recording is of weights sha256:") || strings.Count(stderr, "sha256:") != 2 || !strings.Contains(stderr, "--model") {
		t.Errorf("other weights: exit code %d\n%s", code, stderr)
	}
}

func TestRecordingsAreToldWithinTheTerminal(t *testing.T) {
	var out bytes.Buffer
	const many = 123_456_789
	s := &recording.Summary{Entries: many, Requests: many, Failed: many, Unended: many, Steps: many, Tokens: many, Checkpoints: many, Ended: true}
	if err := printSummary(&out, "/a/"+strings.Repeat("long/", 20)+"name.troupe", s); err != nil {
		t.Fatal(err)
	}
	printDivergences(&out, "scheduler.a-replica-with-a-name", []replay.Divergence{{Step: many, AtMs: 1e6, Event: "step_done",
		Recorded: strings.Repeat("word ", 30), Replayed: "other", Why: "because"}})
	if fits(t, out.String()); !strings.Contains(out.String(), "123456789 checkpoints") || !strings.Contains(out.String(), `told "step_done":`) {
		t.Errorf("%s", out.String())
	}
}
