package troupe

import (
	"errors"
	"io"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// lostCloseTimeMax is how long a device that is lost may take to be released: its driver may hang.
const lostCloseTimeMax = 5 * time.Second

// lostTellTime is what the errors of a lost device get to overtake the news that its node leaves: they tell which requests
// were in the step.
const lostTellTime = 200 * time.Millisecond

// Failed delivers why the engine cannot go on by itself: its device is lost (KindDeviceLost), or its HTTP server has
// ended. Requests have been told; Drain and Close what is left, and let the process be replaced.
func (e *Engine) Failed() <-chan error { return e.failed }

// health says why the process should be replaced, or nil.
func (e *Engine) health() *schemas.Error {
	if p := e.isolated.process.Load(); p != nil {
		return p.Health()
	}
	return e.failure.Load()
}

// loseDevice is told, by the computation manager, that the device can no longer be used.
func (e *Engine) loseDevice(why *schemas.Error) { e.lost <- why }

// watchDevice does what is to be done about a lost device, once.
func (e *Engine) watchDevice() {
	select {
	case why := <-e.lost:
		e.fail(why)
	case <-e.closed:
	}
}

// fail ends the running requests with the reason or, in a cluster, lets them go on elsewhere.
func (e *Engine) fail(why *schemas.Error) {
	e.failure.Store(why)
	e.log.Error().Err(why).Msg("the device is lost: this process cannot compute any more")
	if e.member != nil {
		time.Sleep(lostTellTime)
		e.member.Leave()
	} else if e.gateway != nil {
		e.gateway.Fail(why)
	}
	e.failed <- why
}

// closeDevice closes what runs on the device; with a lost one it does not wait for ever.
func (e *Engine) closeDevice(what io.Closer) error {
	if e.failure.Load() == nil {
		return what.Close()
	}
	done := make(chan error, 1)
	go func() { done <- what.Close() }()
	select {
	case err := <-done:
		return err
	case <-time.After(lostCloseTimeMax):
		return errors.New("the lost device is not released")
	}
}
