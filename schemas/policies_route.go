package schemas

// RouteSubjectPrefix starts the subjects on which routing policies in other processes are asked: inf.v1.policy.route.NAME.
const RouteSubjectPrefix = SubjectPrefix + "policy.route."

// RouteRowsMax bounds the replicas of one RouteRequest.
const RouteRowsMax = 1024

// Route is what a routing policy in another process answers. It travels as Rank does; docs/cluster.md is its specification.
var Route = define[RouteRequest, RouteReply]("policy", "route", askTimeout, 1,
	"Choose a replica for a request: a routing policy in any process, attached by --routing nats:NAME.")

// RouteRequest asks a policy which replica gets a request. Columns have one element per replica that can take it, in the order of
// their names.
type RouteRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Version int32  `json:"version"` // of this message: 1
	Number  uint64 `json:"number"`  // to be repeated in the answer
	NowMs   int64  `json:"now_ms"`  // unix milliseconds
	Model   string `json:"model"`   // that is asked for
	Session string `json:"session"` // FNV-1a hash of the session's name, 16 hexadecimal digits; "" without a name
	Prompt  int32  `json:"prompt"`  // tokens

	Replica      []string `json:"replica"`
	Overlap      I32      `json:"overlap"`       // blocks of the prompt that are probably cached there
	Uncached     I32      `json:"uncached"`      // prompt tokens that would have to be computed
	Requests     I32      `json:"requests"`      // waiting and running there
	Queued       I32      `json:"queued"`        // prompt tokens to be computed before this request's
	SequencesMax I32      `json:"sequences_max"` // running at once
	FreeBlocks   I32      `json:"free_blocks"`   // those with cached prefixes included
	Blocks       I32      `json:"blocks"`        // in all
	BlockSize    I32      `json:"block_size"`    // tokens
	Routed       U64      `json:"routed"`        // requests that this gateway has sent there, ever

	More int32 `json:"more"` // replicas left out, beyond RouteRowsMax
}

// RouteReply is a policy's choice.
type RouteReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Number uint64 `json:"number"` // of the request
	Choice int32  `json:"choice"` // index of the replica
}

// RouteState says how a routing policy does; what is said of questions is zero for one that is no other process.
type RouteState struct {
	_msgpack struct{} `msgpack:",as_array"`

	Policy   string `json:"policy"`
	Subject  string `json:"subject,omitempty"`
	Fallback string `json:"fallback,omitempty"` // the policy that stands in
	Reason   string `json:"reason,omitempty"`   // why it decides now
	Asked    uint64 `json:"asked"`              // questions
	Answered uint64 `json:"answered"`           // in time, with a replica
	Late     uint64 `json:"late"`               // no answer within the limit
	Absent   uint64 `json:"absent"`             // nobody listens
	Invalid  uint64 `json:"invalid"`            // errors, and answers that are no replica
	Followed uint64 `json:"followed"`           // requests that went where it said
	Fell     uint64 `json:"fell"`               // requests that the fallback decided
	TripNs   int64  `json:"trip_ns"`            // from question to answer, sum over Answered
	TripMax  int64  `json:"trip_max_ns"`        // longest
	Limit    int64  `json:"limit_ns,omitempty"` // time a policy has for an answer
}

// Example asks where a prompt of 700 tokens goes, of which the second replica has 512.
func (*RouteRequest) Example() *RouteRequest {
	return &RouteRequest{Version: 1, Number: 7, NowMs: 1_750_000_000_000, Model: "troupe-tiny", Session: "cbf29ce484222325", Prompt: 700,
		Replica: []string{"a", "b"}, Overlap: I32{0, 32}, Uncached: I32{700, 188}, Requests: I32{3, 9}, Queued: I32{0, 1200}, SequencesMax: I32{64, 64},
		FreeBlocks: I32{900, 40}, Blocks: I32{1024, 1024}, BlockSize: I32{16, 16}, Routed: U64{41, 40}}
}

// Example takes the one with the prefix.
func (*RouteReply) Example() *RouteReply { return &RouteReply{Number: 7, Choice: 1} }

// Example is a policy that was slow once.
func (*RouteState) Example() *RouteState {
	return &RouteState{Policy: "nats:mine", Subject: RouteSubjectPrefix + "mine", Fallback: "prefix", Asked: 1000, Answered: 999, Late: 1, Followed: 999, Fell: 1,
		TripNs: 400_000_000, TripMax: 5_000_000, Limit: 5_000_000}
}
