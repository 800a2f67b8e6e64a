package schemas

import "math/bits"

// What nodes tell each other, so that several replicas serve as one.

// NodeReports and ReplicaReports are announced at a steady pace while nodes work together: their absence is how a
// node that died is noticed.
var (
	NodeReports = announce[NodeReport]("node", "report",
		"Who plays what on a node, several times a second while it is part of a cluster.")
	ReplicaReports = announce[ReplicaReport]("replica", "report",
		"A replica's load and the prefixes that it has gained and lost, several times a second while it is part of a cluster.")
)

// What nodes and replicas are asked.
var (
	NodeInfo = define[InfoRequest, NodeReport]("node", "info", askTimeout, 1,
		"Who plays what on this node.")
	DrainNode = define[DrainRequest, NodeReport]("node", "drain", askTimeout, 3,
		"Take no new requests on this node, or take them again.")
	Prefixes = define[PrefixRequest, PrefixReply]("memory", "prefixes", askTimeout, 1,
		"The names of the prefixes that can be reused here, or how they have changed.")
)

// ActorReport is one actor in a NodeReport.
type ActorReport struct {
	_msgpack struct{} `msgpack:",as_array"`

	Service  string   `json:"service"`
	Instance Instance `json:"instance"`
}

// NodeReport says who plays what on a node.
type NodeReport struct {
	_msgpack struct{} `msgpack:",as_array"`

	Node        NodeID        `json:"node"`
	Incarnation uint64        `json:"incarnation"` // drawn when the process starts
	Version     string        `json:"version"`     // of the program
	StartedMs   int64         `json:"started"`     // unix milliseconds
	UnixNs      int64         `json:"unix_ns"`     // the node's clock when it wrote this
	Actors      []ActorReport `json:"actors"`
	Model       string        `json:"model,omitempty"`
	HTTP        string        `json:"http,omitempty"` // base URL of the API
	Draining    bool          `json:"draining,omitempty"`
	Busy        int32         `json:"busy"` // sequences of its replicas and requests of its gateways

	Roles []string `json:"roles,omitempty"` // "gateway", "tokenizer", "replica", "scheduler", "compute"
}

// ReplicaReport is what a router has to know of a replica.
type ReplicaReport struct {
	_msgpack struct{} `msgpack:",as_array"`

	Replica      Instance `json:"replica"`
	Node         NodeID   `json:"node"`
	Incarnation  uint64   `json:"incarnation"` // of its node's process: after a restart nothing of before is known
	Version      string   `json:"version"`
	Model        string   `json:"model"`
	Numerics     string   `json:"numerics"` // replicas with equal ones compute the same tokens
	BlockSize    int32    `json:"block_size"`
	Blocks       int32    `json:"blocks"`
	ContextMax   int32    `json:"context_max"`
	SequencesMax int32    `json:"sequences_max"`
	Draining     bool     `json:"draining,omitempty"` // takes no new requests
	Leaving      bool     `json:"leaving,omitempty"`  // its last report: what still runs there will not end there

	Waiting      int32  `json:"waiting"`
	Running      int32  `json:"running"`
	QueuedTokens int64  `json:"queued_tokens"` // to be computed before their sequences go on
	FreeBlocks   int32  `json:"free_blocks"`   // those that only hold cached prefixes included
	Progress     uint64 `json:"progress"`      // tokens computed, ever

	// The changes of its prefixes: a receiver that knows the state Since is now at Serial. One that does not, asks
	// memory for all (Prefixes).
	Since   uint64 `json:"since"`
	Serial  uint64 `json:"serial"`
	Added   U64    `json:"added,omitempty"`
	Removed U64    `json:"removed,omitempty"`

	// Phase is what the replica is for: PhasePrefill computes prompts and hands their KV over, PhaseDecode takes it; "" is both.
	Phase string `json:"phase,omitempty"`
	// Compute is the node with its computation manager, where that is another one than its scheduler's.
	Compute NodeID `json:"compute,omitempty"`
}

// DrainRequest stops or resumes taking new requests. What runs goes on.
type DrainRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Resume bool `json:"resume,omitempty"`
}

// PrefixRequest asks for changes since a state that an earlier reply named, or, with 0, for everything.
type PrefixRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Since uint64 `json:"since,omitempty"`
}

// PrefixKeysMax bounds the names in one PrefixReply: 4 MiB. What exceeds it is left out, which costs a router
// knowledge and nothing else.
const PrefixKeysMax = 1 << 19

// PrefixReply names prefixes as PrefixKey does.
type PrefixReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Serial    uint64 `json:"serial"` // of the state after the changes; never 0
	All       bool   `json:"all"`    // Added is everything: Since is not known, or too long ago
	Added     U64    `json:"added,omitempty"`
	Removed   U64    `json:"removed,omitempty"`
	Available int32  `json:"available"` // blocks that are free or only hold cached prefixes
}

// Resumed is what is known already of the answers to a request that goes on elsewhere: Counts[i] output tokens of
// choice i, concatenated in Tokens; -1 is a choice that has ended.
type Resumed struct {
	_msgpack struct{} `msgpack:",as_array"`

	Counts I32 `json:"counts"`
	Tokens I32 `json:"tokens"`
}

// Validate says what does not fit a request with so many choices.
func (r *Resumed) Validate(choices int32) *Error {
	if r == nil {
		return nil
	}
	bad := func(format string, args ...any) *Error {
		return Errorf(KindInvalid, "resume", format, args...).WithParam("resume")
	}
	if len(r.Counts) != int(choices) {
		return bad("%d counts for %d choices", len(r.Counts), choices)
	}
	left := int64(len(r.Tokens))
	for i, n := range r.Counts {
		if n < -1 {
			return bad("count %d is %d; expected -1 or more", i, n)
		}
		left -= int64(max(n, 0))
	}
	if left != 0 {
		return bad("the counts and the %d tokens differ by %d", len(r.Tokens), left)
	}
	return nil
}

// Of returns the output of a choice so far, and whether it has ended. r may be nil, and is valid.
func (r *Resumed) Of(choice int) (output I32, ended bool) {
	if r == nil {
		return nil, false
	}
	from := 0
	for _, n := range r.Counts[:choice] {
		from += int(max(n, 0))
	}
	n := r.Counts[choice]
	if n < 0 {
		return nil, true
	}
	return r.Tokens[from : from+int(n) : from+int(n)], false
}

// FirstPrefixKey is what the name of a prompt's first block continues.
func FirstPrefixKey(salt uint64) uint64 { return mixKey(salt ^ 0x9e3779b97f4a7c15) }

// PrefixKey is the name of a full block with tokens after the prefix named parent. It stands for all tokens from
// the first on and the salt, and is the same in every process: equal names mean equal prefixes, up to collisions
// of 64 bits.
func PrefixKey(parent uint64, tokens []int32) uint64 {
	h := mixKey(parent)
	for ; len(tokens) >= 2; tokens = tokens[2:] {
		h = mixKey(h ^ uint64(uint32(tokens[0])) ^ uint64(uint32(tokens[1]))<<32)
	}
	if len(tokens) == 1 {
		h = mixKey(h ^ uint64(uint32(tokens[0])) ^ 1<<63)
	}
	return h
}

// mixKey folds the 128-bit product with an odd constant (the fractions of √2 and √3).
func mixKey(v uint64) uint64 {
	hi, lo := bits.Mul64(v^0x6a09e667f3bcc908, 0xbb67ae8584caa73b)
	return hi ^ lo
}
