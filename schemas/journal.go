package schemas

// JournalPrefix starts the subjects on which nodes announce their journals, JournalPrefix + node: what their actors
// were told and what they decided, in the order and at the times they saw, in batches, if somebody listens. A tap
// shows single messages; a journal is enough to run an actor again.
const JournalPrefix = "journal."

// JournalVersion is the version of JournalBatch and what is in it. Fields are only ever appended. Version 2 packs entries.
const JournalVersion = 2

// JournalBatch is some successive entries of a node's journal.
type JournalBatch struct {
	_msgpack struct{} `msgpack:",as_array"`

	Version int32          `json:"version"`
	Node    NodeID         `json:"node"`
	Build   string         `json:"build"`   // version of the node's program
	Number  uint64         `json:"number"`  // of the first entry; a node counts from 1, and a gap was lost, or nobody listened
	Entries []JournalEntry `json:"entries"` // empty if they are packed
	Started int64          `json:"started"` // unix nanoseconds: a node that starts again counts from 1 again

	// Packed is the wire form of JournalEntries, compressed as one S2 block, or a part of that: entries are compressed
	// once, by the node that they are of, since all that is done to them later costs by the byte.
	Count  int32 `json:"count,omitempty"` // of packed entries; 0 in all parts but the last
	Packed U8    `json:"packed,omitempty"`
	// Part of Parts, from 0, of a batch that is larger than a message; the parts follow each other. 0 of 0 is all of it.
	Part  int32 `json:"part,omitempty"`
	Parts int32 `json:"parts,omitempty"`

	Left uint64 `json:"left,omitempty"` // entries directly before the first that a filter left out: they are no gap
}

// JournalEntries are the entries of a batch.
type JournalEntries struct {
	_msgpack struct{} `msgpack:",as_array"`

	Entries []JournalEntry `json:"entries"`
}

// JournalEntry is one event of one actor. Exactly one of the pointers is set.
type JournalEntry struct {
	_msgpack struct{} `msgpack:",as_array"`

	Actor  string `json:"actor"`   // "scheduler.replica0"
	UnixNs int64  `json:"unix_ns"` // the node's wall clock …
	MonoNs int64  `json:"mono_ns"` // … and its monotonic one, since the node started

	Scheduler *SchedulerStep `json:"scheduler,omitempty"`
	Delivery  *Delivery      `json:"delivery,omitempty"`
	Request   *ClientRequest `json:"request,omitempty"`
	Answer    *ClientAnswer  `json:"answer,omitempty"`
	Fault     *InjectedFault `json:"fault,omitempty"` // of a message to the actor, or of its reply; before what follows from it
}

// SchedulerStep is one event of a scheduler's core and its effects. Since the core asks memory and is told by
// compute, all that memory and compute are asked, and answer, is in the steps of their scheduler.
type SchedulerStep struct {
	_msgpack struct{} `msgpack:",as_array"`

	NowNs int64  `json:"now_ns"` // the event's time, as the core was told
	Event string `json:"event"`  // one of the constants below; what it carries is in the field of the same name

	Submit *SubmitRequest `json:"submit,omitempty"`
	Cancel *CancelRequest `json:"cancel,omitempty"`
	Grant  *ReserveReply  `json:"grant,omitempty"`
	Done   *StepResult    `json:"done,omitempty"`
	Lost   *Error         `json:"lost,omitempty"`
	Policy string         `json:"policy,omitempty"`

	Reserve    *ReserveRequest      `json:"reserve,omitempty"`
	Execute    *StepPlan            `json:"execute,omitempty"`
	Repeat     StepID               `json:"repeat,omitempty"` // of a plan whose result is late
	Accepted   *SubmitReply         `json:"accepted,omitempty"`
	Refused    *Error               `json:"refused,omitempty"`
	Cancelled  int32                `json:"cancelled,omitempty"`
	GaveUp     *Error               `json:"gave_up,omitempty"` // why what was in flight is lost
	Emit       *Emissions           `json:"emit,omitempty"`
	Checkpoint *SchedulerCheckpoint `json:"checkpoint,omitempty"`

	Ranked *RankOutcome `json:"ranked,omitempty"` // an event: what a policy in another process said
	Costs  *StepCosts   `json:"costs,omitempty"`  // an event: what steps are expected to take from now on
}

// The events of a SchedulerStep.
const (
	EventSubmit     = "submit"
	EventCancel     = "cancel"
	EventGrant      = "grant"
	EventDone       = "done"
	EventLost       = "lost"
	EventTick       = "tick"
	EventMore       = "more"
	EventPolicy     = "policy"
	EventCheckpoint = "checkpoint"
	EventRanked     = "ranked"
	EventCosts      = "costs"
)

// Emissions are the tokens and endings that a scheduler hands on, one per row.
type Emissions struct {
	_msgpack struct{} `msgpack:",as_array"`

	Seq    U64 `json:"seq"`
	Index  I32 `json:"index"`
	Token  I32 `json:"token"`
	Finish U8  `json:"finish"`
}

// SchedulerCheckpoint is a scheduler from which a replay can start: at the beginning of an epoch, so that nothing is in
// flight, and memory and compute know nothing.
type SchedulerCheckpoint struct {
	_msgpack struct{} `msgpack:",as_array"`

	Info            EngineInfo `json:"info"`
	ContextMax      int32      `json:"context_max"` // as configured; Info's is what the KV pool allows, too
	RecoveriesMax   int32      `json:"recoveries_max"`
	StepTimeMaxMs   int64      `json:"step_time_max_ms"`
	RecentlyDoneMax int32      `json:"recently_done_max"`

	Epoch    Epoch  `json:"epoch"`
	Step     StepID `json:"step"`             // last number given to a reserve request
	Arrivals uint64 `json:"arrivals"`         // of the next sequence
	Recent   U64    `json:"recent,omitempty"` // requests that ended lately, the oldest first

	Requests []SubmitRequest `json:"requests,omitempty"` // of the sequences
	Seqs     []SeqCheckpoint `json:"seqs,omitempty"`     // all that are alive, in policy order

	Costs *StepCosts `json:"costs,omitempty"` // that policies go by
}

// SeqCheckpoint is one sequence in a SchedulerCheckpoint.
type SeqCheckpoint struct {
	_msgpack struct{} `msgpack:",as_array"`

	Seq         SeqID  `json:"seq"`
	Request     int32  `json:"request"` // index in SchedulerCheckpoint.Requests
	Arrival     uint64 `json:"arrival"`
	ArrivedNs   int64  `json:"arrived_ns"`
	MaxTokens   int32  `json:"max_tokens"`
	Output      I32    `json:"output,omitempty"`
	Cached      int32  `json:"cached,omitempty"`
	Started     bool   `json:"started,omitempty"`
	Preemptions int32  `json:"preemptions,omitempty"`
	Recoveries  int32  `json:"recoveries,omitempty"`
	// PromptLogprobs are those that were computed before, if the request asks for them.
	PromptLogprobs *TokenLogprobs `json:"prompt_logprobs,omitempty"`
}

// CheckpointRequest makes a scheduler begin a new epoch and put a SchedulerCheckpoint into its journal: running
// sequences are recomputed from their tokens, and the prefix cache starts empty. Recorders ask for it once they listen.
type CheckpointRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	// Again after so long, or after so many bytes of the node's journal, while somebody listens: for a recording that forgets
	// its oldest entries. 0 is never; the last request counts in which one of both is not 0.
	EveryMs    int64 `json:"every_ms,omitempty"`
	EveryBytes int64 `json:"every_bytes,omitempty"`
}

// CheckpointReply says where in time the checkpoint is.
type CheckpointReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Epoch Epoch `json:"epoch"` // the new one
	NowNs int64 `json:"now_ns"`
	Seqs  int32 `json:"seqs"` // alive
}

// Delivery is a message that an actor got, or its reply, as on the wire.
type Delivery struct {
	_msgpack struct{} `msgpack:",as_array"`

	Subject string `json:"subject"` // with ReplySuffix for a reply
	Message U8     `json:"message"` // msgpack; an Error where the reply is one
}

// ClientRequest is what a client asked of a gateway.
type ClientRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Request RequestID `json:"request"` // of its first prompt
	API     string    `json:"api"`     // "chat", "completion", "response" or "embedding"
	Body    string    `json:"body"`    // JSON
	Parts   U64       `json:"parts"`   // request ids, one per prompt
}

// ClientAnswer is how a client's request ended.
type ClientAnswer struct {
	_msgpack struct{} `msgpack:",as_array"`

	Request      RequestID `json:"request"`
	Error        *Error    `json:"error,omitempty"`
	PromptTokens int32     `json:"prompt_tokens"`
	OutputTokens int32     `json:"output_tokens"`
	TookNs       int64     `json:"took_ns"`
}
