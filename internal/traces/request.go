package traces

import (
	"math/bits"

	"github.com/troupe-engine/troupe/schemas"
)

// Request is one request of a workload.
type Request struct {
	ArrivalNs int64     // after the first request of the workload
	Input     int32     // prompt tokens, at least 1
	Output    int32     // tokens of the answer, at least 1
	Prompt    []Segment // what the prompt consists of; nil: like no other prompt
	Reply     uint64    // the identity of the answer, as later prompts have it in a Segment; 0: like no other
	Priority  int32
	User      string
}

// Segment is a part of a prompt. The same ID stands for the same tokens; a shorter segment is the beginning of a
// longer one with its ID.
type Segment struct {
	ID     uint64 // see SegmentID
	Tokens int32
}

// What an identity is made from, so that those of different sources are never the same by accident.
const (
	kindHash   = 1 + iota // a block hash of a trace
	kindText              // a hash of text
	kindPrefix            // a shared prefix of a synthetic workload
	kindPrompt            // the rest of a request's prompt
	kindReply             // a request's answer
)

// identity combines what kind of thing has a number with the number.
func identity(kind, number uint64) uint64 {
	return max(1, mix(mix(kind)^number)) // 0 is no identity
}

// mix folds a 128-bit product with odd constants (the fractions of √5 and √7).
func mix(v uint64) uint64 {
	hi, lo := bits.Mul64(v^0x3c6ef372fe94f82b, 0xa54ff53a5f1d36f1)
	return hi ^ lo
}

// PromptTokens appends the token ids of the prompt of request number index to dst: Input ids below vocabulary. They
// depend on the identities of the prompt's segments, or on the index alone where there are none.
func (r *Request) PromptTokens(dst []int32, vocabulary int32, index int) []int32 {
	left := r.Input
	for _, s := range r.Prompt {
		n := min(s.Tokens, left)
		dst = appendTokens(dst, s.ID, 0, n, vocabulary)
		left -= n
	}
	return appendTokens(dst, identity(kindPrompt, uint64(index)), 0, left, vocabulary)
}

// ReplyTokens returns what identifies the answer of request number index, for TokenAt.
func (r *Request) ReplyTokens(index int) uint64 {
	if r.Reply != 0 {
		return r.Reply
	}
	return identity(kindReply, uint64(index))
}

// TokenAt is token i of the segment with an identity.
func TokenAt(id uint64, i, vocabulary int32) int32 {
	h := mix(id + uint64(i>>1))
	if i&1 == 1 {
		h >>= 32
	}
	return int32(uint64(uint32(h)) * uint64(vocabulary) >> 32)
}

// appendTokens appends tokens from to from+n of a segment; from is even.
func appendTokens(dst []int32, id uint64, from, n, vocabulary int32) []int32 {
	v, end := uint64(vocabulary), from+n
	i := from
	for ; i+1 < end; i += 2 {
		h := mix(id + uint64(i>>1))
		dst = append(dst, int32(uint64(uint32(h))*v>>32), int32((h>>32)*v>>32))
	}
	if i < end {
		dst = append(dst, TokenAt(id, i, vocabulary))
	}
	return dst
}

// Limits of what a trace may ask for.
const (
	TokensMax   = 1 << 24 // of one prompt or answer
	RequestsMax = 1 << 24 // of one workload
	arrivalMax  = 1 << 61 // nanoseconds between two requests: some 73 years
)

// check holds a request to the limits, as far as formats can exceed them.
func (r *Request) check() (field string, err *schemas.Error) {
	switch {
	case r.Input < 1 || r.Input > TokensMax:
		return "input", schemas.Errorf(schemas.KindInvalid, "trace", "%d prompt tokens; expected 1 to %d", r.Input, TokensMax)
	case r.Output < 1 || r.Output > TokensMax:
		return "output", schemas.Errorf(schemas.KindInvalid, "trace", "%d tokens of output; expected 1 to %d", r.Output, TokensMax)
	}
	return "", nil
}
