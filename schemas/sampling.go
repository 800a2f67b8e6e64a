package schemas

import (
	"fmt"
	"math"
)

// SamplingParams says how a sequence's tokens are drawn. Temperature 0 is greedy.
type SamplingParams struct {
	_msgpack struct{} `msgpack:",as_array"`

	Temperature float32 `json:"temperature"` // 0..100; 0 is greedy
	TopP        float32 `json:"top_p"`       // (0, 1]; 1 is off
	TopK        int32   `json:"top_k"`       // 0 is off
	MinP        float32 `json:"min_p"`       // [0, 1]; 0 is off
	Seed        uint64  `json:"seed,string"` // choice i of a request draws with Seed+i
}

// Validate names the first parameter that is out of range.
func (p *SamplingParams) Validate() *Error {
	bad := func(param string, value any, want string) *Error {
		return Errorf(KindInvalid, "sampling", "%s is %v; expected %s", param, value, want).WithParam(param)
	}
	inRange := func(v, low, high float32) bool { return v >= low && v <= high } // false for NaN
	switch {
	case !inRange(p.Temperature, 0, 100):
		return bad("temperature", p.Temperature, "0 to 100")
	case !inRange(p.TopP, math.SmallestNonzeroFloat32, 1):
		return bad("top_p", p.TopP, "more than 0, at most 1")
	case p.TopK < 0:
		return bad("top_k", p.TopK, "0 (off) or a positive count")
	case !inRange(p.MinP, 0, 1):
		return bad("min_p", p.MinP, "0 to 1")
	}
	return nil
}

// FinishReason says why a sequence ended. The numbers are stable: they travel in columns.
type FinishReason uint8

// Finish reasons. FinishNone means the sequence goes on.
const (
	FinishNone   FinishReason = iota
	FinishStop                // an end token or a stop string
	FinishLength              // the token limit or the end of the context
	FinishCancel              // the client cancelled or went away
	FinishError               // see the accompanying Error
)

var finishNames = [...]string{"", "stop", "length", "cancelled", "error"}

func (f FinishReason) String() string {
	if int(f) < len(finishNames) {
		return finishNames[f]
	}
	return fmt.Sprintf("FinishReason(%d)", uint8(f))
}
