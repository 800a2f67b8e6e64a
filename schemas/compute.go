package schemas

// StepPlan tells compute what to run in one step. Steps execute in order; the plan for step N+1
// arrives while N runs. It carries changes, not the state: block tables grow by deltas, and a token
// that an earlier step samples never leaves the device. A repeated Step is acknowledged, not run again.
type StepPlan struct {
	_msgpack struct{} `msgpack:",as_array"`

	Epoch Epoch  `json:"epoch"` // a later epoch resets slots and block tables, and ends the earlier ones
	Step  StepID `json:"step"`  // increases within an epoch, not always by 1

	Copies I32 `json:"copies,omitempty"` // block pairs to copy first: source, destination, …

	// Slots whose sequence is new: how they sample. One element per initialized slot.
	InitSlot        I32 `json:"init_slot,omitempty"`
	InitTemperature F32 `json:"init_temperature,omitempty"`
	InitTopP        F32 `json:"init_top_p,omitempty"`
	InitTopK        I32 `json:"init_top_k,omitempty"`
	InitMinP        F32 `json:"init_min_p,omitempty"`
	InitSeed        U64 `json:"init_seed,omitempty"`
	// Rules are those of initialized slots that have any.
	Rules []SlotRules `json:"rules,omitempty"`

	// Rows, one per sequence in the step.
	Seq   U64 `json:"seq"`
	Slot  I32 `json:"slot"`
	Start I32 `json:"start"` // position of the row's first token
	Count I32 `json:"count"` // tokens in the row
	// Known is how many of them are in Tokens. 0 with Count 1 is a decode row whose token is the one
	// last sampled in the slot, still on the device; otherwise Known equals Count.
	Known  I32 `json:"known"`
	Sample U8  `json:"sample"` // SampleNone, SampleToken or SampleEmbedding, from the row's last token
	Tokens I32 `json:"tokens"` // the rows' known tokens, concatenated

	BlockFrom  I32 `json:"block_from"` // the slot's block table from this entry on is replaced …
	BlockCount I32 `json:"block_count"`
	Blocks     I32 `json:"blocks"` // … by these, concatenated over rows

	PlannedNs int64 `json:"planned_ns"` // when, in unix nanoseconds of the scheduler: for recordings

	// After is the step before, of the same epoch, where plans are sent without waiting for the acknowledgement of the one
	// before; 0 if there is none, or if the sender waits. While it is missing, compute refuses the plan with KindOutOfOrder.
	After StepID `json:"after,omitempty"`
}

// What a row of a plan yields.
const (
	SampleNone      = 0 // nothing: its prompt goes on in a later step
	SampleToken     = 1 // the token that follows
	SampleEmbedding = 2 // the normalized hidden state, and no token
)

// SlotRules are the SamplingRules of a slot whose sequence is new to compute, with what they are about.
type SlotRules struct {
	_msgpack struct{} `msgpack:",as_array"`

	Slot       int32         `json:"slot"`
	Rules      SamplingRules `json:"rules"`
	Tokens     I32           `json:"tokens"`                // prompt and output up to here
	Prompt     int32         `json:"prompt"`                // how many of them are the prompt
	MinTokens  int32         `json:"min_tokens,omitempty"`  // of output, before which StopTokens are not sampled
	StopTokens I32           `json:"stop_tokens,omitempty"` // end tokens
	MaxTokens  int32         `json:"max_tokens"`            // of output
}

// PlanReply acknowledges that a plan is queued on the device.
type PlanReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Queued int32 `json:"queued"` // steps on the device that have not finished, this one included
}

// StepResult reports a finished step from compute to its scheduler. A repeated Step is ignored.
type StepResult struct {
	_msgpack struct{} `msgpack:",as_array"`

	Epoch  Epoch  `json:"epoch"`
	Step   StepID `json:"step"`
	Row    I32    `json:"row"`             // rows of the plan that sampled
	Token  I32    `json:"token"`           // what they sampled; -1: logits were not finite
	Error  *Error `json:"error,omitempty"` // the step failed: its rows have no KV
	Ledger Ledger `json:"ledger"`

	Logprobs   []TokenLogprobs `json:"logprobs,omitempty"`   // of the rows whose rules ask for them; Row is the plan's
	Embeddings []Embedding     `json:"embeddings,omitempty"` // of the rows with SampleEmbedding, whose Token is 0
	Failed     []SeqError      `json:"failed,omitempty"`     // sequences that failed alone; their Token is -1

	// When compute took the plan up and when the result was there, in unix nanoseconds of its clock.
	BeganNs int64 `json:"began_ns,omitempty"`
	DoneNs  int64 `json:"done_ns,omitempty"`
}

// Embedding is the hidden state that stands for a whole prompt: the last token's, after the final norm, of length 1.
type Embedding struct {
	_msgpack struct{} `msgpack:",as_array"`

	Row    int32 `json:"row"` // of the message that carries it
	Values F32   `json:"values"`
}

// CompileRequest asks compute to make a Guide ready, before a request with it is submitted.
type CompileRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Guide     Guide `json:"guide"`
	MaxTokens int32 `json:"max_tokens,omitempty"` // if set, an answer that fits must exist
}

// CompileReply describes a compiled Guide.
type CompileReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	MinTokens int32 `json:"min_tokens"` // of the shortest answer, its end token included
	TookNs    int64 `json:"took_ns"`    // 0: it was compiled already
	Bytes     int64 `json:"bytes"`      // it takes
}

// Ledger says where the time of steps went, in nanoseconds. Upload, Device and Idle sum to the device's wall
// time; the rest is the host's, which the pipeline hides behind them.
type Ledger struct {
	_msgpack struct{} `msgpack:",as_array"`

	Schedule int64 `json:"schedule_ns"` // planning in the scheduler core
	Memory   int64 `json:"memory_ns"`   // reserving blocks, the hop included
	Launch   int64 `json:"launch_ns"`   // handing the plan to the device, the hop included
	Upload   int64 `json:"upload_ns"`   // step inputs to the device
	Device   int64 `json:"device_ns"`   // the model and the sampler
	Idle     int64 `json:"idle_ns"`     // the device waited for a plan
	Emit     int64 `json:"emit_ns"`     // handing tokens on after the step
	Steps    int64 `json:"steps"`       // steps summed in this ledger

	// Of the calls to memory and compute, while a request with a ledger runs; otherwise they are in Memory and Launch.
	Serialize int64 `json:"serialize_ns"`
	Bus       int64 `json:"bus_ns"`
}

// Add accumulates o.
func (l *Ledger) Add(o Ledger) {
	l.Schedule += o.Schedule
	l.Memory += o.Memory
	l.Launch += o.Launch
	l.Upload += o.Upload
	l.Device += o.Device
	l.Idle += o.Idle
	l.Emit += o.Emit
	l.Steps += o.Steps
	l.Serialize += o.Serialize
	l.Bus += o.Bus
}

// StepPart is a part of a Ledger.
type StepPart struct {
	Name string
	Ns   int64
}

// Parts lists where the time went.
func (l *Ledger) Parts() []StepPart {
	return []StepPart{{"schedule", l.Schedule}, {"memory", l.Memory}, {"serialize", l.Serialize}, {"bus", l.Bus}, {"launch", l.Launch},
		{"upload", l.Upload}, {"device", l.Device}, {"idle", l.Idle}, {"emit", l.Emit}}
}

// ComputeState is the computation manager's debugging snapshot.
type ComputeState struct {
	_msgpack struct{} `msgpack:",as_array"`

	Model       string         `json:"model"`
	Parameters  int64          `json:"parameters"`
	Device      string         `json:"device"`
	Description string         `json:"description"`
	Tensors     int64          `json:"tensors"`      // live device allocations
	Bytes       int64          `json:"bytes"`        // in them
	KV          []TensorHandle `json:"kv,omitempty"` // the layers' key and value pools
	Epoch       Epoch          `json:"epoch"`
	Step        StepID         `json:"step"` // last one executed
	Queued      int32          `json:"queued"`
	Ledger      Ledger         `json:"ledger"`
	Kernels     []KernelInfo   `json:"kernels"`
	// Weights is the digest of the checkpoint, "sha256:…": of its file or of the list of them as sha256sum prints it. It is
	// computed when it is first asked for; until then WeightsPending is true.
	Weights        string `json:"weights,omitempty"`
	WeightsPending bool   `json:"weights_pending,omitempty"`
}

// KernelInfo is one implementation of an op on a device.
type KernelInfo struct {
	_msgpack struct{} `msgpack:",as_array"`

	Op     string `json:"op"`
	Name   string `json:"name"`
	Doc    string `json:"doc"`
	Active bool   `json:"active"`
	// BatchVariant: the bits of a row may depend on the rows that it is computed with.
	BatchVariant bool `json:"batch_variant,omitempty"`
}

// KernelsRequest lists an op's implementations (all ops if Op is empty) and, if Select is set,
// makes that one active from the next step on.
type KernelsRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Op     string `json:"op,omitempty"`
	Select string `json:"select,omitempty"`
}

// KernelsReply lists implementations.
type KernelsReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Kernels []KernelInfo `json:"kernels"`
}
