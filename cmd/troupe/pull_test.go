package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/internal/modelstore"
	"github.com/troupe-engine/troupe/internal/modelstore/hubtest"
	"github.com/troupe-engine/troupe/schemas"
)

const pulledID = "an-organization/a-model-0.6B-Instruct-2607-bf16-longname"

// hubServer serves a model, and makes it and an empty store this test's.
func hubServer(t *testing.T, files map[string][]byte) (s *hubtest.Server, store string) {
	t.Helper()
	s = hubtest.New(pulledID, files)
	t.Cleanup(s.Close)
	store = filepath.Join(t.TempDir(), "store")
	t.Setenv("TROUPE_MODELS", store)
	t.Setenv("HF_ENDPOINT", s.URL)
	t.Setenv("HF_TOKEN", "hf_test")
	return s, store
}

// fits checks the width of what was printed.
func fits(t *testing.T, text string) {
	t.Helper()
	for _, line := range strings.Split(text, "\n") {
		if n := utf8.RuneCountInString(line); n > columnsMax {
			t.Errorf("a line has %d columns:\n%s", n, line)
		}
	}
}

// TestPulledModelsAnswer: from the server to text, by the model's name.
func TestPulledModelsAnswer(t *testing.T) {
	files := map[string][]byte{}
	err := fs.WalkDir(defaultmodel.Files(), ".", func(name string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files[name], err = fs.ReadFile(defaultmodel.Files(), name)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	s, store := hubServer(t, files)
	stdout, stderr, code := command(t, "pull", pulledID)
	if code != 0 || !strings.Contains(stdout, "troupe serve --model "+pulledID) || !strings.Contains(stderr, "model.safetensors") {
		t.Fatalf("exit code %d:\n%s%s", code, stdout, stderr)
	}
	for _, h := range s.Headers() {
		if h.Get("Authorization") != "Bearer hf_test" {
			t.Errorf("authorization is %q", h.Get("Authorization"))
		}
	}
	prompt := []string{"run", "The king", "--max-tokens", "8", "--temperature", "0"}
	want, _, _ := command(t, prompt...)
	if got, stderr, code := command(t, append(prompt, "--model", pulledID+"@main")...); code != 0 || got != want || got == "" {
		t.Errorf("exit code %d: %q, the model in the binary says %q\n%s", code, got, want, stderr)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"pull", pulledID, "--revision", "main"}, "was up to date"},
		{[]string{"models"}, "pulled"},
		{[]string{"models", "verify"}, "checksums and headers are right"},
		{[]string{"models", "verify", pulledID}, "ok"},
	} {
		stdout, stderr, code := command(t, c.args...)
		if fits(t, stdout+stderr); code != 0 || !strings.Contains(stdout, c.want) {
			t.Errorf("%q: exit code %d, want 0 and %q:\n%s%s", c.args, code, c.want, stdout, stderr)
		}
	}
	if err := os.Truncate(filepath.Join(store, pulledID, "model.safetensors"), 100); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code = command(t, "models", "verify")
	if fits(t, stdout+stderr); code != 1 || !strings.Contains(stdout, "PROBLEM  ") || !strings.Contains(stdout, "found     100 bytes") || !strings.Contains(stdout, "hint: download again what is wrong:\n    troupe pull "+pulledID) {
		t.Errorf("a truncated file: exit code %d:\n%s%s", code, stdout, stderr)
	}
	var result modelstore.Result
	stdout, stderr, code = command(t, "pull", pulledID, "--json")
	if err := json.Unmarshal([]byte(stdout), &result); code != 0 || err != nil || result.BytesReceived != int64(len(files["model.safetensors"])) {
		t.Errorf("repair: exit code %d, %v, %+v\n%s", code, err, result, stderr)
	}
	if stdout, stderr, code = command(t, "models", "rm", pulledID); code != 0 || !strings.Contains(stdout, "removed") {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
	if stdout, stderr, code = command(t, "models", "verify", pulledID); code != 1 || !strings.Contains(stderr, "`troupe pull "+pulledID+"` downloads it") {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
}

// TestAKilledPullGoesOn: nothing but the disk survives SIGKILL, and no byte on it is downloaded again.
func TestAKilledPullGoesOn(t *testing.T) {
	const shardBytes = 4 << 20
	s, store := hubServer(t, hubtest.Model(shardBytes))
	s.Rate.Store(2 << 20)
	killed := process(t, "pull", pulledID)
	if err := killed.Start(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(30 * time.Second); s.Served("") < shardBytes; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d bytes in 30 s", s.Served(""))
		}
	}
	if err := killed.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := killed.Wait(); err == nil {
		t.Fatal("the process ended well before it was killed")
	}
	if _, err := os.Stat(filepath.Join(store, pulledID)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("half a model is in the store: %v", err)
	}
	stdout, _, code := command(t, "models")
	if fits(t, stdout); code != 0 || !strings.Contains(stdout, "partial") {
		t.Errorf("models does not say that a pull is unfinished:\n%s", stdout)
	}
	s.Settle()
	s.Rate.Store(0)
	kept, before := modelstore.Unfinished()[0].Bytes, s.Served("")
	if out, err := process(t, "pull", pulledID).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	// What was kept includes an ETag for each part, of 66 bytes, which is not the server's content.
	total, again := int64(0), s.Served("")-before
	for name, data := range s.Files {
		got, err := os.ReadFile(filepath.Join(store, pulledID, name))
		if err == nil && !bytes.Equal(got, data) {
			t.Errorf("%s differs", name)
		} else if err == nil {
			total += int64(len(data))
		}
	}
	if total < 2*shardBytes || kept < shardBytes/2 || again > total-kept+2*66 {
		t.Errorf("of %d bytes, %d were kept and %d downloaded again", total, kept, again)
	}
	t.Logf("of %d bytes, %d were kept and %d downloaded by the second process", total, kept, again)
}

func TestPullMistakes(t *testing.T) {
	s, _ := hubServer(t, hubtest.Model(64))
	s.Intercept = func(w http.ResponseWriter, _ *http.Request, path string, _ int) bool {
		w.Header().Set("X-Error-Code", "GatedRepo")
		w.WriteHeader(http.StatusForbidden)
		return true
	}
	for _, c := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"pull"}, 2, []string{"hint: troupe pull --help"}},
		{[]string{"pull", "a/b@x", "--revision", "y"}, 2, []string{"two revisions"}},
		{[]string{"pull", "../x"}, 1, []string{`"../x"`, "org/name@revision"}},
		{[]string{"pull", "a/b", "--revision", ".."}, 1, []string{"no revision"}},
		{[]string{"pull", "a/b", "--workers", "0x"}, 2, []string{"--workers"}},
		{[]string{"pull", "a/b", "--workers", "-1"}, 1, []string{"workers is -1"}},
		{[]string{"pull", "a/b", "--endpoint", "gopher://x"}, 1, []string{`"gopher://x"`, "HF_ENDPOINT"}},
		{[]string{"pull", pulledID}, 1, []string{"403 Forbidden", "accept the conditions at " + s.URL}},
		{[]string{"models", "rm", "nobody"}, 1, []string{`"nobody" is not in the store`}},
		{[]string{"models", "rm"}, 2, []string{"hint: troupe models rm --help"}},
	} {
		_, stderr, code := command(t, c.args...)
		for _, w := range append(c.want, "troupe: ") {
			if code != c.code || !strings.Contains(stderr, w) {
				t.Errorf("%q: exit code %d, want %d and %q:\n%s", c.args, code, c.code, w, stderr)
			}
		}
	}
	for _, args := range [][]string{{"pull", "--help"}, {"models", "--help"}, {"models", "verify", "--help"}, {"models", "rm", "--help"}} {
		stdout, _, _ := command(t, args...)
		fits(t, stdout)
	}
}

// TestPullProgress: what a terminal shows, and what a log gets.
func TestPullProgress(t *testing.T) {
	at := time.Unix(0, 0)
	stats := modelstore.Stats{Files: 1200, Bytes: 1023 << 30, BytesDone: 1000 << 30}
	var out bytes.Buffer
	p := newPullProgress(&out, pulledID, func() time.Time { return at })
	p.terminal = true
	p.event(modelstore.Event{Kind: modelstore.EventProgress, Stats: stats})
	at, stats.BytesReceived = at.Add(2*time.Second), 2000<<20
	p.event(modelstore.Event{Kind: modelstore.EventProgress, Stats: stats})
	p.event(modelstore.Event{Kind: modelstore.EventFile, Stats: stats, File: modelstore.File{Path: strings.Repeat("long/", 40) + "\x1b[2J", Size: 1 << 40}})
	p.event(modelstore.Event{Kind: modelstore.EventRetry, Stats: stats, Wait: time.Second,
		Err: schemas.Errorf(schemas.KindUnavailable, "pull", "%s: no such host", strings.Repeat("many words ", 20))})
	p.event(modelstore.Event{Kind: modelstore.EventLocked, Holder: "4711"})
	p.clear()
	screen := strings.NewReplacer("\r\x1b[K", "\n").Replace(out.String())
	fits(t, screen)
	for _, want := range []string{" 97%  1000.0 GiB of 1023.0 GiB  0/1200 files  checking what is here", " 97%  1000.0 GiB of 1023.0 GiB  0/1200 files  1000.0 MiB/s  23s left",
		"1200 files, 1023.0 GiB", "1.0 TiB\n", "trying again in 1s", "process 4711"} {
		if !strings.Contains(screen, want) {
			t.Errorf("no %q in\n%s", want, screen)
		}
	}
	if strings.Contains(screen, "\x1b") {
		t.Errorf("a file's name reached the terminal unfiltered: %q", screen)
	}

	out.Reset()
	at = time.Unix(0, 0)
	p = newPullProgress(&out, "org/name", func() time.Time { return at })
	for range 250 {
		at = at.Add(100 * time.Millisecond)
		stats.BytesReceived += 1 << 20
		p.event(modelstore.Event{Kind: modelstore.EventProgress, Stats: stats})
	}
	if log := out.String(); strings.Count(log, "\n") != 3 || strings.ContainsAny(log, "\r\x1b") || strings.Count(log, "10.0 MiB/s") != 2 {
		t.Errorf("25 s at 10 MiB/s gave %q", log)
	}
}

func TestTimeLeft(t *testing.T) {
	for seconds, want := range map[float64]string{0: "0s", 59.9: "59s", 61: "1m01s", 3661: "1h01m", 90000: "1d01h", 1e300: "over 99d", -1: "0s"} {
		if got := left(seconds); got != want {
			t.Errorf("%g s: %s, want %s", seconds, got, want)
		}
	}
}
