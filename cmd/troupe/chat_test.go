package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/schemas"
)

// chatThrough runs `troupe chat` in a process of its own with input on its standard input.
func chatThrough(t *testing.T, input string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := process(t, append([]string{"chat"}, args...)...)
	var out, errOut bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errOut
	_ = cmd.Run() // the exit code tells
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

func TestChatThroughAPipe(t *testing.T) {
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen = "127.0.0.1:0", "127.0.0.1:0"
	engine, err := troupe.Open(t.Context(), opts, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	file := filepath.Join(t.TempDir(), "chat.json")
	input := "Tell me a story.\n\"\"\"\nWhat happened\nthen?\n\"\"\"\n/save " + file + "\n"
	flags := []string{"--temperature", "0", "--max-tokens", "12", "--system", "Be kind."}
	here, stderr, code := chatThrough(t, input, flags...)
	if code != 0 || strings.Count(stderr, "reached the limit of tokens") != 2 || len(here) < 20 {
		t.Fatalf("exit code %d: %q %s", code, here, stderr)
	}
	for name, flag := range map[string][2]string{"HTTP": {"--server", engine.HTTPURL()}, "NATS": {"--nats", engine.NATSURL()}} {
		if there, stderr, code := chatThrough(t, input, append(flags, flag[:]...)...); code != 0 || there != here {
			t.Errorf("over %s: exit code %d, %q; here %q: %s", name, code, there, here, stderr)
		}
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var saved schemas.ChatRequest // what is saved can be sent
	if err := json.Unmarshal(raw, &saved); err != nil || saved.Validate() != nil || !strings.Contains(string(saved.Messages), `What happened\nthen?`) {
		t.Errorf("%v %s", err, raw)
	}
	resp, err := http.Post(engine.HTTPURL()+"/v1/chat/completions", "application/json", bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if answer, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Errorf("%s %v %s", resp.Status, err, answer)
	}
}

func TestChatMistakes(t *testing.T) {
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"x"}, 2, "hint: troupe chat --help"},
		{[]string{"--server", "http://x", "--nats", "nats://x"}, 2, "expected one of them"},
		{[]string{"--temperature", "-1"}, 1, "temperature is -1"},
		{[]string{"--server", "x"}, 1, "expected a URL such as"},
		{[]string{"--server", "http://127.0.0.1:1"}, 1, "is the server running?"},
		{[]string{"--nats", "nats://127.0.0.1:1"}, 1, "is `troupe serve` running there?"},
		{[]string{"--max-tokens", "4"}, 0, "reached the limit"},
	} {
		if stdout, stderr, code := chatThrough(t, "hi\n", c.args...); code != c.code || !strings.Contains(stderr, c.want) {
			t.Errorf("%q: exit code %d; want %d and %q:\n%s%s", c.args, code, c.code, c.want, stdout, stderr)
		}
	}
}

// TestChatKeepsWithinTheContext talks until the oldest turns must go.
func TestChatKeepsWithinTheContext(t *testing.T) {
	input := strings.Repeat("Tell me a long and winding story of a king and his daughters.\n", 12)
	stdout, stderr, code := chatThrough(t, input, "--context-max", "256", "--max-tokens", "24", "--temperature", "0")
	if code != 0 || !strings.Contains(stderr, "no longer fit the context and are left out)") {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
}

// waitIdle returns once an engine runs nothing.
func waitIdle(t *testing.T, base string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		var s schemas.SchedulerState
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/debug/scheduler/state", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err == nil {
			err = json.NewDecoder(resp.Body).Decode(&s)
			_ = resp.Body.Close()
		}
		cancel()
		if err == nil && s.Running == 0 && s.Waiting == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after 10 s %d sequences run: %v", s.Running, err)
		}
	}
}
