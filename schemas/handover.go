package schemas

import "time"

// KV blocks that one replica computed and another goes on with. The messages here agree on it; the blocks themselves
// travel outside of the bus (package handover).
var (
	FetchKV = define[KVFetchRequest, KVFetchReply]("compute", "fetch", fetchTimeout, 1,
		"Take over the KV blocks of a prompt from another replica, as cached prefixes.")
	OfferKV = define[KVOfferRequest, KVOfferReply]("compute", "offer", askTimeout, 1,
		"Say where another replica can fetch the KV blocks of a prompt, once.")
	ImportKV = define[KVImportRequest, Ack]("compute", "import", hotTimeout, hotAttempts,
		"Fill KV blocks with what was fetched, before any later step.")
	FindKV = define[KVFindRequest, KVFindReply]("memory", "find", hotTimeout, hotAttempts,
		"Which blocks hold a prefix.")
	AdoptKV = define[KVAdoptRequest, KVAdoptReply]("memory", "adopt", hotTimeout, hotAttempts,
		"Make blocks that another replica computed findable as a cached prefix, and have compute fill them.")
)

// fetchTimeout bounds a hand-over as a whole.
const fetchTimeout = 10 * time.Second

// Phases of requests that a replica is for; see ReplicaReport.
const (
	PhasePrefill = "prefill"
	PhaseDecode  = "decode"
)

// KVFetchRequest asks a replica's compute to take over the KV of a prefix from another replica, as far as it does not have it.
type KVFetchRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	From   Instance `json:"from"`   // the replica that has it
	Tokens I32      `json:"tokens"` // the prefix; only whole blocks of it are taken over
	Salt   uint64   `json:"salt,omitempty"`
}

// KVFetchReply says what came. Blocks that were missing and did not come are computed again.
type KVFetchReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Held   int32  `json:"held"`   // blocks of the prefix that were there before
	Blocks int32  `json:"blocks"` // blocks that came
	Bytes  int64  `json:"bytes"`  // in them
	Way    string `json:"way"`    // "device memory", "shared memory", "tcp", or "" if nothing had to come
	TookNs int64  `json:"took_ns"`
}

// KVOfferRequest asks for the blocks [First, whole blocks of Tokens) of a prefix.
type KVOfferRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Tokens   I32    `json:"tokens"`
	Salt     uint64 `json:"salt,omitempty"`
	First    int32  `json:"first,omitempty"`
	Identity string `json:"identity"` // of the model, its numerics and the layout of its KV: only equals can hand over
}

// KVOfferReply says how to fetch them. The token is good for one connection, and for a few seconds.
type KVOfferReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Blocks  int32    `json:"blocks"`            // that are there, from First on; 0: nothing to fetch
	Token   U8       `json:"token,omitempty"`   // shows the listener who asks
	Machine string   `json:"machine,omitempty"` // where Socket and loopback addresses are
	Socket  string   `json:"socket,omitempty"`  // a unix socket on that machine, "@…" (abstract), for shared memory; "" is none
	TCP     []string `json:"tcp,omitempty"`     // addresses, host:port
}

// KVImportRequest names blocks for what was fetched. It is good between the step Step and the next: earlier ones may still read
// what the blocks hold, later ones what they are to hold.
type KVImportRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Epoch  Epoch  `json:"epoch"`
	Step   StepID `json:"step"`   // the last that memory has granted
	Ticket uint64 `json:"ticket"` // of the adoption
	Blocks I32    `json:"blocks"` // for the first that were fetched, in order; -1 is not wanted
	Serial uint64 `json:"serial"` // of an epoch's adoptions: one that is overtaken by a later one is void, too
}

// KVFindRequest asks for the whole blocks of a prefix.
type KVFindRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Tokens I32    `json:"tokens"`
	Salt   uint64 `json:"salt,omitempty"`
}

// KVFindReply names the blocks of the longest cached prefix. What they hold was computed by steps up to Step. They hold it for
// as long as the same question has the same answer.
type KVFindReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Epoch   Epoch  `json:"epoch"`
	Step    StepID `json:"step"`
	Blocks  I32    `json:"blocks"`
	Serials U64    `json:"serials"` // of their names: never used again
}

// KVAdoptRequest offers memory the content of blocks [First, First+Count) of a prefix.
type KVAdoptRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Tokens I32    `json:"tokens"` // of all blocks up to First+Count
	Salt   uint64 `json:"salt,omitempty"`
	First  int32  `json:"first"`
	Count  int32  `json:"count"`
	Ticket uint64 `json:"ticket"`           // under which compute has the content
	Undone bool   `json:"undone,omitempty"` // in journals alone: compute could not fill the blocks
}

// KVAdoptReply says how far the prefix is cached now.
type KVAdoptReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Held    int32 `json:"held"`    // blocks of it
	Adopted int32 `json:"adopted"` // of these, those that this request brought
}
