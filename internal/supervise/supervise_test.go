package supervise

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
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/troupe-engine/troupe/schemas"
)

// Variables that make the test binary a child, or a parent with one.
const (
	childVariable  = "SUPERVISE_TEST_CHILD"
	parentVariable = "SUPERVISE_TEST_PARENT"
)

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		os.Exit(runChild())
	}
	if os.Getenv(parentVariable) != "" {
		os.Exit(runParent())
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
		fmt.Println(strings.Repeat("x", 2*lineBytesMax))
		fmt.Print("loading: 50 %") // half a line
	case "exits":
		return 7
	case "freezes":
		_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
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
		select {}
	}
	select {
	case <-link.Stop():
		return 0
	case <-link.Gone():
		return 1
	}
}

func child() *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), childVariable+"=1", parentVariable+"="), os.Stderr
	return cmd
}

func start(t *testing.T, limits Config, part string) (*Supervisor, error) {
	t.Helper()
	limits.Command = child
	limits.Hello = func(string) (any, error) { return part, nil }
	limits.Log = zerolog.Nop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	s, err := Start(ctx, limits)
	if err == nil {
		t.Cleanup(s.Stop)
	}
	return s, err
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(2 * time.Millisecond) {
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
	s.Stop()
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) || s.PID() != 0 {
		t.Errorf("after its stop: %v, pid %d", err, s.PID())
	}
	if coming := s.Coming(); coming != "" {
		t.Errorf("nobody should wait for it: %q", coming)
	}
	s.Stop() // again changes nothing
}

func TestAFirstStartThatFailsIsNotRepeated(t *testing.T) {
	_, err := start(t, Config{}, "refuses")
	var told *schemas.Error
	if !errors.As(err, &told) || told.Param != "model" || told.Hint != "name another" {
		t.Errorf("got %v", err)
	}
	if _, err := start(t, Config{}, "exits"); err == nil || !strings.Contains(err.Error(), "exit status 7") {
		t.Errorf("exits: %v", err)
	}
	if _, err := start(t, Config{SilenceMax: 500 * time.Millisecond}, "freezes"); err == nil || !strings.Contains(err.Error(), "no sign of life") {
		t.Errorf("freezes: %v", err)
	}
}

// Whatever is printed before, in lines, without end or in halves of lines, the word behind it is heard.
func TestWhatLibrariesPrintIsNoWord(t *testing.T) {
	s, err := start(t, Config{}, "babbles")
	if err != nil {
		t.Fatal(err)
	}
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
		s.Stop()
		s.mu.Lock()
		for i := range s.failures {
			s.failures[i] = s.failures[i].Add(-s.cfg.FailuresWithin)
		}
		s.mu.Unlock()
		if ill := s.Health(); ill != nil {
			t.Errorf("%s: failures of long ago are still an illness: %v", part, ill)
		}
	}
}

func TestAChildThatDoesNotStopIsKilled(t *testing.T) {
	s, err := start(t, Config{StopTimeMax: 100 * time.Millisecond}, "does not stop")
	if err != nil {
		t.Fatal(err)
	}
	pid := s.PID()
	s.Stop()
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("after its stop: %v", err)
	}
}

// A process that hangs in a driver does not end when it is killed; nobody waits for it for ever.
func TestAChildThatCannotBeKilledIsLeft(t *testing.T) {
	cmd := exec.Command("true")
	cmd.SysProcAttr = attributes()
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	s := &Supervisor{cfg: Config{StopTimeMax: time.Millisecond, Log: zerolog.Nop()}.withDefaults()}
	(&life{s: s, cmd: cmd, exit: make(chan ended)}).kill() // its end does not come
}

// A parent that was frozen for longer than a child may be silent does not kill it for that: it may have been frozen, too.
func TestAParentThatWasFrozen(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), parentVariable+"=1"), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said := bufio.NewScanner(out)
	if !said.Scan() {
		t.Fatal("the parent says nothing")
	}
	if err := syscall.Kill(cmd.Process.Pid, syscall.SIGSTOP); err != nil {
		t.Error(err)
	}
	time.Sleep(parentSilenceMax + parentSilenceMax/silenceLooks*2)
	if err := syscall.Kill(cmd.Process.Pid, syscall.SIGCONT); err != nil {
		t.Error(err)
	}
	time.Sleep(parentSilenceMax / silenceLooks * 3) // looks, if they were all due now
	if err := in.Close(); err != nil {
		t.Error(err)
	}
	if said.Scan(); said.Text() != "0 restarts" {
		t.Errorf("%q", said.Text())
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// parentSilenceMax is longer than any pause of a machine under load, and than some beats.
const parentSilenceMax = 6 * time.Second

// runParent says when its child is ready and, at the end of its input, how often it was started again.
func runParent() int {
	s, err := Start(context.Background(), Config{Command: child, Hello: func(string) (any, error) { return "lives", nil }, Log: zerolog.Nop(), SilenceMax: parentSilenceMax})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin) // nothing comes
	fmt.Println(s.Restarts(), "restarts")
	s.Stop()
	return 0
}

func TestBackoffGrowsToItsLimit(t *testing.T) {
	s := &Supervisor{cfg: Config{}.withDefaults()}
	for attempt, want := range map[int]time.Duration{1: 100 * time.Millisecond, 2: 400 * time.Millisecond, 4: 6400 * time.Millisecond, 6: time.Minute, 1000: time.Minute} {
		if got := s.backoff(attempt); got != want {
			t.Errorf("attempt %d: %s, want %s", attempt, got, want)
		}
	}
}

// What cannot be run is told to whoever listens.
func TestAHelloMustBeALineOfJSON(t *testing.T) {
	for _, in := range []string{"", "{}", "nonsense\n", strings.Repeat("x", helloBytesMax+1), strings.Repeat(" ", helloBytesMax) + "\"x\"\n"} {
		var hello string
		var out bytes.Buffer
		if _, err := Attach(strings.NewReader(in), &out, &hello); err == nil {
			t.Errorf("%.20q was taken", in)
		}
		var told word
		if err := json.Unmarshal(out.Bytes(), &told); err != nil || told.Error == nil || told.Error.Kind != schemas.KindInvalid {
			t.Errorf("%.20q: it says %q", in, out.String())
		}
	}
}
