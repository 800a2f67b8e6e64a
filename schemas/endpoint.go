package schemas

import (
	"fmt"
	"reflect"
	"strings"
	"time"
)

// Version of the protocol; it is part of every subject, so that versions can live side by side.
const Version = "v1"

// SubjectPrefix starts every subject of the engine.
const SubjectPrefix = "inf." + Version + "."

// TapPrefix starts the subjects on which every delivery is mirrored as it was on the wire (msgpack),
// if somebody listens; PeekPrefix those with the same messages as JSON, for people.
const (
	TapPrefix  = "tap."
	PeekPrefix = "peek."
)

// ReplySuffix is appended to a tapped subject for the mirrored reply.
const ReplySuffix = ".reply"

// Endpoint ties a request and its reply to a subject. It is the only way to name an exchange:
// callers and handlers that share an Endpoint cannot disagree on types.
type Endpoint[Req, Resp any] struct {
	Service string // "memory"
	Verb    string // "reserve"
	Doc     string // one sentence, shown by `nats micro info` and `troupe schema`
	// Timeout bounds one attempt over NATS; Attempts is how often an unanswered request is repeated
	// (all requests are idempotent, see the package comment). In-process calls only obey their context.
	Timeout  time.Duration
	Attempts int
}

// Subject is the endpoint's subject for one instance, or for any instance if that is "".
func (e Endpoint[Req, Resp]) Subject(instance Instance) string {
	s := SubjectPrefix + e.Service + "." + e.Verb
	if instance != "" {
		s += "." + string(instance)
	}
	return s
}

// Message is what can travel: a type with an example of itself.
type Message[T any] interface {
	*T
	Example() *T
}

// EndpointInfo is an endpoint without its static types, for listings.
type EndpointInfo struct {
	Service, Verb, Doc string
	Request, Reply     reflect.Type // struct types
	RequestExample     any          // pointers
	ReplyExample       any
}

// Subject is the endpoint's subject without an instance.
func (e EndpointInfo) Subject() string { return SubjectPrefix + e.Service + "." + e.Verb }

var endpoints []EndpointInfo

// Endpoints lists every endpoint in data-path order.
func Endpoints() []EndpointInfo { return endpoints }

const (
	hotTimeout  = 500 * time.Millisecond // a hot exchange answers within a step; repeating is cheap
	hotAttempts = 10
	askTimeout  = 5 * time.Second

	compileTimeout = 10 * time.Second
	submitTimeout  = 2 * time.Minute
)

func define[Req, Resp any, PReq Message[Req], PResp Message[Resp]](service, verb string, timeout time.Duration, attempts int, doc string) Endpoint[Req, Resp] {
	for _, part := range []string{service, verb} {
		if part == "" || strings.ContainsAny(part, ".*> ") {
			panic(fmt.Sprintf("schemas: bad subject token %q", part))
		}
	}
	endpoints = append(endpoints, EndpointInfo{
		Service: service, Verb: verb, Doc: doc,
		Request: reflect.TypeFor[Req](), Reply: reflect.TypeFor[Resp](),
		RequestExample: PReq(nil).Example(), ReplyExample: PResp(nil).Example(),
	})
	return Endpoint[Req, Resp]{Service: service, Verb: verb, Doc: doc, Timeout: timeout, Attempts: attempts}
}

// The exchanges between actors, along the data path. What clients send (inf.v1.chat and its like)
// is served by the gateway and described in openai.go.
var (
	Encode = define[EncodeRequest, EncodeReply]("tokenizer", "encode", askTimeout, 3,
		"Turn a prompt or chat messages into tokens and open the session that turns the answer into text.")
	Decode = define[DecodeRequest, DecodeReply]("tokenizer", "decode", askTimeout, 3,
		"Turn tokens into text.")
	Tokens = define[TokenBatch, Ack]("tokenizer", "tokens", hotTimeout, hotAttempts,
		"Tokens that steps produced, for the sessions of this tokenizer.")
	CloseSessions = define[CancelRequest, CancelReply]("tokenizer", "close", hotTimeout, hotAttempts,
		"Forget sessions whose sequences were never submitted.")
	TokenizerInfo = define[InfoRequest, TokenizerState]("tokenizer", "state", askTimeout, 1,
		"The tokenizer's state for debugging.")

	Submit = define[SubmitRequest, SubmitReply]("scheduler", "submit", askTimeout, 3,
		"Queue a request.")
	CancelSeqs = define[CancelRequest, CancelReply]("scheduler", "cancel", hotTimeout, hotAttempts,
		"End sequences early; their blocks are free within one step.")
	StepDone = define[StepResult, Ack]("scheduler", "step_done", hotTimeout, hotAttempts,
		"A finished step, from compute.")
	Engine = define[InfoRequest, EngineInfo]("scheduler", "info", askTimeout, 3,
		"What this replica serves, and its limits.")
	SchedulerInfo = define[InfoRequest, SchedulerState]("scheduler", "state", askTimeout, 1,
		"The scheduler's state for debugging and metrics.")
	Policy = define[PolicyRequest, PolicyReply]("scheduler", "policy", askTimeout, 3,
		"Show or choose the scheduling policy.")
	Checkpoint = define[CheckpointRequest, CheckpointReply]("scheduler", "checkpoint", askTimeout, 1,
		"Begin a new epoch and journal a state from which a replay can start.")

	Reserve = define[ReserveRequest, ReserveReply]("memory", "reserve", hotTimeout, hotAttempts,
		"Account for what changed since the last step and grant KV blocks to the rows of the next.")
	Eviction = define[PolicyRequest, PolicyReply]("memory", "eviction", askTimeout, 3,
		"Show or choose the policy by which cached KV blocks are evicted.")
	MemoryInfo = define[InfoRequest, MemoryState]("memory", "state", askTimeout, 1,
		"The memory manager's state for debugging and metrics.")

	Execute = define[StepPlan, PlanReply]("compute", "execute", hotTimeout, hotAttempts,
		"Queue a step on the device.")
	Compile = define[CompileRequest, CompileReply]("compute", "compile", compileTimeout, 3,
		"Make a guide for constrained answers ready.")
	ComputeInfo = define[InfoRequest, ComputeState]("compute", "state", askTimeout, 1,
		"The computation manager's state for debugging and metrics.")
	Kernels = define[KernelsRequest, KernelsReply]("compute", "kernels", askTimeout, 3,
		"List the implementations of an op, or choose one.")
	SubmitKernel = define[SubmitKernelRequest, SubmitKernelReply]("compute", "submit_kernel", submitTimeout, 1,
		"Compile, check and time an implementation of an op, and activate or refuse it; if that was enabled.")

	Deltas = define[DeltaBatch, Ack]("gateway", "deltas", hotTimeout, hotAttempts,
		"New text for the requests of this gateway.")
)
