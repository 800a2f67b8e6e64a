package troupe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/supervise"
	"github.com/troupe-engine/troupe/schemas"
)

// Variables that make the test binary a replica's process, or an engine with one.
const (
	replicaVariable  = "TROUPE_TEST_REPLICA"
	isolatedVariable = "TROUPE_TEST_ISOLATED"
	loadingVariable  = "TROUPE_TEST_LOADING" // a file that the replica's process makes, to load no further
)

func runReplica() int {
	var n network
	if os.Getenv(faultyVariable) != "" {
		n.chooseDevice = chooseFaulty
	}
	if at := os.Getenv(loadingVariable); at != "" {
		n.chooseDevice = func(Options) (gpu.Device, string, error) {
			if err := os.WriteFile(at, nil, 0o600); err != nil {
				return nil, "", err
			}
			select {}
		}
	}
	if err := replicaMain(os.Stdin, os.Stdout, func(Options) zerolog.Logger { return zerolog.New(os.Stderr).Level(zerolog.ErrorLevel) }, n); err != nil {
		return 1
	}
	return 0
}

// runIsolated is an engine with its replica in a process of its own, whose id it says.
func runIsolated() int {
	opts := DefaultOptions()
	opts.HTTP, opts.NATSListen, opts.Isolate = "127.0.0.1:0", "none", true
	e := newEngine(opts, zerolog.Nop())
	e.network.replicaCommand = replicaProcess
	if err := e.open(context.Background(), nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(e.isolated.process.Load().PID())
	bufio.NewScanner(os.Stdin).Scan()
	return 0
}

func replicaProcess() *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), replicaVariable+"=1", isolatedVariable+"="), os.Stderr
	return cmd
}

// openIsolated starts an engine that computes what asks wants, in a process of its own. One is started while gate, which may
// be nil, is not locked.
func openIsolated(t *testing.T, limits supervise.Config, gate *sync.Mutex, change func(*Options)) *Engine {
	t.Helper()
	start := func() *exec.Cmd {
		if gate != nil {
			gate.Lock()
			defer gate.Unlock()
		}
		return replicaProcess()
	}
	return openOn(t, network{supervise: limits, replicaCommand: start}, func(o *Options) {
		o.Isolate, o.Threads, o.KVBlocks = true, 1, 1024
		if change != nil {
			change(o)
		}
	})
}

// computes waits until the replica's process has computed so many tokens, and has more to do.
func computes(t *testing.T, e *Engine, tokens uint64) {
	t.Helper()
	waitFor(t, "tokens come", func() bool {
		r := reports(t, e)["replica0"]
		return r != nil && r.Running > 0 && r.Progress > tokens
	})
}

// hasEnded reports whether a process has ended, reaped or not.
func hasEnded(pid int) bool {
	if errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && strings.Contains(string(stat), ") Z ")
}

func send(t *testing.T, e *Engine, s syscall.Signal) (pid int) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); pid == 0 && time.Now().Before(end); pid = e.isolated.process.Load().PID() {
		time.Sleep(time.Millisecond)
	}
	if pid == 0 {
		t.Error("there is no process")
		return 0
	}
	if err := syscall.Kill(pid, s); err != nil {
		t.Errorf("process %d: %v", pid, err)
	}
	return pid
}

func metrics(t *testing.T, e *Engine) string {
	t.Helper()
	resp, err := http.Get(e.HTTPURL() + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// Streams survive whatever ends the replica's process, token for token, and requests that come meanwhile wait.
func TestStreamsGoOnWhenTheReplicasProcessEnds(t *testing.T) {
	list := asks(t, 12, 8, 600)
	var gate sync.Mutex
	e := openIsolated(t, supervise.Config{SilenceMax: 6 * time.Second}, &gate, func(o *Options) { o.EnableFaults = true })
	for _, c := range []struct {
		reason string
		end    func()
	}{
		{"signal", func() { send(t, e, syscall.SIGKILL) }},
		{"silent", func() { send(t, e, syscall.SIGSTOP) }},
		{"device_lost", func() {
			plan := &schemas.FaultPlan{Seed: 1, Rules: []schemas.FaultRule{{Kind: schemas.FaultLoseDevice, Subject: "inf.v1.compute.execute.>", Probability: 1}}}
			if _, err := bus.NewRef(e.node, schemas.Faults, "replica0").Call(t.Context(), &schemas.FaultsRequest{Plan: plan}); err != nil {
				t.Error(err)
			}
		}},
	} {
		before, moved := e.isolated.process.Load().Restarts(), e.gateway.Moved()
		var late sync.WaitGroup
		askTogether(t, e, list, func() {
			computes(t, e, 100)
			gate.Lock()
			defer gate.Unlock()
			c.end()
			waitFor(t, "the replica is given up", func() bool { return len(reports(t, e)) == 0 })
			waitFor(t, "its end is noticed", func() bool { return e.isolated.process.Load().Restarts() > before })
			if status, body := debug(t, e, http.MethodGet, "/health/ready", ""); status != http.StatusServiceUnavailable || !strings.Contains(string(body), "it is started again since") {
				t.Errorf("%s: not ready is %d %s", c.reason, status, body)
			}
			if status, body := debug(t, e, http.MethodGet, "/health", ""); status != http.StatusOK {
				t.Errorf("%s: health is %d %s", c.reason, status, body)
			}
			late.Go(func() {
				if got, err := streamText(e, list[0].body, nil); err != nil || got != list[0].want {
					t.Errorf("%s: a request that came meanwhile: %q, %v", c.reason, got, err)
				}
			})
			waitFor(t, "that waits, too", func() bool { return int(e.gateway.Running()) == len(list)+1 })
		})
		late.Wait()
		if n := e.isolated.process.Load().Restarts() - before; n != 1 {
			t.Errorf("%s: %d restarts", c.reason, n)
		}
		if e.gateway.Moved()-moved < 2 {
			t.Errorf("%s: nothing moved; nothing was tested", c.reason)
		}
		if want := `troupe_replica_process_restarts_total{reason="` + c.reason + `"} 1`; !strings.Contains(metrics(t, e), want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	waitHoldsNothing(t, e.node, "replica0")
}

func TestAReplicasProcessEndsWithItsEngine(t *testing.T) {
	e := openIsolated(t, supervise.Config{StopTimeMax: time.Hour}, nil, nil) // it is not killed
	pid := send(t, e, syscall.SIGTERM)                                       // as service managers do to all processes; not its own business
	complete(t, e, `{"prompt": "The king", "max_tokens": 4}`)
	list := asks(t, 16, 4, 1800)
	askTogether(t, e, list, func() { // draining lets it finish what it has
		computes(t, e, 30)
		if err := e.Drain(t.Context()); err != nil {
			t.Error(err)
		}
	})
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	if n := e.isolated.process.Load().Restarts(); n != 0 {
		t.Errorf("%d restarts", n)
	}
	if !hasEnded(pid) {
		t.Error("the process has not ended")
	}
}

// A start that is given up does not wait for the replica's process to have loaded.
func TestAReplicasProcessEndsWhileItLoads(t *testing.T) {
	t.Setenv(loadingVariable, filepath.Join(t.TempDir(), "loading"))
	opts := DefaultOptions()
	opts.HTTP, opts.NATSListen, opts.Isolate = "none", "none", true
	e := newEngine(opts, zerolog.Nop())
	e.network.replicaCommand, e.network.supervise.StopTimeMax = replicaProcess, 2*time.Minute // more than waitFor's patience
	ctx, cancel := context.WithCancel(t.Context())
	opened := make(chan error, 1)
	go func() { opened <- e.open(ctx, nil) }()
	waitFor(t, "the replica loads", func() bool {
		_, err := os.Stat(os.Getenv(loadingVariable))
		return err == nil
	})
	cancel()
	var err error
	waitFor(t, "the start is given up", func() bool {
		select {
		case err = <-opened:
			return true
		default:
			return false
		}
	})
	if !errors.Is(err, &schemas.Error{Kind: schemas.KindCanceled}) {
		t.Errorf("got %v", err)
	}
	if err := e.Close(); err != nil {
		t.Error(err)
	}
}

// However the parent ends, and whatever the child is doing.
func TestAReplicasProcessEndsWithItsParent(t *testing.T) {
	for _, frozen := range []bool{false, true} {
		cmd := exec.Command(os.Args[0])
		cmd.Env, cmd.Stderr = append(os.Environ(), isolatedVariable+"=1"), os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		defer in.Close()
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var pid int
		if _, err := fmt.Fscan(out, &pid); err != nil {
			t.Fatal(err)
		}
		if frozen {
			_ = syscall.Kill(pid, syscall.SIGSTOP)
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed
		waitFor(t, fmt.Sprintf("the child (frozen: %v) has ended", frozen), func() bool { return hasEnded(pid) })
	}
}

func TestTheFirstStartOfAReplicasProcessTellsWhatIsWrong(t *testing.T) {
	opts := DefaultOptions()
	opts.HTTP, opts.NATSListen, opts.Isolate, opts.KVBytesMax = "127.0.0.1:0", "none", true, 1
	e := newEngine(opts, zerolog.Nop())
	e.network.replicaCommand = replicaProcess
	err := e.open(t.Context(), nil)
	if err := e.Close(); err != nil {
		t.Error(err)
	}
	var told *schemas.Error
	if !errors.As(err, &told) || told.Param != "kv_bytes_max" || told.Kind != schemas.KindNoMemory || told.Hint == "" {
		t.Errorf("got %v", err)
	}
}

// A process that fails again and again is an illness of the whole, which health tells with the reason.
func TestRepeatedFailuresAreAnIllness(t *testing.T) {
	e := openIsolated(t, supervise.Config{BackoffMin: 30 * time.Millisecond, BackoffMax: 2 * time.Second, FailuresMax: 3, FailuresWithin: time.Hour}, nil, nil)
	complete(t, e, `{"prompt": "The king", "max_tokens": 4}`)
	for n := uint64(1); n <= 3; n++ {
		send(t, e, syscall.SIGKILL)
		waitFor(t, "that is counted", func() bool { return e.isolated.process.Load().Restarts() == n })
	}
	status, body := debug(t, e, http.MethodGet, "/health", "")
	if status != http.StatusServiceUnavailable || !strings.Contains(string(body), "failed 3 times within 1h0m0s, the last time: the process ended by a signal (signal: killed)") {
		t.Errorf("health is %d %s", status, body)
	}
	waitFor(t, "it is there again", func() bool { return e.isolated.process.Load().Coming() == "it has just started" })
	complete(t, e, `{"prompt": "The king", "max_tokens": 4}`)
}

// TestTheRequestThatEndsProcessesIsFoundOut has a request whose every submission is followed by the end of the process.
func TestTheRequestThatEndsProcessesIsFoundOut(t *testing.T) {
	const poison = 777 // max_tokens
	list := asks(t, 13, 6, 900)
	e := openIsolated(t, supervise.Config{FailuresMax: 20, BackoffMax: 100 * time.Millisecond}, nil, nil)
	var crashes atomic.Int32
	sub, err := e.node.Conn().Subscribe(schemas.Submit.Subject("replica0"), func(m *nats.Msg) {
		r := &schemas.SubmitRequest{}
		if err := msgpack.Unmarshal(m.Data, r); err == nil && r.MaxTokens == poison {
			crashes.Add(1)
			send(t, e, syscall.SIGKILL)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	var running sync.WaitGroup
	askTogether(t, e, list, func() {
		computes(t, e, 50)
		running.Go(func() {
			_, err := streamText(e, fmt.Sprintf(`{"prompt":%q,"max_tokens":%d,"stream":true,"ignore_eos":true}`, strings.Repeat("The queen ", 400), poison), nil)
			if err == nil || !strings.Contains(err.Error(), "3 times in a row while this request ran") {
				t.Errorf("the request to blame: %v", err)
			}
		})
	})
	running.Wait()
	if n := crashes.Load(); n != 3 {
		t.Errorf("the process ended %d times of it", n)
	}
}

func TestRestartWaitIsLimited(t *testing.T) {
	list := asks(t, 14, 1, 1900)
	e := openIsolated(t, supervise.Config{BackoffMin: 20 * time.Second, BackoffMax: 20 * time.Second}, nil, func(o *Options) { o.RestartWaitMax = 500 * time.Millisecond })
	failed := make(chan error, 2)
	for _, header := range []http.Header{nil, {"Troupe-Failover": {"none"}}} {
		go func() {
			_, err := streamText(e, list[0].body, header)
			failed <- err
		}()
	}
	computes(t, e, 50)
	send(t, e, syscall.SIGKILL)
	told := fmt.Sprint(<-failed, <-failed)
	for _, want := range []string{"the client asked not to go on elsewhere", "came within 500ms"} {
		if !strings.Contains(told, want) {
			t.Errorf("no %q in %s", want, told)
		}
	}
	if _, err := streamText(e, list[0].body, nil); err == nil || !strings.Contains(err.Error(), "no replica came within 500ms") && !strings.Contains(err.Error(), "500") {
		t.Errorf("a new request: %v", err)
	}
}
