package bench

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// EngineProcess is an engine in a process of its own, so that what it uses can be told from what the load generator
// uses. Where the system allows it, each has processors of its own.
type EngineProcess struct {
	URL    string // of its HTTP API
	Pinned string // who has which processors; "" if they share

	cmd    *exec.Cmd
	output bytes.Buffer
	ended  chan struct{}
}

// stopTimeMax is how long an engine may take to stop when asked to.
const stopTimeMax = 5 * time.Second

// StartEngine runs this program as `serve` with more arguments, and waits until it serves.
func StartEngine(ctx context.Context, args ...string) (*EngineProcess, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	e := &EngineProcess{URL: "http://" + address, ended: make(chan struct{})}
	e.cmd = exec.CommandContext(ctx, program, append([]string{"serve", "--http", address, "--nats-listen", "none", "--grace", "1s"}, args...)...)
	e.cmd.Cancel = func() error { return e.cmd.Process.Signal(syscall.SIGTERM) }
	e.cmd.WaitDelay = stopTimeMax
	e.cmd.Stderr = &e.output
	if e.Pinned, err = startApart(e.cmd); err != nil {
		return nil, err
	}
	go func() {
		_ = e.cmd.Wait() // what it had to say is in its output
		close(e.ended)
	}()
	if err := e.await(ctx); err != nil {
		e.Close()
		return nil, err
	}
	return e, nil
}

// freeAddress is one that nobody listens at, for now.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// await waits until the engine serves.
func (e *EngineProcess) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startWaitMax)
	defer cancel()
	for {
		if req, err := http.NewRequestWithContext(ctx, http.MethodGet, e.URL+"/health/ready", nil); err == nil {
			if resp, err := http.DefaultClient.Do(req); err == nil {
				resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					return nil
				}
			}
		}
		select {
		case <-e.ended:
			return schemas.Errorf(schemas.KindUnavailable, "bench overload", "the engine ended: %s", bytes.TrimSpace(e.output.Bytes()))
		case <-ctx.Done():
			return schemas.Errorf(schemas.KindTimeout, "bench overload", "the engine does not serve after %s", startWaitMax)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Close stops the engine.
func (e *EngineProcess) Close() {
	http.DefaultClient.CloseIdleConnections()
	_ = e.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	select {
	case <-e.ended:
	case <-time.After(stopTimeMax):
		_ = e.cmd.Process.Kill()
		<-e.ended
	}
}

// pinning says in words who has which of a machine's processors.
func pinning(engine, generator int) string {
	return fmt.Sprintf("engine on %d of %d processors, load generator on %d", engine, engine+generator, generator)
}
