package scheduler

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	// outboxRowsMax bounds the tokens waiting for one tokenizer. It is hours of a stalled one.
	outboxRowsMax = 1 << 20
	tickEvery     = 100 * time.Millisecond
	// recoveryPause is how long the actor waits before it tries again after a lost step, so that a broken
	// peer is not hammered.
	recoveryPause = 50 * time.Millisecond
)

// Actor is the scheduler's shell: it decodes, steps the core and performs the effects. It shares an inline
// group with memory and compute, so in one process a step's messages are function calls.
type Actor struct {
	core    *Core
	actor   *bus.Actor
	node    *bus.Node
	group   *bus.Group
	memory  *bus.Ref[schemas.ReserveRequest, schemas.ReserveReply]
	compute *bus.Ref[schemas.StepPlan, schemas.PlanReply]
	self    *bus.Ref[schemas.CancelRequest, schemas.CancelReply]
	log     zerolog.Logger
	start   time.Time

	// Owned by the group's turn.
	outboxes *bus.Outboxes[Emission]
	ledger   schemas.Ledger
	host     hostTime
	called   time.Time                  // when the latest measured call of memory or compute ended
	accounts map[schemas.SeqID]*account // whose time is followed
	again    repeatedCheckpoint
	early    earlyResults

	stop    chan struct{}
	stopped sync.WaitGroup

	launcher   *launcher       // nil: compute is on this node
	asking     context.Context // ends when the actor stops: nothing is planned any more, nobody waits for policies in other processes
	stopAsking context.CancelFunc
	warned     time.Time // when a policy's failure was last logged as a warning
}

// New prepares the scheduler of a replica: cfg.Replica names it, its memory and its compute.
func New(node *bus.Node, group *bus.Group, cfg Config, log zerolog.Logger) (*Actor, error) {
	began := time.Now()
	if cfg.Stopwatch == nil {
		cfg.Stopwatch = func() int64 { return time.Since(began).Nanoseconds() }
	}
	core, err := NewCore(cfg, schemas.Epoch(began.UnixNano()))
	if err != nil {
		return nil, err
	}
	if cfg.Shadow != "" {
		p, err := PolicyByName(cfg.Shadow)
		if err != nil {
			return nil, schemas.AsError(err, "shadow").WithParam("shadow")
		}
		core.Shadow(began.UnixNano(), p)
	}
	a := &Actor{core: core, node: node, group: group, log: log.With().Str("actor", "scheduler."+string(cfg.Replica)).Logger(),
		memory:  bus.NewRef(node, schemas.Reserve, cfg.Replica),
		compute: bus.NewRef(node, schemas.Execute, cfg.Replica),
		self:    bus.NewRef(node, schemas.CancelSeqs, cfg.Replica),
		start:   began, accounts: map[schemas.SeqID]*account{},
		stop: make(chan struct{})}
	a.asking, a.stopAsking = context.WithCancel(context.Background())
	a.outboxes = bus.NewOutboxes(outboxRowsMax, a.sender)
	a.actor = bus.NewActor(node, "scheduler", cfg.Replica, "Decides what runs in the next step.")
	bus.Handle(a.actor, schemas.Submit, group, a.submit)
	bus.Handle(a.actor, schemas.CancelSeqs, group, a.cancel)
	bus.Handle(a.actor, schemas.StepDone, group, a.stepDone)
	bus.Handle(a.actor, schemas.Engine, group, func(context.Context, *schemas.InfoRequest) (*schemas.EngineInfo, error) {
		return a.core.Info(), nil
	})
	bus.Handle(a.actor, schemas.SchedulerInfo, group, func(context.Context, *schemas.InfoRequest) (*schemas.SchedulerState, error) {
		st := a.core.State(a.now())
		st.Ledger = a.ledger
		return st, nil
	})
	bus.Handle(a.actor, schemas.Policy, group, a.policy)
	bus.Handle(a.actor, schemas.Shadow, group, a.shadow)
	bus.Handle(a.actor, schemas.Checkpoint, group, a.checkpoint)
	bus.HandleTry(a.actor, group, a.trials(), a.ailments)
	a.actor.JournalsItself()
	return a, nil
}

// Start makes the scheduler reachable and starts its clock.
func (a *Actor) Start() error {
	if ahead := a.core.cfg.PlansAhead; ahead > 0 {
		var err error
		if a.launcher, err = newLauncher(a, ahead); err != nil {
			return err
		}
	}
	if err := a.actor.Start(); err != nil {
		a.closeLauncher()
		return err
	}
	var first Event = More{} // memory hears of the epoch: what it learns from now on, it keeps
	if a.node.Journaling() { // whoever records from the start has a place to replay from
		first = CheckpointWanted{}
	}
	bus.Run(a.group, a.actor, func(ctx context.Context) { a.step(ctx, first) })
	a.stopped.Add(1)
	go a.tick()
	return nil
}

func (a *Actor) closeLauncher() {
	if a.launcher != nil {
		a.launcher.pipeline.Close()
	}
}

// Stop ends the clock and the outboxes. Sequences that still run are abandoned; drain first.
func (a *Actor) Stop() {
	close(a.stop)
	a.stopAsking()
	a.stopped.Wait()
	a.closeLauncher()
	a.actor.Stop()
	a.outboxes.Close()
}

// now is unix nanoseconds, monotonic within the process.
func (a *Actor) now() int64 { return a.unix(time.Now()) }

// unix is what now was at a time of this process.
func (a *Actor) unix(t time.Time) int64 { return a.start.Add(t.Sub(a.start)).UnixNano() }

func (a *Actor) submit(ctx context.Context, req *schemas.SubmitRequest) (*schemas.SubmitReply, error) {
	fx := a.step(ctx, Submitted{req})
	if fx.Refused != nil {
		return nil, fx.Refused
	}
	return fx.Accepted, nil
}

func (a *Actor) cancel(ctx context.Context, req *schemas.CancelRequest) (*schemas.CancelReply, error) {
	fx := a.step(ctx, Cancelled{req})
	if fx.Refused != nil {
		return nil, fx.Refused
	}
	return &schemas.CancelReply{Cancelled: fx.Cancelled}, nil
}

func (a *Actor) stepDone(ctx context.Context, r *schemas.StepResult) (*schemas.Ack, error) {
	if err := a.early.refuse(r, a.core.missing(r), time.Now()); err != nil {
		return nil, err
	}
	a.ledger.Add(r.Ledger)
	a.step(ctx, Done{r})
	return &schemas.Ack{}, nil
}

func (a *Actor) checkpoint(ctx context.Context, req *schemas.CheckpointRequest) (*schemas.CheckpointReply, error) {
	p := a.step(ctx, CheckpointWanted{}).Checkpoint
	a.again.made(req, time.Now(), a.node.JournalBytes())
	return &schemas.CheckpointReply{Epoch: p.Epoch, NowNs: a.now(), Seqs: int32(len(p.Seqs))}, nil
}

// repeatedCheckpoint says when the next checkpoint is due that nobody asks for.
type repeatedCheckpoint struct {
	every      time.Duration
	everyBytes int64
	last       time.Time
	lastBytes  int64
}

func (r *repeatedCheckpoint) made(req *schemas.CheckpointRequest, now time.Time, journalBytes int64) {
	if req.EveryMs > 0 || req.EveryBytes > 0 {
		r.every, r.everyBytes = time.Duration(min(max(req.EveryMs, 0), math.MaxInt64/1_000_000))*time.Millisecond, max(req.EveryBytes, 0)
	}
	r.last, r.lastBytes = now, journalBytes
}

func (r *repeatedCheckpoint) due(now time.Time, journalBytes int64) bool {
	return r.every > 0 && now.Sub(r.last) >= r.every || r.everyBytes > 0 && journalBytes-r.lastBytes >= r.everyBytes
}

// step gives the core an event, carries out what follows until the pipeline is full, and only then
// hands on tokens: the device never waits for anybody's text. It returns the effects of the event itself.
func (a *Actor) step(ctx context.Context, event Event) Effects {
	// The caller may give up; memory and compute must not see half a step because of it.
	ctx = context.WithoutCancel(ctx)
	began, host := time.Now(), a.host
	if len(a.accounts) > 0 {
		a.beginStep(event, a.now())
	}
	fx := a.advance(event)
	if s, is := event.(Submitted); is && s.Request.Ledger && fx.Accepted != nil {
		a.follow(s.Request, a.unix(began))
	}
	first := fx
	emit, questions := fx.Emit, fx.later()
	for (fx.Reserve != nil || fx.Execute != nil || fx.waits()) && a.asking.Err() == nil {
		switch {
		case fx.Reserve != nil:
			event = a.reserve(ctx, fx.Reserve)
		case fx.Execute != nil:
			event = a.execute(ctx, fx.Execute)
		default:
			event = Ranked{Ask(ctx, a.node.Conn(), fx.Rank)}
		}
		fx = a.advance(event)
		emit, questions = append(emit, fx.Emit...), append(questions, fx.later()...)
	}
	for _, q := range questions { // the device has its work
		a.askPolicy(q)
	}
	if first.Repeat != nil {
		if _, err := a.compute.Call(ctx, first.Repeat); err != nil {
			a.log.Warn().Err(err).Uint64("step", uint64(first.Repeat.Step)).Msg("a step's result is late, and compute does not take its plan again")
		}
	}
	planned := time.Since(began)
	a.hand(emit)
	l, memory, launch := &a.ledger, a.host.memory-host.memory, a.host.launch-host.launch
	serialize, wire := a.host.serialize-host.serialize, a.host.bus-host.bus
	l.Memory, l.Launch, l.Serialize, l.Bus = l.Memory+memory, l.Launch+launch, l.Serialize+serialize, l.Bus+wire
	l.Schedule += planned.Nanoseconds() - memory - launch - serialize - wire
	l.Emit += (time.Since(began) - planned).Nanoseconds()
	return first
}

// advance steps the core, and says so if that cost a step.
func (a *Actor) advance(event Event) Effects {
	now := a.now()
	fx := a.core.Step(now, event)
	if a.node.Journaling() {
		a.node.Journal(schemas.JournalEntry{Actor: a.actor.Name(), Scheduler: JournalOf(now, event, &fx)})
	}
	if len(a.accounts) > 0 && (fx.Lost != nil || fx.Checkpoint != nil) {
		a.forgetSteps(now)
	}
	if fx.Lost != nil {
		what := "a step is lost; running sequences are recomputed"
		if fx.Lost.Kind == schemas.KindDeviceLost {
			what = "a step is lost, and the device with it; all sequences end"
		}
		a.log.Error().Err(fx.Lost).Msg(what)
	}
	a.tell(&fx)
	return fx
}

func (a *Actor) reserve(ctx context.Context, req *schemas.ReserveRequest) Event {
	reply, err := timed(ctx, a, a.memory, req, &a.host.memory)
	if err != nil {
		return lost(err)
	}
	return Granted{reply}
}

func (a *Actor) execute(ctx context.Context, plan *schemas.StepPlan) Event {
	if a.launcher != nil {
		return a.launcher.put(plan)
	}
	if _, err := timed(ctx, a, a.compute, plan, &a.host.launch); err != nil {
		return lost(err)
	}
	a.launchedPlan(plan)
	return More{}
}

func lost(err error) Event {
	time.Sleep(recoveryPause)
	return Lost{schemas.AsError(err, "step")}
}

// hand gives tokens to the outboxes of their tokenizers.
func (a *Actor) hand(rows []Emission) {
	for _, e := range rows {
		if len(a.accounts) > 0 {
			e.Ledger = a.ledgerOf(&e, a.now())
		}
		if !a.outboxes.Put(e.Tokenizer, e) {
			a.log.Error().Str("tokenizer", string(e.Tokenizer)).Stringer("seq", e.Seq).Msg("a token was dropped: the tokenizer does not keep up")
		}
	}
}

// sender delivers batches to one tokenizer.
func (a *Actor) sender(tokenizer schemas.Instance) func([]Emission) {
	ref := bus.NewRef(a.node, schemas.Tokens, tokenizer)
	number := uint64(0)
	return func(rows []Emission) {
		number++
		batch := a.batch(rows)
		batch.Number = number
		ack, err := ref.Call(context.Background(), batch)
		gone := batch.Seq
		if err != nil {
			a.log.Error().Err(err).Str("tokenizer", string(tokenizer)).Int("rows", len(rows)).Msg("tokens could not be delivered; their sequences are cancelled")
		} else {
			gone = ack.Forgotten
		}
		if len(gone) == 0 {
			return
		}
		if _, err := a.self.Call(context.Background(), &schemas.CancelRequest{Seq: gone, Finish: schemas.FinishCancel}); err != nil {
			a.log.Warn().Err(err).Msg("sequences that nobody listens to could not be cancelled")
		}
	}
}

func (a *Actor) batch(rows []Emission) *schemas.TokenBatch {
	b := &schemas.TokenBatch{From: a.actor.Instance()}
	n := len(rows)
	b.Seq, b.Index, b.Token = make(schemas.U64, n), make(schemas.I32, n), make(schemas.I32, n)
	b.Finish, b.Cached = make(schemas.U8, n), make(schemas.I32, n)
	for i, e := range rows {
		b.Seq[i], b.Index[i], b.Token[i] = uint64(e.Seq), e.Index, e.Token
		b.Finish[i], b.Cached[i] = byte(e.Finish), e.Cached
		if e.Err != nil {
			b.Errors = append(b.Errors, schemas.SeqError{Seq: e.Seq, Error: *e.Err})
		}
		if e.Ledger != nil {
			e.Ledger.Row = int32(i)
			b.Ledgers = append(b.Ledgers, *e.Ledger)
		}
		for _, l := range e.Logprobs {
			l.Row = int32(i)
			b.Logprobs = append(b.Logprobs, l)
		}
		if e.Embedding != nil {
			b.Embeddings = append(b.Embeddings, schemas.Embedding{Row: int32(i), Values: e.Embedding.Values})
		}
	}
	return b
}

// tick tells the core that time passes.
func (a *Actor) tick() {
	defer a.stopped.Done()
	clock := time.NewTicker(tickEvery)
	defer clock.Stop()
	for {
		select {
		case <-clock.C:
			bus.Run(a.group, a.actor, func(ctx context.Context) {
				a.step(ctx, Tick{})
				if a.node.Journaling() && a.again.due(time.Now(), a.node.JournalBytes()) {
					a.step(ctx, CheckpointWanted{})
					a.again.made(&schemas.CheckpointRequest{}, time.Now(), a.node.JournalBytes())
				}
			})
		case <-a.stop:
			return
		}
	}
}
