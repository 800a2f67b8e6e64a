package supervise

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/troupe-engine/troupe/schemas"
)

// childVariable makes the test binary a child.
const childVariable = "SUPERVISE_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(runChild())
	}
	goleak.VerifyTestMain(m)
}

// runChild plays what it is told to.
func runChild() int {
	var part string
	link, err := Attach(os.Stdin, os.Stdout, &part)
	if err != nil {
		return 3
	}
	defer link.Close()
	switch part {
	case "refuses":
		link.Fail(schemas.Errorf(schemas.KindInvalid, "start", "no such model").WithParam("model").WithHint("name another"))
		return 1
	case "babbles":
		fmt.Println("a library prints")
		fmt.Println(`{"error": 7}`)
		fmt.Println("[1,2]")
	case "shouts":
		fmt.Println(strings.Repeat("x", 2*lineBytesMax))
	case "exits":
		return 7
	}
	if strings.Contains(part, "loads") {
		link.Progress(1, 2)
		link.Progress(2, 2)
	}
	link.Ready("cpu:0")
	switch part {
	case "lives shortly":
		time.Sleep(50 * time.Millisecond)
		return 0
	case "loses its device":
		link.Fail(schemas.Errorf(schemas.KindDeviceLost, "forward", "it is gone"))
		return 1
	case "does not stop":
		time.Sleep(time.Minute)
	}
	select {
	case <-link.Stop():
		return 0
	case <-link.Gone():
		return 1
	}
}

func start(t *testing.T, limits Config, part string) (*Supervisor, error) {
	t.Helper()
	limits.Command = func() *exec.Cmd {
		cmd := exec.Command(os.Args[0])
		cmd.Env, cmd.Stderr = append(os.Environ(), childVariable+"=1"), os.Stderr
		return cmd
	}
	limits.Hello = func(string) (any, error) { return part, nil }
	limits.Log = zerolog.Nop()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	s, err := Start(ctx, limits)
	if err == nil {
		t.Cleanup(func() { s.Stop(0) })
	}
	return s, err
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !is(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("it does not come true that %s", what)
		}
	}
}

func TestAChildLivesUntilItIsToldToStop(t *testing.T) {
	var seen []int64
	s, err := start(t, Config{Progress: func(done, _ int64) { seen = append(seen, done) }}, "loads")
	if err != nil {
		t.Fatal(err)
	}
	pid := s.PID()
	if pid == 0 || s.Health() != nil || s.Restarts() != 0 || len(seen) != 2 {
		t.Errorf("pid %d, health %v, %d restarts, progress %v", pid, s.Health(), s.Restarts(), seen)
	}
	s.Stop(time.Second)
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("after its stop: %v", err)
	}
	if coming := s.Coming(); coming != "" {
		t.Errorf("nobody should wait for it: %q", coming)
	}
	s.Stop(0) // again changes nothing
}

func TestAFirstStartThatFailsIsNotRepeated(t *testing.T) {
	_, err := start(t, Config{}, "refuses")
	var told *schemas.Error
	if !errors.As(err, &told) || told.Param != "model" || told.Hint != "name another" {
		t.Errorf("got %v", err)
	}
	for _, part := range []string{"exits", "shouts"} { // a line without end is as silence
		if _, err := start(t, Config{SilenceMax: 500 * time.Millisecond}, part); err == nil || !strings.Contains(err.Error(), map[string]string{"exits": "exit status 7", "shouts": "no sign of life"}[part]) {
			t.Errorf("%s: %v", part, err)
		}
	}
}

func TestWhatLibrariesPrintIsNoWord(t *testing.T) {
	s, err := start(t, Config{}, "babbles")
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(20 * time.Millisecond)
	if s.Restarts() != 0 {
		t.Error("it was started again")
	}
}

func TestAChildIsStartedAgainAndFailuresAreCounted(t *testing.T) {
	for part, reason := range map[string]string{"lives shortly": reasonExit, "loses its device": reasonDeviceLost} {
		s, err := start(t, Config{BackoffMin: time.Millisecond, BackoffMax: 5 * time.Millisecond, FailuresMax: 3}, part)
		if err != nil {
			t.Fatal(err)
		}
		if s.Health() != nil && s.Restarts() < 3 {
			t.Error("ill before it has failed three times")
		}
		eventually(t, "it has failed three times", func() bool { return s.Restarts() >= 3 })
		s.mu.Lock()
		n := s.restarts[reason]
		s.mu.Unlock()
		if ill := s.Health(); ill == nil || n < 3 || !strings.Contains(ill.Detail, "has failed") {
			t.Errorf("%s: health %v, %d of %s", part, ill, n, reason)
		}
		s.Stop(0)
	}
}

func TestAChildThatDoesNotStopIsKilled(t *testing.T) {
	s, err := start(t, Config{StopTimeMax: 100 * time.Millisecond}, "does not stop")
	if err != nil {
		t.Fatal(err)
	}
	pid, from := s.PID(), time.Now()
	s.Stop(0)
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) || time.Since(from) > 5*time.Second {
		t.Errorf("after %s: %v", time.Since(from), err)
	}
}

func TestBackoffGrowsToItsLimit(t *testing.T) {
	s := &Supervisor{cfg: Config{}.withDefaults()}
	for attempt, want := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 400 * time.Millisecond, 4: 6400 * time.Millisecond, 6: time.Minute, 1000: time.Minute} {
		if got := s.backoff(attempt); got != want {
			t.Errorf("attempt %d: %s, want %s", attempt, got, want)
		}
	}
}

func TestAHelloMustBeALineOfJSON(t *testing.T) {
	for _, in := range []string{"", "{}", "nonsense\n", strings.Repeat("x", helloBytesMax+1)} {
		var hello string
		if _, err := Attach(strings.NewReader(in), os.Stderr, &hello); err == nil {
			t.Errorf("%.20q was taken", in)
		}
	}
}
