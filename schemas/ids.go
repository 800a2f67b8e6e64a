package schemas

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// ChoicesMax is the largest n of one request: a SeqID keeps the choice in its low byte.
const ChoicesMax = 128

// RequestID names one request inside the company of actors. Its low 8 bits are zero. The gateway
// makes it (see NewRequestID); clients see it as the hexadecimal tail of "chatcmpl-…".
type RequestID uint64

// SeqID names one sequence: a request and the index of one of its n choices.
type SeqID uint64

// NewRequestID combines a gateway's random prefix with its counter, so that gateways need not
// coordinate.
func NewRequestID(prefix uint32, counter uint32) RequestID {
	return RequestID(uint64(prefix&0xffffff)<<40 | uint64(counter)<<8)
}

// Seq returns the id of choice i, 0 ≤ i < ChoicesMax.
func (r RequestID) Seq(i int) SeqID {
	if i < 0 || i >= ChoicesMax {
		panic(fmt.Sprintf("schemas: choice %d outside 0..%d", i, ChoicesMax-1))
	}
	return SeqID(uint64(r) | uint64(i))
}

// Request returns the request s belongs to.
func (s SeqID) Request() RequestID { return RequestID(s &^ 0xff) }

// Choice returns the index of s among its request's choices.
func (s SeqID) Choice() int { return int(s & 0xff) }

func (r RequestID) String() string { return fmt.Sprintf("%016x", uint64(r)) }
func (s SeqID) String() string     { return fmt.Sprintf("%016x", uint64(s)) }

// MarshalJSON writes the hexadecimal form: JavaScript numbers cannot hold 64 bits.
func (r RequestID) MarshalJSON() ([]byte, error) { return json.Marshal(r.String()) }

// MarshalJSON writes the hexadecimal form.
func (s SeqID) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// UnmarshalJSON reads the hexadecimal form.
func (r *RequestID) UnmarshalJSON(b []byte) error {
	v, err := parseHexID(b)
	if err == nil && v&0xff != 0 {
		err = fmt.Errorf("request id %016x: the low 8 bits must be zero", v)
	}
	*r = RequestID(v)
	return err
}

// UnmarshalJSON reads the hexadecimal form.
func (s *SeqID) UnmarshalJSON(b []byte) error {
	v, err := parseHexID(b)
	*s = SeqID(v)
	return err
}

func parseHexID(b []byte) (uint64, error) {
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return 0, fmt.Errorf("id: want a hexadecimal string, got %.40s", b)
	}
	v, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		return 0, fmt.Errorf("id: want 16 hexadecimal digits, got %.40q", text)
	}
	return v, nil
}

// StepID numbers what a scheduler asks memory, from 1. A step that is granted runs under this number, and steps
// run in this order; one that is not leaves a gap.
type StepID uint64

// Epoch changes whenever a scheduler starts anew; memory and compute then forget all sequences.
type Epoch uint64

// BlockID is the index of a KV block in its replica's pool.
type BlockID int32

// Slot is the index of a running sequence on the device: its row of the block tables and the
// place of its last token.
type Slot int32

// NodeID names a process that runs actors. It is also the name of its embedded NATS server.
type NodeID string

// Instance distinguishes actors of one service: "replica0", "gateway-3f2a".
type Instance string
