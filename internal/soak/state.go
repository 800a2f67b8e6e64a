package soak

import (
	"context"
	"fmt"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// State is what the actors of a single-node engine say of themselves.
type State struct {
	Gateway   schemas.GatewayState
	Tokenizer schemas.TokenizerState
	Scheduler schemas.SchedulerState
	Memory    schemas.MemoryState
	Compute   schemas.ComputeState
}

// State asks all actors. With several instances of a service on the bus, one of them answers.
func (c *Client) State(ctx context.Context) (*State, error) {
	s := &State{}
	for _, q := range []struct {
		service string
		reply   any
	}{{"gateway", &s.Gateway}, {"scheduler", &s.Scheduler}, {"memory", &s.Memory}, {"compute", &s.Compute}, {"tokenizer", &s.Tokenizer}} {
		if err := c.ask(ctx, schemas.SubjectPrefix+q.service+".state", []byte("{}"), q.reply); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Consistent is what must hold at any time.
func (s *State) Consistent() error {
	m := &s.Memory
	switch {
	case m.Free < 0 || m.Cached < 0 || m.Used < 0 || m.Free+m.Cached+m.Used != m.Total:
		return fmt.Errorf("KV blocks: %d free, %d cached and %d used are not %d", m.Free, m.Cached, m.Used, m.Total)
	case s.Gateway.Started < s.Gateway.Finished:
		return fmt.Errorf("gateway: %d requests finished of %d", s.Gateway.Finished, s.Gateway.Started)
	case s.Gateway.Running > s.Gateway.RunningMax:
		return fmt.Errorf("gateway: %d requests run, the limit is %d", s.Gateway.Running, s.Gateway.RunningMax)
	}
	return nil
}

// Quiet is what must hold when no request runs. The error names what is left.
func (s *State) Quiet() error {
	if err := s.Consistent(); err != nil {
		return err
	}
	for _, left := range []struct {
		what  string
		count int64
	}{{"requests in the gateway", int64(s.Gateway.Running)}, {"tokenizer sessions", int64(s.Tokenizer.Sessions)},
		{"waiting sequences", int64(s.Scheduler.Waiting)}, {"running sequences", int64(s.Scheduler.Running)},
		{"steps in flight", int64(s.Scheduler.InFlight)}, {"steps queued on the device", int64(s.Compute.Queued)},
		{"used KV blocks", int64(s.Memory.Used)}, {"sequences in memory", int64(s.Memory.Seqs)},
		{"unfinished requests", int64(s.Gateway.Started - s.Gateway.Finished)}} {
		if left.count != 0 {
			return fmt.Errorf("%d %s are left", left.count, left.what)
		}
	}
	return nil
}

// WaitQuiet returns the state once nothing runs, or why that does not come to be before ctx ends.
func (c *Client) WaitQuiet(ctx context.Context) (*State, error) {
	var last error
	for {
		s, err := c.State(ctx)
		if err == nil {
			if last = s.Quiet(); last == nil {
				return s, nil
			}
		} else if last == nil {
			last = err
		}
		select {
		case <-ctx.Done():
			return s, fmt.Errorf("soak: the engine does not come to rest: %w", last)
		case <-time.After(10 * time.Millisecond):
		}
	}
}
