package schemas

// RankSubjectPrefix starts the subjects on which policies in other processes are asked: inf.v1.policy.rank.NAME.
const RankSubjectPrefix = SubjectPrefix + "policy.rank."

// RankRowsMax bounds the sequences of one RankRequest.
const RankRowsMax = 2048

// RankForever is the DeadlineMs of a row without a deadline.
const RankForever = 1<<31 - 1

// States of a RankRequest's rows.
const (
	RankWaiting   = 0
	RankRunning   = 1
	RankPreempted = 2 // waiting again: it lost its KV blocks
)

// Exchanges between the scheduler and policies.
var (
	// Rank is what a scheduling policy in another process answers. It travels as a map by field name, so that any
	// language can read it; docs/policies.md is its specification.
	Rank = define[RankRequest, RankReply]("policy", "rank", askTimeout, 1,
		"Order sequences: a scheduling policy in any process, attached by --policy nats:NAME.")
	// Shadow shows what another policy would have done.
	Shadow = define[ShadowRequest, ShadowReport]("scheduler", "shadow", askTimeout, 3,
		"Show, choose or end the shadow policy, which sees every decision and changes none.")
)

// RankRequest asks a policy for an order of sequences. Columns have one element per row; the rows come in no
// particular order.
type RankRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Version       int32    `json:"version"` // of this message: 1
	Number        uint64   `json:"number"`  // to be repeated in the answer
	Replica       Instance `json:"replica"`
	NowMs         int64    `json:"now_ms"` // unix milliseconds
	Step          StepID   `json:"step"`   // last one planned
	SequencesMax  int32    `json:"sequences_max"`
	SlotsFree     int32    `json:"slots_free"` // how many waiting sequences can start now
	TokensStepMax int32    `json:"tokens_step_max"`

	Seq        U64 `json:"seq"`
	State      U8  `json:"state"`       // RankWaiting, RankRunning or RankPreempted
	Arrival    I32 `json:"arrival"`     // order of arrival: distinct, in no other sense dense
	AgeMs      I32 `json:"age_ms"`      // since the arrival
	Prompt     I32 `json:"prompt"`      // tokens
	Output     I32 `json:"output"`      // tokens known so far
	Computed   I32 `json:"computed"`    // tokens with keys and values; 0 unless running
	Cached     I32 `json:"cached"`      // prompt tokens from the prefix cache, once started
	MaxTokens  I32 `json:"max_tokens"`  // largest number of output tokens
	Priority   I32 `json:"priority"`    // lower is more urgent
	DeadlineMs I32 `json:"deadline_ms"` // milliseconds left, negative when over; RankForever without a deadline
	User       U64 `json:"user"`        // FNV-1a hash of the user's name; 0 without a name

	More int32 `json:"more"` // sequences left out, beyond RankRowsMax
}

// RankReply is a policy's order.
type RankReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Number uint64 `json:"number"` // of the request
	Order  I32    `json:"order"`  // indices of all rows, the first to be served first
}

// RankOutcome is what became of a RankRequest: exactly one of Reply and Error is set.
type RankOutcome struct {
	_msgpack struct{} `msgpack:",as_array"`

	Number uint64     `json:"number"`
	Reply  *RankReply `json:"reply,omitempty"`
	Error  *Error     `json:"error,omitempty"`
	TripNs int64      `json:"trip_ns"`          // from question to answer
	Shadow bool       `json:"shadow,omitempty"` // of the shadow policy
}

// RankState says how a policy in another process does.
type RankState struct {
	_msgpack struct{} `msgpack:",as_array"`

	Subject  string `json:"subject"`
	Active   bool   `json:"active"`             // its order is used; otherwise the fallback's
	Reason   string `json:"reason,omitempty"`   // why not
	Fallback string `json:"fallback"`           // the policy that stands in
	Asked    uint64 `json:"asked"`              // questions
	Answered uint64 `json:"answered"`           // in time, with a valid order
	Late     uint64 `json:"late"`               // no answer within the limit
	Absent   uint64 `json:"absent"`             // nobody listens
	Invalid  uint64 `json:"invalid"`            // errors, and answers that are no order
	Fell     uint64 `json:"fell"`               // times the fallback took over
	Returned uint64 `json:"returned"`           // times the policy came back
	Ranked   uint64 `json:"ranked"`             // steps chosen in its order
	Unranked uint64 `json:"unranked"`           // steps chosen in the fallback's
	AskNs    int64  `json:"ask_ns"`             // making questions, sum; this and the next are what steps pay
	WaitNs   int64  `json:"wait_ns"`            // waiting for answers while nothing could be planned, sum (?wait)
	ApplyNs  int64  `json:"apply_ns"`           // checking answers, sum
	TripNs   int64  `json:"trip_ns"`            // from question to answer, sum over Answered
	TripMax  int64  `json:"trip_max_ns"`        // longest
	StepsNow StepID `json:"step"`               // last step planned when this was written
	Limit    int64  `json:"limit_ns,omitempty"` // time a policy has for an answer
}

// ShadowRequest chooses the shadow policy, or ends it; without either it asks for the report.
type ShadowRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Policy string `json:"policy,omitempty"`
	Off    bool   `json:"off,omitempty"`
}

// ShadowExamplesMax bounds the examples of a ShadowReport, of which the latest are kept.
const ShadowExamplesMax = 16

// ShadowReport says what the shadow policy would have done. Counts are of decisions: steps whose rows were chosen
// from a queue, in which both policies saw the same sequences.
type ShadowReport struct {
	_msgpack struct{} `msgpack:",as_array"`

	Policy    string `json:"policy"` // "" without a shadow
	Live      string `json:"live"`
	SinceMs   int64  `json:"since_ms"` // unix milliseconds
	Decisions uint64 `json:"decisions"`
	Agreed    uint64 `json:"agreed"`    // same order in every respect
	Reordered uint64 `json:"reordered"` // another order
	Started   uint64 `json:"started"`   // other sequences would have been the first to start
	Yielded   uint64 `json:"yielded"`   // another running sequence would have been the first to lose its blocks
	FirstStep StepID `json:"first_step,omitempty"`

	// Predicted effect: tokens of work ahead of a waiting sequence, on average, from the predicted lengths; waiting
	// time is proportional to it.
	AheadLive   float64 `json:"ahead_live"`
	AheadShadow float64 `json:"ahead_shadow"`
	Change      float64 `json:"change"` // of the mean wait: -0.25 is a quarter less

	Examples  []ShadowExample `json:"examples,omitempty"` // the latest disagreements
	Truncated uint64          `json:"truncated"`          // decisions in which it saw only a part of the queue
	CostNs    int64           `json:"cost_ns"`            // time it took, sum
	CostMaxNs int64           `json:"cost_max_ns"`
	Failed    string          `json:"failed,omitempty"` // why it was ended
	Rank      *RankState      `json:"rank,omitempty"`   // of a shadow in another process
}

// ShadowExample is one decision in which the shadow disagreed.
type ShadowExample struct {
	_msgpack struct{} `msgpack:",as_array"`

	Step        StepID `json:"step"`
	AtMs        int64  `json:"at_ms"`   // unix milliseconds
	Running     int32  `json:"running"` // sequences
	Waiting     int32  `json:"waiting"`
	SlotsFree   int32  `json:"slots_free"`
	LiveFirst   U64    `json:"live_first"`   // the order from the first difference on, at most 4
	ShadowFirst U64    `json:"shadow_first"` // the same of the shadow's
	LiveYield   SeqID  `json:"live_yield,omitempty"`
	ShadowYield SeqID  `json:"shadow_yield,omitempty"`
	From        int32  `json:"from"` // place of the first difference, from 0
}

// Example asks about one sequence that runs and two that wait.
func (*RankRequest) Example() *RankRequest {
	return &RankRequest{Version: 1, Number: 7, Replica: "replica0", NowMs: 1_750_000_000_000, Step: 9, SequencesMax: 64, SlotsFree: 1, TokensStepMax: 512,
		Seq: U64{exampleSeq, exampleSeq + 0x100, exampleSeq + 0x200}, State: U8{RankRunning, RankWaiting, RankWaiting}, Arrival: I32{0, 1, 2},
		AgeMs: I32{40, 12, 3}, Prompt: I32{3, 700, 20}, Output: I32{5, 0, 0}, Computed: I32{8, 0, 0}, Cached: I32{0, 0, 0},
		MaxTokens: I32{64, 256, 16}, Priority: I32{0, 0, 0}, DeadlineMs: I32{RankForever, 4000, 900}, User: U64{0, 0xcbf29ce484222325, 1}}
}

// Example puts the short newcomer before the long one.
func (*RankReply) Example() *RankReply { return &RankReply{Number: 7, Order: I32{0, 2, 1}} }

// Example is an answer after 0.4 ms.
func (*RankOutcome) Example() *RankOutcome {
	return &RankOutcome{Number: 7, Reply: (*RankReply)(nil).Example(), TripNs: 400_000}
}

// Example is a policy that was slow once.
func (*RankState) Example() *RankState {
	return &RankState{Subject: RankSubjectPrefix + "mine", Active: true, Fallback: "fcfs", Asked: 1000, Answered: 999, Late: 1, Fell: 1, Returned: 1,
		Ranked: 990, Unranked: 10, AskNs: 900_000, ApplyNs: 500_000, TripNs: 400_000_000, TripMax: 5_000_000, StepsNow: 1001, Limit: 5_000_000}
}

// Example tries a policy in the shadow.
func (*ShadowRequest) Example() *ShadowRequest { return &ShadowRequest{Policy: "shortest"} }

// Example is a shadow that would have let short requests wait less.
func (*ShadowReport) Example() *ShadowReport {
	return &ShadowReport{Policy: "shortest", Live: "fcfs", SinceMs: 1_750_000_000_000, Decisions: 1000, Agreed: 700, Reordered: 300, Started: 120, Yielded: 40,
		FirstStep: 12, AheadLive: 800, AheadShadow: 500, Change: -0.375, Examples: []ShadowExample{*(*ShadowExample)(nil).Example()}, CostNs: 3_000_000, CostMaxNs: 9_000}
}

// Example is a decision in which the second of two waiting sequences would have gone first.
func (*ShadowExample) Example() *ShadowExample {
	return &ShadowExample{Step: 12, AtMs: 1_750_000_000_500, Running: 1, Waiting: 2, SlotsFree: 1,
		LiveFirst: U64{exampleSeq + 0x100, exampleSeq + 0x200}, ShadowFirst: U64{exampleSeq + 0x200, exampleSeq + 0x100}, From: 1}
}
