package schemas

import (
	"fmt"
	"math"
)

// A replica's parts can be nodes of their own: a computation manager with its device on one, its scheduler and memory manager on
// another. The computation manager's node does not look for a scheduler; schedulers look for it, by its node's reports, and claim it.

// ClaimDevice is asked of a node with a device that waits for a scheduler. The first request with a Claim makes the caller
// its scheduler, unless another one is; the caller repeats it, with Renew, several times a second. A claim ends when it is
// released, when its owner is silent for too long or cut off and another one comes, and with either process.
var ClaimDevice = define[ClaimRequest, ClaimReply]("device", "claim", hotTimeout, 1,
	"Execute the steps of one scheduler on another node, for as long as it says that it is there.")

// ClaimRequest makes a node the scheduler of a device, or keeps it that.
type ClaimRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Scheduler NodeID `json:"scheduler"`         // who asks
	Claim     uint64 `json:"claim"`             // drawn for each claim, not 0; a repeat is known by it
	Renew     bool   `json:"renew,omitempty"`   // only if the claim is in force
	Release   bool   `json:"release,omitempty"` // end it
	Busy      int32  `json:"busy,omitempty"`    // sequences that the scheduler has for the device
	// InOrder: it refuses results that come before the one that is due, and may get them without waiting for the
	// acknowledgement of the one before.
	InOrder bool `json:"in_order,omitempty"`
}

// claimDigits are those of a claim in the name of its replica; ClaimNodeMax bounds the name of a node with a device.
const (
	claimDigits  = 6
	ClaimNodeMax = 64 - 1 - claimDigits // characters
)

// Replica is the name under which scheduler and memory are to run for a device: the computation manager calls them by it, and
// answers to it. Each claim has its own, so that nothing an earlier scheduler still says is heard.
func (r *ClaimRequest) Replica(device Instance) Instance {
	return Instance(fmt.Sprintf("%s-%0*x", device, claimDigits, r.Claim&(1<<(4*claimDigits)-1)))
}

// ClaimReply says what the device can do. It is the same for as long as the claim is in force, but for Draining.
type ClaimReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Replica       Instance `json:"replica"` // see ClaimRequest.Replica
	Node          NodeID   `json:"node"`    // of the device
	Model         string   `json:"model"`
	Numerics      string   `json:"numerics"`        // see ReplicaReport
	Phase         string   `json:"phase,omitempty"` // likewise
	Device        string   `json:"device"`
	Description   string   `json:"description"` // of the device
	VocabSize     int32    `json:"vocab_size"`
	ContextMax    int32    `json:"context_max"`     // tokens, prompt and output together
	SequencesMax  int32    `json:"sequences_max"`   // slots
	TokensStepMax int32    `json:"tokens_step_max"` // of one step
	BlockSize     int32    `json:"block_size"`      // tokens per KV block
	Blocks        int32    `json:"blocks"`          // KV blocks of the pool
	BlockBytes    int64    `json:"block_bytes"`     // of one block, over all layers
	EndTokens     I32      `json:"end_tokens"`
	Draining      bool     `json:"draining,omitempty"` // it is to get no new requests
	InOrder       bool     `json:"in_order,omitempty"` // it refuses plans that come before the one that they follow: see StepPlan.After
}

// Limits of a ClaimReply: what a scheduler and its memory are sized by, which a device elsewhere decides.
const (
	claimSequencesMax = 1 << 16
	claimBlocksMax    = 1 << 22
	claimEndTokensMax = 1 << 10
	claimTextMax      = 256 // bytes: some of it is told again with every report
)

// Validate names the first field that cannot be true.
func (r *ClaimReply) Validate() *Error {
	bad := func(param string, value any, want string) *Error {
		return Errorf(KindInvalid, "claim", "%s is %v; expected %s", param, value, want).WithParam(param)
	}
	for _, f := range []struct {
		name        string
		value, most int32
	}{{"vocab_size", r.VocabSize, math.MaxInt32}, {"context_max", r.ContextMax, math.MaxInt32}, {"sequences_max", r.SequencesMax, claimSequencesMax},
		{"tokens_step_max", r.TokensStepMax, math.MaxInt32}, {"block_size", r.BlockSize, math.MaxInt32}, {"blocks", r.Blocks, claimBlocksMax}} {
		if f.value < 1 || f.value > f.most {
			return bad(f.name, f.value, fmt.Sprintf("1 to %d", f.most))
		}
	}
	for _, f := range []struct{ name, value string }{{"numerics", r.Numerics}, {"device", r.Device}, {"description", r.Description}} {
		if len(f.value) > claimTextMax {
			return bad(f.name, fmt.Sprintf("%d bytes long", len(f.value)), fmt.Sprintf("at most %d", claimTextMax))
		}
	}
	switch {
	case r.Phase != "" && r.Phase != PhasePrefill && r.Phase != PhaseDecode:
		return bad("phase", fmt.Sprintf("%.40q", r.Phase), "prefill, decode or nothing")
	case int64(r.BlockSize)*int64(r.Blocks) > math.MaxInt32:
		return bad("blocks", r.Blocks, "at most 2147483647 tokens in all")
	case r.BlockBytes < 0:
		return bad("block_bytes", r.BlockBytes, "0 or more")
	case len(r.EndTokens) > claimEndTokensMax:
		return bad("end_tokens", len(r.EndTokens), fmt.Sprintf("at most %d of them", claimEndTokensMax))
	}
	return nil
}
