package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/internal/batch"
)

// asCommand makes the test binary behave as the command, so that tests can kill it.
const asCommand = "TEST_RUN_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
	}
	os.Exit(m.Run())
}

// process is a command line in a process of its own.
func process(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	return cmd
}

// batchLine is one line of an output.
type batchLine struct {
	ID       string  `json:"id"`
	CustomID *string `json:"custom_id"`
	Response *struct {
		Status    int             `json:"status_code"`
		RequestID string          `json:"request_id"`
		Body      json.RawMessage `json:"body"`
	} `json:"response"`
	Error *batch.LineError `json:"error"`
}

// readBatch reads an output by custom_id; lines without one are under their number.
func readBatch(t *testing.T, name string) map[string]batchLine {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	all := map[string]batchLine{}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var l batchLine
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		key := l.ID
		if l.CustomID != nil {
			key = *l.CustomID
		}
		if l.Error != nil {
			key = fmt.Sprint("line ", l.Error.Line)
		}
		if _, twice := all[key]; twice {
			t.Errorf("%s is answered twice", key)
		}
		all[key] = l
	}
	return all
}

// batchInput writes n lines, of which bad replaces some.
func batchInput(t *testing.T, n, tokens int, bad map[int]string) (in, out string) {
	t.Helper()
	var b strings.Builder
	for i := range n {
		line := fmt.Sprintf(`{"custom_id":"q%d","method":"POST","url":"/v1/chat/completions","body":{"messages":[{"role":"user","content":"Story %d."}],"max_tokens":%d,"seed":%d,"ignore_eos":true}}`, i, i, tokens, i)
		if i%2 == 1 {
			line = fmt.Sprintf(`{"custom_id":"q%d","method":"POST","url":"/v1/completions","body":{"prompt":"Once upon %d","max_tokens":%d,"seed":%d,"ignore_eos":true}}`, i, i, tokens, i)
		}
		if bad[i] != "" {
			line = bad[i]
		}
		b.WriteString(line + "\n")
	}
	dir := t.TempDir()
	in, out = filepath.Join(dir, "in.jsonl"), filepath.Join(dir, "out.jsonl")
	if err := os.WriteFile(in, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return in, out
}

func TestBatchOfTwoHundredLines(t *testing.T) {
	in, out := batchInput(t, 200, 8, map[int]string{
		10: "not json",
		20: `{"custom_id":"q20","method":"POST","url":"/v1/nowhere","body":{}}`,
		30: `{"custom_id":"q5","method":"POST","url":"/v1/completions","body":{"prompt":"x"}}`,
		40: `{"custom_id":"q40","method":"POST","url":"/v1/completions","body":{"prompt":"x","temperature":-1}}`,
		50: `{"custom_id":"q50","method":"POST","url":"/v1/completions","body":{"prompt":"x","warmth":1}}`,
		60: `{"custom_id":"q60","method":"POST","url":"/v1/completions","body":{"prompt":"x","model":"nosuch"}}`,
		70: `{"custom_id":"q70","method":"POST","url":"/v1/completions","body":{"prompt":["x","y"],"n":2,"max_tokens":3,"ignore_eos":true}}`,
		80: `{"custom_id":"q80","method":"POST","url":"/v1/embeddings","body":{"input":"x"}}`,
	})
	stdout, stderr, code := command(t, "batch", in, "-o", out, "--json")
	var s batch.Summary
	if err := json.Unmarshal([]byte(stdout), &s); err != nil {
		t.Fatalf("%v: %s%s", err, stdout, stderr)
	}
	if code != 1 || s.Lines != 200 || s.Done != 200 || s.Failed != 6 || s.TokensPerSec == 0 {
		t.Errorf("exit code %d, %+v; want 1 and six of 200 failed", code, s)
	}
	all := readBatch(t, out)
	if len(all) != 200 {
		t.Errorf("%d different lines", len(all))
	}
	for key, want := range map[string]string{"line 11": batch.CodeInvalidJSON, "line 21": batch.CodeURL, "line 31": batch.CodeDuplicate} {
		if l := all[key]; l.Error == nil || l.Error.Code != want || l.Response != nil {
			t.Errorf("%s: %+v; want %s", key, l, want)
		}
	}
	for key, want := range map[string]string{"q40": "temperature is -1", "q50": "warmth", "q60": "nosuch"} {
		if l := all[key]; l.Response == nil || l.Response.Status < 400 || !strings.Contains(string(l.Response.Body), want) || l.Error != nil {
			t.Errorf("%s: %+v; want a refusal that says %q", key, l, want)
		}
	}
	var many struct{ Choices []any }
	if err := json.Unmarshal(all["q70"].Response.Body, &many); err != nil || len(many.Choices) != 4 {
		t.Errorf("two prompts, n=2: %d choices, %v", len(many.Choices), err)
	}
	var vectors struct {
		Data []struct{ Embedding []float64 }
	}
	if err := json.Unmarshal(all["q80"].Response.Body, &vectors); err != nil || len(vectors.Data) != 1 || len(vectors.Data[0].Embedding) == 0 {
		t.Errorf("embeddings: %v %+v", err, all["q80"])
	}
	for _, key := range []string{"q0", "q80"} {
		if l := all[key]; l.Response.Status != 200 || l.Response.RequestID == "" {
			t.Errorf("%s: %+v", key, l.Response)
		}
	}
}

// TestBatchSaysTheSameEverywhere compares an engine in the process with one over HTTP and NATS.
func TestBatchSaysTheSameEverywhere(t *testing.T) {
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen = "127.0.0.1:0", "127.0.0.1:0"
	opts.WaitingMax = 4 // so that a batch must wait for it
	opts.APIKeys = "secret-key"
	engine, err := troupe.Open(t.Context(), opts, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	in, out := batchInput(t, 40, 6, map[int]string{7: `{"custom_id":"q7","method":"POST","url":"/v1/completions","body":{"prompt":"x","top_p":7}}`})
	if _, stderr, code := command(t, "batch", in, "-o", out, "--server", engine.HTTPURL()); code != 1 || !strings.Contains(stderr, "hint: name it with --api-key") || countLines(out) != 0 {
		t.Errorf("without a key: exit code %d, %d lines: %s", code, countLines(out), stderr)
	}
	var answers []map[string]string
	for i, flags := range [][]string{{}, {"--server", engine.HTTPURL() + "/v1/", "--window", "200", "--api-key", "secret-key"}, {"--nats", engine.NATSURL(), "--ordered"}} {
		name := fmt.Sprint(out, i)
		if _, stderr, code := command(t, append([]string{"batch", in, "-o", name}, flags...)...); code != 1 || !strings.Contains(stderr, "line 8: top_p is 7") {
			t.Errorf("%v: exit code %d: %s", flags, code, stderr)
		}
		texts := map[string]string{}
		for key, l := range readBatch(t, name) {
			texts[key] = fmt.Sprint(l.Response.Status, textOf(t, l.Response.Body))
		}
		answers = append(answers, texts)
	}
	for key, here := range answers[0] {
		if answers[1][key] != here || answers[2][key] != here {
			t.Errorf("%s: here %q, over HTTP %q, over NATS %q", key, here, answers[1][key], answers[2][key])
		}
	}
}

// textOf is what an answer says, or why there is none.
func textOf(t *testing.T, body json.RawMessage) string {
	t.Helper()
	var answer struct {
		Choices []struct {
			Text    string
			Message struct{ Content string }
		}
		Error any
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(answer.Choices, answer.Error)
}

// TestBatchSurvivesKill kills a process of its own with SIGKILL after some lines, several times, and lets the
// last one finish.
func TestBatchSurvivesKill(t *testing.T) {
	const lines = 150
	in, out := batchInput(t, lines, 16, map[int]string{3: "broken"})
	whole := filepath.Join(t.TempDir(), "whole")
	if _, stderr, code := command(t, "batch", in, "-o", whole); code != 1 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	kills := 0
	for _, after := range []int{1, 10, 37, 80, 120} {
		cmd := process(t, "batch", in, "-o", out, "--window", "6")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); countLines(out) < after; {
			if time.Now().After(deadline) {
				t.Fatalf("no %d lines within a minute", after)
			}
			time.Sleep(time.Millisecond)
		}
		_ = cmd.Process.Kill()
		var exit *exec.ExitError
		if err := cmd.Wait(); errors.As(err, &exit) && exit.ExitCode() == -1 {
			kills++
		}
	}
	if kills < 4 {
		t.Errorf("%d processes were killed; the others had finished before", kills)
	}
	if stdout, stderr, code := command(t, "batch", in, "-o", out); code != 1 || !strings.Contains(stdout, "done before") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
	want, got := readBatch(t, whole), readBatch(t, out)
	if len(got) != lines || countLines(out) != lines {
		t.Errorf("%d lines, %d different; want %d", countLines(out), len(got), lines)
	}
	for key, w := range want {
		if g := got[key]; w.Response != nil && (g.Response == nil || textOf(t, g.Response.Body) != textOf(t, w.Response.Body)) {
			t.Errorf("%s: %+v; want %+v", key, g, w)
		}
	}
}

func countLines(name string) int {
	raw, err := os.ReadFile(name)
	if err != nil {
		return 0
	}
	return bytes.Count(raw, []byte("\n"))
}

func TestBatchMistakes(t *testing.T) {
	in, out := batchInput(t, 1, 4, nil)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"batch"}, 2, "expected the input's name"},
		{[]string{"batch", in}, 2, "--output is missing"},
		{[]string{"batch", in, "-o", out, "--server", "http://x", "--nats", "nats://x"}, 2, "expected one of them"},
		{[]string{"batch", in + "x", "-o", out}, 1, "no such file"},
		{[]string{"batch", in, "-o", in}, 1, "is the input"},
		{[]string{"batch", in, "-o", out, "--server", "localhost:8000"}, 1, "expected a URL such as"},
		{[]string{"batch", in, "-o", out, "--server", "http://127.0.0.1:1", "--patience", "100ms"}, 1, "has not answered for 100ms"},
		{[]string{"batch", in, "-o", out, "--nats", "nats://127.0.0.1:1"}, 1, "is `troupe serve` running there?"},
		{[]string{"batch", in, "-o", out, "--window", "9999"}, 1, "window is 9999"},
	} {
		if _, stderr, code := command(t, c.args...); code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%q: exit code %d; want %d and %q:\n%s", c.args, code, c.code, c.want, stderr)
		}
	}
}

func TestBatchReportsFitTheTerminal(t *testing.T) {
	for _, p := range []batch.Progress{{}, {Lines: 99999999, Done: 88888888, Failed: 777777, LinesPerSec: 12345.6, TokensPerSec: 99999, Left: 99 * 24 * time.Hour, Known: true},
		{Lines: 99999999, Done: 88888888, Failed: 777, LinesPerSec: 123.6, TokensPerSec: 12345, Waiting: 4096}} {
		if line := progressLine(p); utf8.RuneCountInString(line) >= columnsMax {
			t.Errorf("%d columns: %s", utf8.RuneCountInString(line), line)
		}
	}
	bad := map[int]string{}
	for i := range 9 {
		bad[i] = strings.Repeat("\x1b[2Jé", i*40+1) // a message must not carry this to a terminal
	}
	in, out := batchInput(t, 12, 2, bad)
	stdout, stderr, _ := command(t, "batch", in, "-o", out)
	for _, line := range strings.Split(stdout+stderr, "\n") {
		if utf8.RuneCountInString(line) > columnsMax || strings.Contains(line, "\x1b") {
			t.Errorf("%q", line)
		}
	}
	for _, flag := range []string{"batch", "chat"} {
		stdout, _, _ := command(t, flag, "--help")
		for _, line := range strings.Split(stdout, "\n") {
			if utf8.RuneCountInString(line) > columnsMax {
				t.Errorf("%s --help: %q", flag, line)
			}
		}
	}
	for d, want := range map[time.Duration]string{9 * time.Second: "9s", 61 * time.Second: "1m01s", 3*time.Hour + time.Minute: "3h01m", 50 * time.Hour: "2d02h"} {
		if got := duration(d); got != want {
			t.Errorf("%s is written %s; want %s", d, got, want)
		}
	}
	if got := slices.Collect(func(yield func(string) bool) {
		for _, n := range []int64{0, 999, 1000, 1234567, -1000} {
			if !yield(grouped(n)) {
				return
			}
		}
	}); !slices.Equal(got, []string{"0", "999", "1,000", "1,234,567", "-1,000"}) {
		t.Errorf("%q", got)
	}
}

// TestBatchStopsAtASignal keeps what is done and says how to go on.
func TestBatchStopsAtASignal(t *testing.T) {
	in, out := batchInput(t, 400, 64, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		for countLines(out) < 5 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	var stderr bytes.Buffer
	if code := run(ctx, []string{"batch", in, "-o", out, "--window", "4"}, io.Discard, &stderr); code != 1 || stderr.String() != "troupe: batch: canceled: stopped\n  hint: the same command goes on from here\n" {
		t.Errorf("exit code %d: %s", code, stderr.String())
	}
	if n := countLines(out); n < 5 || n >= 400 || len(readBatch(t, out)) != n {
		t.Errorf("%d lines", n)
	}
}
