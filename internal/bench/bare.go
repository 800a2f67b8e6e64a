package bench

import (
	"time"

	"github.com/troupe-engine/troupe/actors/memory"
	"github.com/troupe-engine/troupe/actors/scheduler"
)

// bare runs the cores without a bus: what the same engine costs when its parts call each other's functions
// and only the device has a goroutine of its own.
type bare struct {
	scheduler *scheduler.Core
	memory    *memory.Core
	device    *device
	sink      *sink
	failed    error
}

// runBare decodes the load and returns when all of it is done.
func runBare(l *stepLoad) error {
	b := &bare{device: l.device, sink: l.sink}
	var err error
	if b.scheduler, err = scheduler.NewCore(l.schedulerConfig(), 1); err != nil {
		return err
	}
	if b.memory, err = memory.NewCore(l.memoryConfig()); err != nil {
		return err
	}
	go b.device.run()
	defer func() {
		close(b.device.queue)
		for range b.device.results { // until the device has stopped
		}
	}()
	for _, request := range l.requests() {
		b.step(scheduler.Submitted{Request: request})
	}
	timeout := time.After(l.timeout())
	for b.failed == nil {
		select {
		case result := <-b.device.results:
			l.ledger.Add(result.Ledger)
			b.step(scheduler.Done{Result: result})
		case err := <-b.sink.done:
			return err
		case <-timeout:
			return l.stuck()
		}
	}
	return b.failed
}

// step is scheduler.Actor's, with calls in place of messages.
func (b *bare) step(event scheduler.Event) {
	fx := b.scheduler.Step(time.Now().UnixNano(), event)
	emit := fx.Emit
	for fx.Reserve != nil || fx.Execute != nil {
		if fx.Reserve != nil {
			reply, err := b.memory.Reserve(fx.Reserve)
			if err != nil {
				b.failed = err
				return
			}
			fx = b.scheduler.Step(time.Now().UnixNano(), scheduler.Granted{Reply: reply})
		} else {
			b.device.queue <- fx.Execute
			fx = b.scheduler.Step(time.Now().UnixNano(), scheduler.More{})
		}
		emit = append(emit, fx.Emit...)
	}
	for _, e := range emit {
		b.sink.row(e.Seq, e.Index, e.Token, e.Finish)
	}
}
