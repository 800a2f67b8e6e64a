package schemas

// ReserveRequest is the one question a scheduler asks memory per step: everything that changed since
// the last step, and the rows it would like to run next. Memory applies, in order: Epoch, Learn,
// Release, Admit, then the rows. A repeated Step gets the first answer again.
type ReserveRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Epoch Epoch  `json:"epoch"` // a later epoch forgets every sequence (the prefix cache too)
	Step  StepID `json:"step"`

	Release U64 `json:"release,omitempty"` // sequences that ended: blocks are let go, the sequence is forgotten

	// Output tokens that became known, so that full blocks of them can be reused by prefix:
	// LearnCount[i] tokens of sequence LearnSeq[i], concatenated in LearnTokens.
	LearnSeq    U64 `json:"learn_seq,omitempty"`
	LearnCount  I32 `json:"learn_count,omitempty"`
	LearnTokens I32 `json:"learn_tokens,omitempty"`

	Admit []Admission `json:"admit,omitempty"` // sequences memory has not heard of yet

	// Rows in the order they are to be granted. A row wants places for WantMax[i] tokens more than the
	// sequence has. One without blocks (new or preempted) has none; it first takes over what it can from
	// the prefix cache or its fork parent, which is part of its want but costs no budget. A row gets
	// what the budget leaves of its want, or, if the blocks for that cannot be had, nothing; nothing, too,
	// if it has no blocks and those for its whole want cannot be had: what could not be finished is not
	// begun. The budget is TokensMax for all rows together; a want of 1 is not charged: the scheduler has
	// set it aside.
	// A row that starts is also limited to the tokens memory knows; a running one is not, since what a
	// decode row will write is sampled on the device. Granted rows must run: memory counts their places
	// as computed from the next step on.
	TokensMax int32 `json:"tokens_max"`
	Seq       U64   `json:"seq"`
	WantMax   I32   `json:"want_max"`
	// MayPreempt[i] is 1 if row i may take the blocks of Victims.
	MayPreempt U8 `json:"may_preempt"`
	// Victims may lose their blocks, first to go first. One that was granted in this request or holds no
	// blocks is skipped; when a row's own sequence comes up, it is the row that yields. After a row
	// was denied for lack of blocks, no later row whose sequence holds no blocks is granted: small
	// newcomers do not starve a big one.
	Victims U64 `json:"victims,omitempty"`
}

// Admission introduces a sequence to memory.
type Admission struct {
	_msgpack struct{} `msgpack:",as_array"`

	Seq    SeqID  `json:"seq"`
	Tokens I32    `json:"tokens"` // all known tokens: the prompt, and output after a lost step
	Salt   uint64 `json:"salt,omitempty"`
	// Fork names a sequence with the same prompt. If it holds blocks when this one gets its first row,
	// they are shared up to the last prompt token, a partly filled block included (copy-on-write).
	Fork SeqID `json:"fork,omitempty"`
	// Priority is the request's: lower is better. Eviction by priority keeps what better sequences used.
	Priority int32 `json:"priority,omitempty"`
}

// ReserveReply grants rows. Columns have one element per row of the request unless said otherwise.
type ReserveReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Step    StepID `json:"step"`
	Granted I32    `json:"granted"` // tokens granted; 0 is not this time
	Start   I32    `json:"start"`   // position of the first granted token: what precedes it has KV
	Cached  I32    `json:"cached"`  // tokens taken over from the prefix cache or a fork in this grant
	// The row's block table from entry BlockFrom[i] on is replaced by its BlockCount[i] entries of
	// Blocks (concatenated over rows).
	BlockFrom  I32 `json:"block_from"`
	BlockCount I32 `json:"block_count"`
	Blocks     I32 `json:"blocks"`

	Preempted U64 `json:"preempted,omitempty"` // sequences that lost their blocks
	Copies    I32 `json:"copies,omitempty"`    // block pairs to copy before the step: source, destination, …

	Free      int32 `json:"free"`      // blocks that are neither used nor cached, afterwards
	Evictable int32 `json:"evictable"` // cached blocks: free to take, but worth keeping
	Total     int32 `json:"total"`
}

// MemoryState is the memory manager's debugging snapshot.
type MemoryState struct {
	_msgpack struct{} `msgpack:",as_array"`

	Epoch        Epoch      `json:"epoch"`
	Step         StepID     `json:"step"`
	BlockSize    int32      `json:"block_size"`
	Total        int32      `json:"total"`
	Free         int32      `json:"free"`
	Cached       int32      `json:"cached"` // hold reusable prefixes, nobody uses them now
	Used         int32      `json:"used"`   // referenced by at least one sequence
	Shared       int32      `json:"shared"` // referenced by more than one
	Seqs         int32      `json:"seqs"`
	QueryTokens  uint64     `json:"query_tokens"` // prompt tokens looked up in the prefix cache
	HitTokens    uint64     `json:"hit_tokens"`   // of these, found
	Evictions    uint64     `json:"evictions"`
	Copies       uint64     `json:"copies"`
	Preemptions  uint64     `json:"preemptions"`
	Policy       string     `json:"policy"` // eviction
	BytesPer     int64      `json:"bytes_per_block"`
	Tables       []SeqTable `json:"tables"` // the first SeqStatesMax sequences by id
	MoreTables   int32      `json:"more_tables"`
	PrefixHashed int32      `json:"prefix_hashed"` // blocks findable by prefix
}

// SeqTable is one sequence's block table in a MemoryState.
type SeqTable struct {
	_msgpack struct{} `msgpack:",as_array"`

	Seq    SeqID `json:"seq"`
	Placed int32 `json:"placed"` // tokens that have a place
	Blocks I32   `json:"blocks"`
}
