package supervise

import (
	"context"
	"errors"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/schemas"
)

// Config says what to keep running. A zero limit becomes its default.
type Config struct {
	Command  func() *exec.Cmd                 // a new one for each start; its input and output are the supervisor's
	Hello    func(device string) (any, error) // what the child is to run; device is what it ran on before, "" at first
	Progress func(done, total int64)          // of the first start; may be nil
	Log      zerolog.Logger

	SilenceMax     time.Duration // without a sign of life it is killed. Default 15 s
	StopTimeMax    time.Duration // to end, before it is killed. Default 10 s
	BackoffMin     time.Duration // before the first restart; four times as long before each further one. Default 100 ms
	BackoffMax     time.Duration // Default 1 min
	StableAfter    time.Duration // a child that has lived so long begins with BackoffMin again. Default 1 min
	FailuresMax    int           // within FailuresWithin; that many are an illness. Default 5
	FailuresWithin time.Duration // Default 10 min
}

// SilenceMaxDefault is a Config's SilenceMax.
const SilenceMaxDefault = 15 * time.Second

func (c Config) withDefaults() Config {
	for d, otherwise := range map[*time.Duration]time.Duration{&c.SilenceMax: SilenceMaxDefault, &c.StopTimeMax: 10 * time.Second, &c.BackoffMin: 100 * time.Millisecond,
		&c.BackoffMax: time.Minute, &c.StableAfter: time.Minute, &c.FailuresWithin: 10 * time.Minute} {
		if *d == 0 {
			*d = otherwise
		}
	}
	if c.FailuresMax == 0 {
		c.FailuresMax = 5
	}
	return c
}

// Why a child ended, as metrics name it.
const (
	reasonExit       = "exit"        // by itself, with a code
	reasonSignal     = "signal"      // somebody else's, or a crash in a library
	reasonDeviceLost = "device_lost" // it said so
	reasonError      = "error"       // it said so; of another kind, as while it starts
	reasonSilent     = "silent"      // it gave no sign of life and was killed
	reasonStart      = "start"       // it could not be started at all
)

var reasons = []string{reasonExit, reasonSignal, reasonDeviceLost, reasonError, reasonSilent, reasonStart}

// failure is how a child ended that was not told to.
type failure struct {
	reason string
	err    *schemas.Error
}

// Supervisor keeps a child running.
type Supervisor struct {
	cfg     Config
	first   chan error // of the first start: nil when it is ready
	stop    chan struct{}
	once    sync.Once
	stopped chan struct{}

	mu       sync.Mutex
	pid      int // 0 while there is none
	up       bool
	ended    bool
	device   string
	since    time.Time // of up, or of its end
	restarts map[string]uint64
	failures []time.Time // within FailuresWithin
	last     *schemas.Error
}

// Start runs the first child and returns when it is ready, or with the reason why it is not; that one is not started again.
func Start(ctx context.Context, cfg Config) (*Supervisor, error) {
	s := &Supervisor{cfg: cfg.withDefaults(), first: make(chan error, 1), stop: make(chan struct{}), stopped: make(chan struct{}),
		since: time.Now(), restarts: map[string]uint64{}}
	go s.run()
	var err error
	select {
	case err = <-s.first:
	case <-ctx.Done():
		err = schemas.AsError(ctx.Err(), "start")
	}
	if err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// Stop lets the child end, within StopTimeMax, and returns when it has.
func (s *Supervisor) Stop() {
	s.once.Do(func() { close(s.stop) })
	<-s.stopped
}

// run starts children until it is told to stop. It keeps its thread, with which the system ends the child.
func (s *Supervisor) run() {
	runtime.LockOSThread()
	defer close(s.stopped)
	for attempt := 1; ; attempt++ {
		began := time.Now()
		f := s.live()
		if f == nil {
			s.end()
			return
		}
		first := s.failed(f)
		if first {
			s.end()
			s.first <- f.err
			return
		}
		if time.Since(began) > s.cfg.StableAfter {
			attempt = 1
		}
		pause := s.backoff(attempt)
		s.cfg.Log.Error().Err(f.err).Str("reason", f.reason).Dur("pause_ms", pause).Msg("the replica's process has ended; it is started again")
		select {
		case <-time.After(pause):
		case <-s.stop:
			s.end()
			return
		}
	}
}

func (s *Supervisor) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended, s.up, s.pid = true, false, 0
}

// failed counts a failure, and reports whether it was of a first start.
func (s *Supervisor) failed(f *failure) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	s.up, s.pid, s.last, s.since = false, 0, f.err, now
	if s.device == "" { // it has never been ready
		return true
	}
	s.restarts[f.reason]++
	s.failures = append(s.recent(now), now)
	return false
}

// recent are the failures that count. The lock is held.
func (s *Supervisor) recent(now time.Time) []time.Time {
	for len(s.failures) > 0 && now.Sub(s.failures[0]) > s.cfg.FailuresWithin {
		s.failures = s.failures[1:]
	}
	return s.failures
}

// backoff is how long to wait after so many failures in a row.
func (s *Supervisor) backoff(attempt int) time.Duration {
	pause := s.cfg.BackoffMin
	for range attempt - 1 {
		if pause *= 4; pause >= s.cfg.BackoffMax {
			return s.cfg.BackoffMax
		}
	}
	return pause
}

// Health says why the child fails again and again, nil while it does not.
func (s *Supervisor) Health() *schemas.Error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.recent(time.Now()))
	if n < s.cfg.FailuresMax {
		return nil
	}
	e := schemas.Errorf(schemas.KindUnavailable, "supervise", "the replica's process has failed %d times within %s, the last time: %s", n, s.cfg.FailuresWithin, s.last.Detail)
	return e.WithHint("it is still tried every %s; the log has what the process said", s.cfg.BackoffMax)
}

// Coming says what is done about a child that is not there, "" if nobody should wait for it.
func (s *Supervisor) Coming() string {
	ill := s.Health()
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.ended || ill != nil && !s.up:
		return ""
	case s.up || s.last == nil:
		return "it has just started"
	}
	return "it is started again since " + time.Since(s.since).Round(100*time.Millisecond).String() + ": " + s.last.Detail
}

// PID is the child's process, 0 while there is none.
func (s *Supervisor) PID() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid
}

// Restarts counts the children that ended and were started again.
func (s *Supervisor) Restarts() (n uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, of := range s.restarts {
		n += of
	}
	return n
}

// failureOf tells how a process ended, by what it said or else by its exit.
func failureOf(said *schemas.Error, exit error) *failure {
	var status *exec.ExitError
	switch {
	case said != nil && said.Kind == schemas.KindDeviceLost:
		return &failure{reasonDeviceLost, said}
	case said != nil:
		return &failure{reasonError, said}
	case errors.As(exit, &status) && status.ExitCode() < 0:
		return &failure{reasonSignal, schemas.Errorf(schemas.KindUnavailable, "supervise", "the process ended by a signal (%v)", exit).
			WithHint("signal: killed is the system's when memory runs out, or somebody's; others are crashes, and the log has their stack")}
	case exit != nil:
		return &failure{reasonExit, schemas.Errorf(schemas.KindUnavailable, "supervise", "the process ended: %v", exit)}
	}
	return &failure{reasonExit, schemas.Errorf(schemas.KindUnavailable, "supervise", "the process ended by itself")}
}
