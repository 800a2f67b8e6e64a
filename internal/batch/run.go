package batch

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// Config says what to do. Zero values become the defaults.
type Config struct {
	Input, Output string
	Ordered       bool // answers in the order of the input, not as they come
	RetryFailed   bool // ask again what failed in an earlier run
	Window        int  // requests at once; default: what fills the engine's batch

	LineBytesMax   int           // of the input; longer lines fail. Default 8 MiB
	Patience       time.Duration // with an engine that does not answer at all. Default 2 min
	RequestTimeMax time.Duration // for one answer. Default 35 min, more than an engine gives itself

	Progress      func(Progress) // called now and then, never at once; may be nil
	ProgressEvery time.Duration  // default 500 ms

	inFlightBytesMax int // tests make it small
}

// Defaults and limits.
const (
	LineBytesDefault   = 8 << 20
	PatienceDefault    = 2 * time.Minute
	RequestTimeDefault = 35 * time.Minute

	WindowDefault = 64 // for an engine that does not tell its limits
	WindowMax     = 4096
	progressEvery = 500 * time.Millisecond
	infoTimeMax   = 5 * time.Second

	// bytesInFlightMax bounds the requests in memory, as long as there is more than one.
	bytesInFlightMax = 64 << 20
	// aheadMax is how many windows of answers may wait for an earlier one, in order.
	aheadMax = 4
)

func (c *Config) withDefaults() Config {
	d := *c
	if d.LineBytesMax == 0 {
		d.LineBytesMax = LineBytesDefault
	}
	if d.Patience == 0 {
		d.Patience = PatienceDefault
	}
	if d.RequestTimeMax == 0 {
		d.RequestTimeMax = RequestTimeDefault
	}
	if d.inFlightBytesMax == 0 {
		d.inFlightBytesMax = bytesInFlightMax
	}
	if d.ProgressEvery == 0 {
		d.ProgressEvery = progressEvery
	}
	return d
}

func (c *Config) validate() error {
	switch {
	case c.Input == "" || c.Output == "":
		return invalid("output", "an input and an output are needed")
	case c.Window < 0 || c.Window > WindowMax:
		return invalid("window", "window is %d; expected 1 to %d, or 0 for what the engine takes", c.Window, WindowMax)
	case c.LineBytesMax < 1 || c.LineBytesMax > responseBytesMax:
		return invalid("line-bytes-max", "line-bytes-max is %d; expected 1 to %d", c.LineBytesMax, responseBytesMax)
	case c.Patience < 0:
		return invalid("patience", "patience is %s; expected a positive duration such as 2m", c.Patience)
	case c.RequestTimeMax < 0:
		return invalid("request-time-max", "request-time-max is %s; expected a positive duration such as 35m", c.RequestTimeMax)
	}
	return nil
}

// Batch is a batch whose files have been read and belong together.
type Batch struct {
	cfg    Config
	plan   *plan
	input  *os.File
	output *os.File
	report *reporter
}

// Open reads the input and what an earlier run has answered. It changes neither, and refuses files that do
// not belong together. Close releases them.
func Open(cfg Config) (*Batch, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	input, err := openInput(cfg.Input)
	if err != nil {
		return nil, err
	}
	output, err := openOutput(cfg.Output, input)
	if err != nil {
		_ = input.Close()
		return nil, err
	}
	p, err := newPlan(&cfg, input, output)
	if err != nil {
		_ = input.Close()
		_ = output.Close()
		return nil, err
	}
	b := &Batch{cfg: cfg, plan: p, input: input, output: output}
	p.cfg = &b.cfg
	b.report = newReporter(p)
	return b, nil
}

// Close releases the files.
func (b *Batch) Close() {
	b.plan.close()
	_ = b.input.Close()
	_ = b.output.Close()
}

// Left is how many lines are still to do.
func (b *Batch) Left() int64 { return b.plan.lines - b.plan.done }

// Run answers what is left. The summary tells what is in the output, also with an error: the run was stopped,
// the output cannot be written, or the engine is gone. Then the same batch can be opened again to go on.
func (b *Batch) Run(ctx context.Context, t Transport) (*Summary, error) {
	file, err := b.plan.prepare(b.output)
	if err != nil {
		return b.report.summary(), err
	}
	b.output = file
	b.report.start()
	if b.Left() > 0 {
		if err = b.meet(ctx, t); err == nil {
			err = newFlow(b, t).run(ctx)
		}
	}
	return b.report.summary(), err
}

// meet asks the engine how many requests keep it busy. One that is away is waited for later; one that lets
// nobody in ends the run before every line has failed.
func (b *Batch) meet(ctx context.Context, t Transport) error {
	ctx, cancel := context.WithTimeout(ctx, infoTimeMax)
	defer cancel()
	info, err := t.Info(ctx)
	if errors.Is(err, &schemas.Error{Kind: schemas.KindUnauthorized}) {
		return err
	}
	if b.cfg.Window == 0 {
		if b.cfg.Window = WindowDefault; err == nil {
			b.cfg.Window = windowFor(info)
		}
	}
	return nil
}

// windowFor is how many requests keep an engine's batch full: half a batch waits while one runs.
func windowFor(info *schemas.EngineInfo) int {
	if info.SequencesMax < 1 {
		return WindowDefault
	}
	waiting := min(max(info.SequencesMax/2, 1), max(info.WaitingMax, 1))
	return int(min(int64(info.SequencesMax)+int64(waiting), WindowMax))
}

// flow is the running part of a batch: one goroutine reads lines, one per request asks, one writes.
type flow struct {
	batch    *Batch
	asker    *asker
	sink     *sink
	ahead    chan struct{} // lines read and not yet written
	window   chan struct{} // requests at once
	outcomes chan *outcome
	asking   sync.WaitGroup
	cancel   context.CancelCauseFunc

	mu       sync.Mutex
	inFlight int           // bytes
	freed    chan struct{} // signals that inFlight shrank
}

func newFlow(b *Batch, t Transport) *flow {
	ahead := b.cfg.Window
	if b.cfg.Ordered {
		ahead *= aheadMax
	}
	return &flow{batch: b, asker: newAsker(t, &b.cfg), sink: newSink(b.output, &b.cfg), ahead: make(chan struct{}, ahead),
		window: make(chan struct{}, b.cfg.Window), outcomes: make(chan *outcome, b.cfg.Window), freed: make(chan struct{}, 1)}
}

// run returns when every line is answered and written, or with the reason why not.
func (f *flow) run(ctx context.Context) error {
	ctx, f.cancel = context.WithCancelCause(ctx)
	defer f.cancel(nil)
	go func() {
		position := int64(0)
		err := f.batch.plan.eachTask(func(t *task, failed *LineError) error {
			err := f.start(ctx, t, failed, position)
			position++
			return err
		})
		if err != nil {
			f.cancel(err)
		}
		f.asking.Wait()
		close(f.outcomes)
	}()
	err := f.write()
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if errors.Is(err, context.Canceled) {
		err = schemas.Errorf(schemas.KindCanceled, opPlan, "stopped").WithHint("the same command goes on from here")
	}
	return err
}

// start takes one line, once there is room for it.
func (f *flow) start(ctx context.Context, t *task, failed *LineError, position int64) error {
	select {
	case f.ahead <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if failed != nil {
		f.outcomes <- newOutcome(t, position, nil, failed)
		return nil
	}
	if err := f.reserve(ctx, len(t.body)); err != nil {
		return err
	}
	f.asking.Go(func() {
		select {
		case f.window <- struct{}{}:
		case <-ctx.Done():
			return
		}
		resp, failed, err := f.asker.ask(ctx, t)
		<-f.window
		if err != nil {
			f.cancel(err)
			return
		}
		f.outcomes <- newOutcome(t, position, resp, failed)
	})
	return nil
}

// reserve waits until size more bytes may be in memory. Only one goroutine calls it.
func (f *flow) reserve(ctx context.Context, size int) error {
	for {
		f.mu.Lock()
		if f.inFlight == 0 || f.inFlight+size <= f.batch.cfg.inFlightBytesMax {
			f.inFlight += size
			f.mu.Unlock()
			return nil
		}
		f.mu.Unlock()
		select {
		case <-f.freed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (f *flow) release(size int) {
	f.mu.Lock()
	f.inFlight -= size
	f.mu.Unlock()
	select {
	case f.freed <- struct{}{}:
	default:
	}
}

// write appends what comes until all is there. After an error it only drains.
func (f *flow) write() (err error) {
	ticker := time.NewTicker(f.batch.cfg.ProgressEvery)
	defer ticker.Stop()
	written := func(o *outcome) {
		f.batch.report.add(o)
		f.release(o.size)
		<-f.ahead
	}
	stop := func(failed error) {
		if err == nil && failed != nil {
			err = failed
			f.cancel(failed)
		}
	}
	for {
		select {
		case o, more := <-f.outcomes:
			if !more {
				stop(f.sink.sync(true))
				return err
			}
			if err == nil {
				stop(f.sink.put(o, written))
			}
		case <-ticker.C:
			if f.batch.cfg.Progress != nil {
				f.batch.cfg.Progress(f.batch.report.progress(time.Now(), f.asker.waiting.Load()))
			}
		}
		if err == nil {
			stop(f.sink.sync(false))
		}
	}
}
