package scheduler

import (
	"fmt"

	"github.com/troupe-engine/troupe/schemas"
)

// Config are a replica's limits. All are positive.
type Config struct {
	Model           string
	Replica         schemas.Instance
	Device          string
	VocabSize       int32
	ContextMax      int32 // tokens of prompt and output together
	SequencesMax    int32 // running at once: slots on the device
	WaitingMax      int32 // sequences queued, over all requests
	TokensStepMax   int32 // token budget of one step; at least SequencesMax
	BlockSize       int32 // tokens per KV block
	Blocks          int32 // KV blocks of the replica
	PipelineDepth   int32 // steps planned or running at once; 2 hides the host's work
	Policy          string
	Shadow          string      // a policy that only watches; the shell starts it
	EndTokens       schemas.I32 // the model's, for EngineInfo
	PrefixCacheOff  bool
	RecoveriesMax   int32 // lost steps in which a sequence may be, without a token between them; then it runs alone, and fails with the next
	StepTimeMaxMs   int64 // a step without a result for this long is lost; 0 waits for ever
	RecentlyDoneMax int   // finished requests remembered, so that a late repeat is not run again
	// Costs are what steps are expected to take, for policies that are CostAware; nil: nothing is known.
	Costs *schemas.StepCosts
	// PlansAhead: compute is on another node, and so many plans may be on their way there that it has not acknowledged; 0: it
	// is on this one. No decision depends on it.
	PlansAhead int
	// Stopwatch reads nanoseconds, to measure what policies cost. No decision depends on it; nil measures nothing.
	Stopwatch func() int64
}

func (c *Config) stopwatch() int64 {
	if c.Stopwatch == nil {
		return 0
	}
	return c.Stopwatch()
}

// Validate names the first field that makes no sense.
func (c *Config) Validate() error {
	if c.Costs != nil {
		if err := c.Costs.Validate(); err != nil {
			return err
		}
	}
	for _, f := range []struct {
		name  string
		value int32
	}{{"vocab_size", c.VocabSize}, {"context_max", c.ContextMax}, {"sequences_max", c.SequencesMax},
		{"waiting_max", c.WaitingMax}, {"tokens_step_max", c.TokensStepMax}, {"block_size", c.BlockSize},
		{"blocks", c.Blocks}, {"pipeline_depth", c.PipelineDepth}} {
		if f.value <= 0 {
			return schemas.Errorf(schemas.KindInvalid, "scheduler", "%s is %d; expected a positive number", f.name, f.value).WithParam(f.name)
		}
	}
	if c.TokensStepMax < c.SequencesMax {
		return schemas.Errorf(schemas.KindInvalid, "scheduler", "tokens_step_max is %d, less than sequences_max %d: a step could not hold one token of each running sequence",
			c.TokensStepMax, c.SequencesMax).WithParam("tokens_step_max")
	}
	return nil
}

// Event is something that happened to the scheduler: one of the types below.
type Event interface{ event() }

// The events.
type (
	// Submitted: a request arrived. Effects.Accepted or Effects.Refused answers it.
	Submitted struct{ Request *schemas.SubmitRequest }
	// Cancelled: sequences are to end early. Effects.Cancelled counts those that were alive.
	Cancelled struct{ Request *schemas.CancelRequest }
	// Granted is memory's answer to Effects.Reserve.
	Granted struct{ Reply *schemas.ReserveReply }
	// Done: a step finished on the device.
	Done struct{ Result *schemas.StepResult }
	// Lost: memory or compute did not take part in a step; whatever they knew is gone.
	Lost struct{ Err *schemas.Error }
	// Tick: time passed. Sequences past their deadline end, and a step whose result does not come is lost.
	Tick struct{}
	// More: nothing happened; is there another step to plan?
	More struct{}
	// PolicyChosen: the policy changes for all that is queued and running.
	PolicyChosen struct{ Policy Policy }
	// CostsGiven: steps are expected to take something else from now on.
	CostsGiven struct{ Costs *schemas.StepCosts }
	// Ranked is what became of an Effects.Rank: an answer, or why there is none.
	Ranked struct{ Outcome *schemas.RankOutcome }
	// CheckpointWanted: somebody is about to record. Effects.Checkpoint is where a replay can start.
	CheckpointWanted struct{}
)

func (Submitted) event()        {}
func (Cancelled) event()        {}
func (Granted) event()          {}
func (Done) event()             {}
func (Lost) event()             {}
func (Tick) event()             {}
func (More) event()             {}
func (PolicyChosen) event()     {}
func (CostsGiven) event()       {}
func (Ranked) event()           {}
func (CheckpointWanted) event() {}

// Effects is what the shell must do after an event, in field order.
type Effects struct {
	// Reserve asks memory; the answer must be the next event (Granted or Lost).
	Reserve *schemas.ReserveRequest
	// Execute goes to compute. Afterwards the shell asks again with More (or says Lost), until there is
	// neither Reserve nor Execute: the pipeline is then full or there is nothing to run.
	Execute *schemas.StepPlan

	// Repeat is a plan whose result is late; it goes to compute once more. One that has it acknowledges it; one that
	// was restarted takes it, finds that it lacks what came before, and says so.
	Repeat *schemas.StepPlan

	Accepted  *schemas.SubmitReply
	Refused   *schemas.Error
	Cancelled int32

	Checkpoint *schemas.SchedulerCheckpoint

	// Rank asks a policy in another process. If it is to wait, there is no Reserve, and the answer (Ranked) must be
	// the next event; otherwise Ranked may come at any time, once for each question.
	Rank *Question
	// PolicyFell says why the fallback took over from such a policy, PolicyBack that it decides again; for the log.
	PolicyFell *schemas.Error
	PolicyBack bool
	// ShadowRank asks a shadow policy in another process; its outcome goes to Core.ShadowRanked. Disagreed is a decision
	// that the shadow would have made otherwise, for the log.
	ShadowRank *Question
	Disagreed  *schemas.ShadowExample

	// Lost says why all that was in flight is given up, for the log.
	Lost *schemas.Error

	// Emit are rows for the tokenizers, to be sent after the device has been given its work.
	Emit []Emission
}

// Emission is one row of a TokenBatch and the tokenizer it goes to.
type Emission struct {
	Tokenizer schemas.Instance
	Seq       schemas.SeqID
	Index     int32 // of the token in the output
	Token     int32 // -1: none
	Finish    schemas.FinishReason
	Cached    int32
	Err       *schemas.Error

	Logprobs  []schemas.TokenLogprobs // of the token, and of the prompt; their Row is set with the batch
	Embedding *schemas.Embedding
	Ledger    *schemas.SeqLedger // set by the shell, where the request asks for it
}

// Core is the scheduler's state. It is used by one goroutine.
type Core struct {
	cfg        Config
	policy     Policy
	dynamic    Dynamic   // policy, if it is one
	external   *External // policy, if it is one
	shadow     *shadow   // a second policy that only watches, or nil
	contextMax int32     // what both the model and the KV pool allow

	epoch schemas.Epoch
	step  schemas.StepID // last number given to a reserve request

	alive   map[schemas.SeqID]*Sequence // waiting and running; looked up, never ranged over
	waiting []*Sequence                 // in order (see before); preempted ones included
	running []*Sequence                 // in order; these have slots
	slots   []schemas.Slot              // free ones; the last is taken first
	flights []*flight                   // planned steps that have not finished, oldest first
	headNs  int64                       // since when the device owes the result of flights[0]
	asked   *proposal                   // the reserve request that memory has yet to answer
	refused bool                        // memory granted nothing; it will not until something happens

	release  []*Sequence // ended sequences that memory has yet to hear of
	forget   bool        // memory holds blocks of an epoch that is over and has yet to hear of the new one
	arrivals uint64

	questions  uint64 // to policies in other processes
	recent     recentRequests
	emit       []Emission
	fell       *schemas.Error // why the current event made the external policy's fallback take over
	back       bool           // the current event brought the external policy back
	shadowRank *Question      // of the current event
	disagreed  *schemas.ShadowExample
	lostBy     *schemas.Error // what made the current event give up what was in flight
	deviceLost *schemas.Error // the device can no longer be used: nothing is planned, nothing is taken
	quarantine bool           // sequences that one more lost step would end run alone, one step at a time
	guilty     int32          // requests that were found to break steps since the last token of any sequence
	now        int64          // nanoseconds, of the current event

	count counters
}

type counters struct {
	finished, preemptions, tokens, prefilled, cached, discarded, overloads, stepErrors uint64
}

// Sequence is one choice of a request on its way through the engine. Policies read it.
type Sequence struct {
	id        schemas.SeqID
	request   *schemas.SubmitRequest
	arrival   uint64 // order of arrival, unique
	arrivedNs int64
	maxTokens int32 // output limit, within the context

	output   []int32 // tokens the host knows
	pending  int32   // samples planned whose tokens the host does not know yet
	inFlight int32   // planned steps, not finished, that have a row of this sequence
	planned  int32   // tokens whose KV exists or is planned
	slot     schemas.Slot
	onDevice bool  // LastToken[slot] is the token at position planned, once the planned steps have run
	admitted bool  // memory knows the sequence
	learned  int32 // output tokens that memory knows
	cached   int32 // prompt tokens taken over at the first grant
	started  bool  // had a first grant
	ended    bool

	promptLogprobs *schemas.TokenLogprobs // as far as computed; nil if nobody asked, or once they went out

	key     int64 // the policy's; queues are in the order of (key, arrival)
	note    int64 // the policy's own
	rank    int32 // in the last order of an external policy, or unranked
	reached int32 // tokens that were computed or planned at any time

	startedNs int64 // of the first grant
	finish    schemas.FinishReason

	parent      *Sequence // choice 0 of the same request, whose prompt blocks this one shares; nil for choice 0
	preemptions int32
	recoveries  int32 // lost steps that it was in since its last token
}

const noSlot schemas.Slot = -1

// known counts the tokens whose ids the host has.
func (s *Sequence) known() int32 { return int32(len(s.request.Tokens) + len(s.output)) }

// total counts the tokens that exist: known ones and those the device is about to sample.
func (s *Sequence) total() int32 { return s.known() + s.pending }

// want is how many more tokens must be computed before the next sample; 0 when the sequence has
// sampled all it may.
func (s *Sequence) want() int32 {
	if s.total()-s.PromptTokens() >= s.maxTokens {
		return 0
	}
	return s.total() - s.planned
}

// appendTokens appends the ids at positions from to end to dst; end is at most known().
func (s *Sequence) appendTokens(dst []int32, from, end int32) []int32 {
	n := s.PromptTokens()
	if from < n {
		dst = append(dst, s.request.Tokens[from:min(end, n)]...)
	}
	if from = max(from, n); from < end {
		dst = append(dst, s.output[from-n:end-n]...)
	}
	return dst
}

// NewCore makes an idle scheduler. epoch must differ from those of earlier schedulers that used the
// same memory and compute.
func NewCore(cfg Config, epoch schemas.Epoch) (*Core, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	policy, err := PolicyByName(cfg.Policy)
	if err != nil {
		return nil, err
	}
	c := &Core{cfg: cfg, epoch: epoch, forget: true, alive: map[schemas.SeqID]*Sequence{},
		contextMax: int32(min(int64(cfg.ContextMax), int64(cfg.Blocks)*int64(cfg.BlockSize)))}
	c.recent.max = cfg.RecentlyDoneMax
	c.freeAllSlots()
	c.setPolicy(policy)
	return c, nil
}

// Step applies an event that happened at nowNs and says what to do about it.
func (c *Core) Step(nowNs int64, event Event) Effects {
	c.now = nowNs
	var fx Effects
	switch event.(type) {
	case Granted, More:
	default:
		c.refused = false
	}
	c.unanswered(event)
	switch e := event.(type) {
	case Submitted:
		fx.Accepted, fx.Refused = c.submit(e.Request)
	case Cancelled:
		fx.Cancelled, fx.Refused = c.cancel(e.Request)
	case Granted:
		fx.Execute = c.granted(e.Reply)
	case Done:
		c.done(e.Result)
	case Lost:
		c.lost(e.Err)
	case Tick:
		c.expire()
		fx.Repeat = c.watch()
	case More:
	case PolicyChosen:
		c.setPolicy(e.Policy)
	case CostsGiven:
		c.costsGiven(e.Costs)
	case Ranked:
		c.ranked(e.Outcome)
	case CheckpointWanted:
		fx.Checkpoint = c.checkpoint()
	default:
		panic(fmt.Sprintf("scheduler: unknown event %T", event))
	}
	if fx.Execute == nil {
		if fx.Rank = c.askFirst(); fx.Rank == nil {
			fx.Reserve = c.propose()
		}
	}
	if fx.Rank == nil {
		fx.Rank = c.askAhead()
	}
	fx.Emit, c.emit = c.emit, nil
	fx.ShadowRank, fx.Disagreed, c.shadowRank, c.disagreed = c.shadowRank, c.disagreed, nil, nil
	fx.PolicyFell, fx.PolicyBack, c.fell, c.back = c.fell, c.back, nil, false
	fx.Lost, c.lostBy = c.lostBy, nil
	return fx
}

// recentRequests remembers the last max requests that ended.
type recentRequests struct {
	max  int
	ring []schemas.RequestID
	next int
	set  map[schemas.RequestID]struct{}
}

func (r *recentRequests) add(id schemas.RequestID) {
	if r.max == 0 || r.has(id) {
		return
	}
	if r.set == nil {
		r.set = map[schemas.RequestID]struct{}{}
	}
	if len(r.ring) < r.max {
		r.ring = append(r.ring, id)
	} else {
		delete(r.set, r.ring[r.next])
		r.ring[r.next] = id
		r.next = (r.next + 1) % r.max
	}
	r.set[id] = struct{}{}
}

func (r *recentRequests) has(id schemas.RequestID) bool {
	_, ok := r.set[id]
	return ok
}
