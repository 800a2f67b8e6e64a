package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// command runs a command line as a shell would.
func command(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var out, errOut bytes.Buffer
	code = run(ctx, args, &out, &errOut)
	return out.String(), errOut.String(), code
}

func TestMistakesHaveExitCodesAndHints(t *testing.T) {
	file := filepath.Join(t.TempDir(), "troupe.yaml")
	if err := os.WriteFile(file, []byte("kv_blocks: 4096\nthreds: 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		code int
		want []string
	}{
		{[]string{"serv"}, 2, []string{`unknown command "serv"`, "hint: troupe --help"}},
		{[]string{"run"}, 2, []string{"expected one prompt", "hint: troupe run --help"}},
		{[]string{"serve", "x"}, 2, []string{"hint: troupe serve --help"}},
		{[]string{"serve", "--kv-blocks", "many"}, 2, []string{"--kv-blocks", "expected an integer"}},
		{[]string{"serve", "--once"}, 2, []string{"--once needs a --prompt"}},
		{[]string{"serve", "--config", file}, 1, []string{"troupe.yaml:2", "did you mean threads?"}},
		{[]string{"serve", "--log-level", "loud"}, 1, []string{"log_level is loud", "debug"}},
		{[]string{"serve", "--model", "/nowhere"}, 1, []string{"/nowhere", "\n  hint: `troupe models` lists the names"}},
		{[]string{"run", "--temperature", "-1", "x"}, 1, []string{"temperature is -1"}},
		{[]string{"run", "--nats", "nats://127.0.0.1:1", "x"}, 1, []string{"nats://127.0.0.1:1", "hint: is `troupe serve` running there?"}},
		{[]string{"schema", "inf.v1.caht"}, 1, []string{"inf.v1.caht", "did you mean inf.v1.chat?"}},
		{[]string{"quantize", "troupe-tiny"}, 2, []string{"-o FILE.gguf", "hint: troupe quantize --help"}},
		{[]string{"quantize", "troupe-tiny", "-o", "x.bin"}, 2, []string{"x.bin", ".gguf"}},
		{[]string{"quantize", "/nowhere", "-o", "x.gguf"}, 1, []string{"/nowhere"}},
		{[]string{"quantize", "troupe-tiny", "-o", file + ".gguf", "--type", "q1"}, 1, []string{`"q1"`, "q8"}},
		{[]string{"verify", t.TempDir()}, 1, []string{"golden.json", "docs/verify.md"}},
	} {
		_, stderr, code := command(t, c.args...)
		if code != c.code {
			t.Errorf("%q: exit code %d; want %d\n%s", c.args, code, c.code, stderr)
		}
		for _, w := range append(c.want, "troupe: ") {
			if !strings.Contains(stderr, w) {
				t.Errorf("%q: stderr does not say %q:\n%s", c.args, w, stderr)
			}
		}
	}
}

func TestReportsFitTheTerminal(t *testing.T) {
	t.Setenv("TROUPE_MODELS", filepath.Join(t.TempDir(), strings.Repeat("a-long-name-", 8)))
	reports := [][]string{{"version"}, {"models"}, {"doctor", "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0"}, {"schema"}}
	var help func(c *cobra.Command)
	help = func(c *cobra.Command) {
		reports = append(reports, append(strings.Fields(c.CommandPath())[1:], "--help"))
		for _, sub := range c.Commands() {
			help(sub)
		}
	}
	help(newRootCommand())
	for _, args := range reports {
		stdout, stderr, code := command(t, args...)
		if code != 0 {
			t.Errorf("%q: exit code %d: %s", args, code, stderr)
		}
		for _, line := range strings.Split(stdout+stderr, "\n") {
			if n := utf8.RuneCountInString(line); n > columnsMax {
				t.Errorf("%q: a line has %d columns:\n%s", args, n, line)
			}
		}
	}
}

func TestNodesFitTheTerminal(t *testing.T) {
	long := &node{ClockOffsetNs: -12e9, ClockErrorNs: 3e6, Replicas: []*schemas.ReplicaReport{{Running: 500, Waiting: 10000, Blocks: 10, FreeBlocks: 10, Phase: "prefill"}}}
	long.NodeReport = schemas.NodeReport{Node: "a-node-with-a-very-long-name.example.org", Model: "an-organisation/a-model-135M-Instruct", Version: "9.9.9", Draining: true,
		Roles: []string{"gateway", "tokenizer", "replica"}}
	short := &node{NodeReport: schemas.NodeReport{Node: "replica-0", Model: "troupe-tiny", Version: bus.BuildVersion, Roles: []string{"replica"}}, ClockErrorNs: 1e5,
		Replicas: []*schemas.ReplicaReport{{Blocks: 10, FreeBlocks: 5}}}
	for _, c := range []struct {
		nodes []*node
		has   []string
	}{{[]*node{short}, []string{"replica-0", "troupe-tiny", "serving"}}, {[]*node{long, short}, []string{"-12000.0±3.0ms", "100%", "draining, 9.9.9"}}} {
		var out bytes.Buffer
		if err := table(&out, nodeRows(c.nodes)); err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(out.String(), "\n") {
			if n := utf8.RuneCountInString(strings.TrimRight(line, " ")); n > columnsMax {
				t.Errorf("a line has %d columns:\n%s", n, line)
			}
		}
		for _, w := range c.has {
			if !strings.Contains(out.String(), w) {
				t.Errorf("no %q in\n%s", w, out.String())
			}
		}
	}
}

func TestReleasesHaveTheirVersion(t *testing.T) {
	for version, want := range map[string]string{"v1.2.3": "1.2.3", "v1.2.3-rc.1": "1.2.3-rc.1", "(devel)": "", "": "",
		"v0.0.0-20261123101112-0123456789ab": "", "v1.2.4-0.20261123101112-0123456789ab": "", "v1.2.3+dirty": ""} {
		if got := released(&debug.BuildInfo{Main: debug.Module{Version: version}}); got != want {
			t.Errorf("%q: got %q; want %q", version, got, want)
		}
	}
}

// An address that is taken is told before the model is looked at, which may take minutes to load.
func TestServeLooksAtItsAddressFirst(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, stderr, code := command(t, "serve", "--model", "/nowhere", "--http", taken.Addr().String(), "--nats-listen", "none")
	if code != 1 || !strings.Contains(stderr, "address already in use") || !strings.Contains(stderr, "hint: choose another address with --http") {
		t.Errorf("exit code %d: %s", code, stderr)
	}
}

func TestReportsAsJSON(t *testing.T) {
	for _, c := range []struct {
		args []string
		has  string // a key that must be there
	}{
		{[]string{"version", "--json"}, "version"},
		{[]string{"models", "--json"}, "models"},
		{[]string{"doctor", "--json", "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0"}, "checks"},
		{[]string{"schema", "chat", "--json"}, "request"},
		{[]string{"run", "--json", "--max-tokens", "4", "--temperature", "0", "The king"}, "usage"},
	} {
		stdout, stderr, code := command(t, c.args...)
		var doc map[string]any
		if err := json.Unmarshal([]byte(stdout), &doc); code != 0 || err != nil || doc[c.has] == nil {
			t.Errorf("%q: exit code %d, %v, no %q in\n%s%s", c.args, code, err, c.has, stdout, stderr)
		}
	}
}

func TestDoctorFindsProblems(t *testing.T) {
	stdout, _, code := command(t, "doctor", "--model", "/nowhere", "--api-keys", "k", "--http", "256.0.0.1:1", "--nats-config", "/none.conf")
	if code != 1 || strings.Count(stdout, "PROBLEM") != 3 {
		t.Errorf("exit code %d; want 1 and three problems:\n%s", code, stdout)
	}
}

func TestRunIsReproducible(t *testing.T) {
	args := []string{"run", "Once upon a time", "--max-tokens", "12", "--seed", "7", "--temperature", "0.9"}
	first, stderr, code := command(t, args...)
	if code != 0 || len(strings.Fields(first)) < 4 {
		t.Fatalf("exit code %d: %q %s", code, first, stderr)
	}
	if !strings.Contains(stderr, "12 tokens · ") {
		t.Errorf("no summary in %q", stderr)
	}
	if again, _, _ := command(t, args...); again != first {
		t.Errorf("the same seed gave %q and %q", first, again)
	}
	if other, _, _ := command(t, "run", "Once upon a time", "--max-tokens", "12", "--seed", "8", "--temperature", "0.9"); other == first {
		t.Errorf("seeds 7 and 8 both gave %q", first)
	}
}

func TestRunUsesARunningEngine(t *testing.T) {
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen = "none", "127.0.0.1:0"
	engine, err := troupe.Open(context.Background(), opts, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	flags := []string{"--max-tokens", "8", "--temperature", "0", "--chat", "Tell me a story."}
	there, stderr, code := command(t, append([]string{"run", "--nats", engine.NATSURL()}, flags...)...)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	if here, _, _ := command(t, append([]string{"run"}, flags...)...); here != there {
		t.Errorf("over NATS %q, here %q", there, here)
	}
	if _, stderr, code := command(t, "run", "--nats", engine.NATSURL(), "--model", "nosuch", "x"); code != 1 || !strings.Contains(stderr, `hint: this server has "troupe-tiny"`) {
		t.Errorf("an unknown model: exit code %d: %s", code, stderr)
	}
}

func TestServeDrainsWhenToldTo(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var stderr bytes.Buffer
	out := &watched{seen: "Ctrl-C stops", found: cancel}
	code := run(ctx, []string{"serve", "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--log-level", "warn", "--prompt", "The king"}, out, &stderr)
	if code != 0 || !strings.Contains(stderr.String(), "draining for at most 30s") {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
	for _, w := range []string{"HTTP     http://127.0.0.1:", "The king", "tok/s", "curl -N http://127.0.0.1:", "inf.v1.chat --wait-for-empty", "OpenAI(base_url"} {
		if !strings.Contains(out.String(), w) {
			t.Errorf("no %q in:\n%s", w, out.String())
		}
	}
}

// watched calls found once when seen was written.
type watched struct {
	text  bytes.Buffer
	seen  string
	found func()
}

func (w *watched) String() string { return w.text.String() }

func (w *watched) Write(p []byte) (int, error) {
	n, err := w.text.Write(p)
	if strings.Contains(w.String(), w.seen) {
		w.found()
	}
	return n, err
}

func TestVerifyTheEmbeddedModel(t *testing.T) {
	stdout, stderr, code := command(t, "verify")
	if code != 0 || strings.Count(stdout, "24/24") != 8 {
		t.Errorf("exit code %d:\n%s%s", code, stdout, stderr)
	}
	if stdout, _, code = command(t, "verify", "--tol", "1e-12"); code != 1 || !strings.Contains(stdout, "FAILED: logit error") {
		t.Errorf("an impossible tolerance: exit code %d:\n%s", code, stdout)
	}
}

func TestPrintableKeepsATerminalSafe(t *testing.T) {
	if got := printable("a\x1b[2Jb\r\n\tc\x07é\u009b"); got != "a[2Jb\n\tcé" {
		t.Errorf("%q", got)
	}
}

func TestFolderBreaksLinesAtSpaces(t *testing.T) {
	long := strings.Repeat("x", columnsMax+5)
	for _, c := range []struct {
		column int
		pieces []string
		want   string
	}{
		{0, []string{"a b", "c ", "d\n", " e  f"}, "a bc d\n e  f"},
		{columnsMax - 4, []string{" ab", "c", " d"}, " abc\nd"},
		{columnsMax - 3, []string{" ab", "c", " d"}, "\nabc d"},
		{3, []string{" ", long, " a\x1b[2J"}, "\n" + long + "\na[2J"},
	} {
		var out strings.Builder
		f := &folder{w: &out, column: c.column}
		for _, p := range c.pieces {
			if n, err := f.Write([]byte(p)); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}
		if err := f.end(); err != nil || out.String() != c.want {
			t.Errorf("%q from column %d: got %q, %v; want %q", c.pieces, c.column, out.String(), err, c.want)
		}
	}
}
