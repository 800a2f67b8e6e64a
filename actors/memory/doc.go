// Package memory manages the KV blocks of one replica: who holds which block, what prefixes can be
// reused, and who has to give way when blocks run out.
//
// The core is a deterministic state machine. [Core.Reserve] takes the one message a scheduler sends
// per step ([schemas.ReserveRequest], the contract) and answers with granted rows; the same requests
// give the same replies on every run and machine. It never sees a tensor: blocks are numbers, and the
// device follows the block tables and the copies in the replies.
//
// The life of a block:
//
//	free ──alloc──▶ used ──last holder lets go──▶ free                 (content has no name, or a twin in use)
//	                 ▲ └──last holder lets go──▶ evictable ──evict──▶ used by another
//	                 └────────prefix match────────────┘
//
// A used block is counted once per block table that lists it. Once all its places were filled by
// earlier steps and all its token ids are known, its content gets a name and can be found by prefix
// (prefix.go). Which evictable block goes first is a policy's choice, changed while serving (evict.go, ranked.go).
// Files in reading order: core.go, rows.go, room.go, pool.go, prefix.go, adopt.go, evict.go, ranked.go; clone.go tries
// messages on a copy.
//
// Step 4, asked by actors/scheduler. In: schemas.ReserveRequest. Out: schemas.ReserveReply. Next: by
// way of the scheduler's plan, actors/compute.
package memory
