package troupe

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/actors/gateway"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/supervise"
	"github.com/troupe-engine/troupe/schemas"
)

// With Options.Isolate the replica runs in a child process of the same program, which joins this node over the loopback
// with a key made for it, and is started again when it ends. What a fault of CUDA's ruins is then no more than that
// process; requests go on from the tokens that have come, as in a cluster.

// ReplicaCommand is the argument with which a program runs ReplicaMain. Options.Isolate starts the program so.
const ReplicaCommand = "replica"

const (
	isolateWaitMax = 2 * time.Minute // for a replica that is started again, unless RestartWaitMax says otherwise
	progressEvery  = time.Second     // looks at whether a replica gets on
	progressMax    = 2 * time.Minute // with requests and without a token
)

// isolated is the replica's process, and the key that lets it in.
type isolated struct {
	public, seed string
	process      atomic.Pointer[supervise.Supervisor] // nil before it has been ready once
}

// replicaHello is what the process is to run.
type replicaHello struct {
	Options Options
	Seed    string
}

// isolateCluster is how the gateway works with a replica that is started again.
func (e *Engine) isolateCluster(c *gateway.Cluster) {
	if c.MoveWaitMax == 0 {
		c.MoveWaitMax = isolateWaitMax
	}
	c.SilenceMax = max(c.SilenceMax, supervise.SilenceMaxDefault) // one that is frozen is killed by then
	c.Coming = func() string {
		if p := e.isolated.process.Load(); p != nil {
			return p.Coming()
		}
		return "it is starting"
	}
}

// superviseReplica starts the replica's process, and returns when it is ready.
func (e *Engine) superviseReplica(ctx context.Context, progress func(done, total int64)) error {
	program, err := os.Executable()
	if err != nil {
		return schemas.Errorf(schemas.KindUnsupported, "start", "isolate: this program is not found: %v", err).WithParam("isolate")
	}
	cfg := e.network.supervise
	cfg.Command, cfg.Hello, cfg.Progress, cfg.Log = e.network.replicaCommand, e.replicaHello, progress, e.log
	if cfg.Command == nil {
		cfg.Command = func() *exec.Cmd {
			cmd := exec.Command(program, ReplicaCommand)
			cmd.Stderr = os.Stderr
			return cmd
		}
	}
	process, err := supervise.Start(ctx, cfg)
	if err != nil {
		return err
	}
	e.isolated.process.Store(process)
	return e.registry.Register(process)
}

// replicaHello are the options of the replica's process. A device that was chosen once stays: another one computes other
// tokens.
func (e *Engine) replicaHello(device string) (any, error) {
	o := e.opts
	o.Isolate, o.Actors, o.Attach, o.Node = false, RoleReplica, e.node.LeafURL(), string(replicaInstance)
	o.HTTP, o.NATSListen, o.NATSConfig, o.Leaf, o.Store, o.APIKeys, o.AdminKeys = "none", "none", "", "", "", "", ""
	if kind, _, _ := strings.Cut(device, ":"); kind != "" {
		o.Device = kind
	}
	return replicaHello{o, e.isolated.seed}, nil
}

// ReplicaMain is the whole life of a replica's process, which talks to its parent over in and out, and ends with it. The
// caller ends the process with the error: nothing is released that the system releases.
func ReplicaMain(in io.Reader, out io.Writer, logger func(Options) zerolog.Logger) error {
	return replicaMain(in, out, logger, network{})
}

func replicaMain(in io.Reader, out io.Writer, logger func(Options) zerolog.Logger, n network) error {
	// A service manager may signal all processes; this one ends when its parent has drained.
	signal.Ignore(os.Interrupt, syscall.SIGTERM)
	var hello replicaHello
	link, err := supervise.Attach(in, out, &hello)
	if err != nil {
		return err
	}
	defer link.Close()
	opened := make(chan error, 1)
	e := newEngine(hello.Options, logger(hello.Options))
	e.isolated.seed, e.network = hello.Seed, n
	go func() { opened <- e.open(context.Background(), link.Progress) }()
	select {
	case err = <-opened:
	case <-link.Stop(): // before it has begun
		return nil
	case <-link.Gone():
		err = errParentGone
	}
	if err == nil {
		link.Ready(e.Device().Info().Name)
		err = e.serveParent(link)
	}
	if err != nil {
		link.Fail(err)
	}
	return err
}

var errParentGone = errors.New("the process that it belongs to has ended")

// serveParent returns when the process is to end; the error says why, if nobody told it to.
func (e *Engine) serveParent(link *supervise.Link) error {
	stuck := make(chan error, 1)
	e.background.Go(func() { e.watchProgress(stuck) })
	select {
	case <-link.Stop(): // the gateway has drained
		return e.Close()
	case err := <-e.Failed():
		return err
	case err := <-stuck:
		return err
	case <-link.Gone():
		return errParentGone
	}
}

// watchProgress notices a replica that has requests and makes no token of them: its device hangs.
func (e *Engine) watchProgress(stuck chan<- error) {
	ask := bus.NewRef(e.node, schemas.SchedulerInfo, e.instance(replicaInstance))
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	at, since := uint64(0), time.Now()
	for {
		select {
		case <-tick.C:
		case <-e.closed:
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), progressEvery)
		state, err := ask.Call(ctx, &schemas.InfoRequest{})
		cancel()
		if err == nil && (state.Running+state.Waiting == 0 || state.Tokens+state.Prefilled != at) {
			at, since = state.Tokens+state.Prefilled, time.Now()
		} else if time.Since(since) > progressMax {
			stuck <- schemas.Errorf(schemas.KindTimeout, "run", "the replica has requests, but no token came of it for %s", progressMax)
			return
		}
	}
}
