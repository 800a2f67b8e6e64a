package schemas

// SubmitRequest hands a request to a scheduler. Repeating it is harmless: a request that is already
// known is acknowledged again.
type SubmitRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Request    RequestID      `json:"request"`
	Choices    int32          `json:"choices"` // n: sequences to sample from the one prompt
	Tokens     I32            `json:"tokens"`  // the prompt, at least one token
	MaxTokens  int32          `json:"max_tokens"`
	MinTokens  int32          `json:"min_tokens,omitempty"` // end tokens do not count before this many
	StopTokens I32            `json:"stop_tokens,omitempty"`
	Sampling   SamplingParams `json:"sampling"`
	Priority   int32          `json:"priority,omitempty"`   // lower runs earlier, as in vLLM; used by the priority policy
	DeadlineMs int64          `json:"deadline,omitempty"`   // unix milliseconds after which nobody waits; 0 is none
	Tokenizer  Instance       `json:"tokenizer"`            // receives the TokenBatches
	CacheSalt  uint64         `json:"cache_salt,omitempty"` // requests share prefix blocks only within a salt
	User       string         `json:"user,omitempty"`       // for fair sharing
	Embed      bool           `json:"embed,omitempty"`      // yields the prompt's Embedding instead of tokens
	Resume     *Resumed       `json:"resume,omitempty"`     // output that is known already: the request ran elsewhere before
	Ledger     bool           `json:"ledger,omitempty"`     // its tokens come with SeqLedgers
}

// SubmitReply acknowledges a SubmitRequest.
type SubmitReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Waiting int32 `json:"waiting"`         // sequences ahead in the queue
	Ended   bool  `json:"ended,omitempty"` // the request was known and is over: no token will come any more
}

// CancelRequest ends sequences early. Unknown sequences are not an error: they have ended already.
type CancelRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Seq    U64          `json:"seq"`
	Finish FinishReason `json:"finish"` // FinishCancel, or FinishStop when a stop string was found
}

// CancelReply counts the sequences that were still alive.
type CancelReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Cancelled int32 `json:"cancelled"`
}

// InfoRequest asks an actor to describe itself.
type InfoRequest struct {
	_msgpack struct{} `msgpack:",as_array"`
}

// EngineInfo describes the replica behind a scheduler: what it serves and its limits.
type EngineInfo struct {
	_msgpack struct{} `msgpack:",as_array"`

	Model          string   `json:"model"`
	Replica        Instance `json:"replica"`
	VocabSize      int32    `json:"vocab_size"`
	ContextMax     int32    `json:"context_max"`   // tokens, prompt and output together
	SequencesMax   int32    `json:"sequences_max"` // running at once
	WaitingMax     int32    `json:"waiting_max"`   // queued
	BlockSize      int32    `json:"block_size"`    // tokens per KV block
	Blocks         int32    `json:"blocks"`
	TokensStepMax  int32    `json:"tokens_step_max"` // token budget of a step
	Policy         string   `json:"policy"`
	Policies       []string `json:"policies"`
	Device         string   `json:"device"`
	EndTokens      I32      `json:"end_tokens"`
	PipelineDepth  int32    `json:"pipeline_depth"`
	PrefixCacheOff bool     `json:"prefix_cache_off,omitempty"`
}

// SchedulerState is a scheduler's debugging snapshot and the source of its metrics.
type SchedulerState struct {
	_msgpack struct{} `msgpack:",as_array"`

	Epoch       Epoch      `json:"epoch"`
	Step        StepID     `json:"step"` // last one planned
	InFlight    int32      `json:"in_flight"`
	Policy      string     `json:"policy"`
	Waiting     int32      `json:"waiting"`
	Running     int32      `json:"running"`
	Finished    uint64     `json:"finished"`
	Preemptions uint64     `json:"preemptions"`
	Tokens      uint64     `json:"tokens"`      // output tokens
	Prefilled   uint64     `json:"prefilled"`   // prompt tokens computed
	CachedTotal uint64     `json:"cached"`      // prompt tokens taken from the prefix cache
	Discarded   uint64     `json:"discarded"`   // tokens computed after their sequence had ended
	Ledger      Ledger     `json:"ledger"`      // sums over all steps
	Seqs        []SeqState `json:"seqs"`        // the first SeqStatesMax sequences, in queue order
	MoreSeqs    int32      `json:"more_seqs"`   // how many were left out
	Overloads   uint64     `json:"overloads"`   // requests refused because the queue was full
	StepErrors  uint64     `json:"step_errors"` // steps the device failed

	QueuedTokens int64 `json:"queued_tokens"` // known tokens of all sequences that are still to be computed
}

// SeqStatesMax bounds the sequences a SchedulerState lists.
const SeqStatesMax = 64

// SeqState is one sequence in a SchedulerState.
type SeqState struct {
	_msgpack struct{} `msgpack:",as_array"`

	Seq         SeqID  `json:"seq"`
	Phase       string `json:"phase"` // "waiting", "prefill", "decode", "preempted"
	Slot        Slot   `json:"slot"`  // -1 while not running
	Prompt      int32  `json:"prompt"`
	Output      int32  `json:"output"`
	Computed    int32  `json:"computed"` // tokens whose KV exists or is planned
	Cached      int32  `json:"cached"`
	Priority    int32  `json:"priority"`
	Preemptions int32  `json:"preemptions"`
	AgeMs       int64  `json:"age_ms"`
}

// PolicyRequest chooses the scheduling policy: a registered one, or one in another process by nats:NAME. An empty
// Name only asks which one is active.
type PolicyRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Name string `json:"name,omitempty"`
	// Costs are what steps are expected to take, for policies that make use of it; absent: as before.
	Costs *StepCosts `json:"costs,omitempty"`
}

// PolicyReply names the active policy and the choices.
type PolicyReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Active   string   `json:"active"`
	Policies []string `json:"policies"`

	Rank *RankState `json:"rank,omitempty"` // of a policy in another process

	Costs string `json:"costs,omitempty"` // the profile that says what steps are expected to take
}
