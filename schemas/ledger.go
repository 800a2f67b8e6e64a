package schemas

import (
	"cmp"
	"slices"
)

// SeqLedger says where a sequence's time went between its scheduler's taking it and its handing on of a token, and in the
// tokenizer, in nanoseconds. The parts follow each other; what they lack of Span, nobody accounts for.
type SeqLedger struct {
	_msgpack struct{} `msgpack:",as_array"`

	Row int32 `json:"row"` // of the message that carries it

	Span       int64 `json:"span_ns"`       // since the scheduler took the request
	Queue      int64 `json:"queue_ns"`      // not in a step, or behind a step without it
	Schedule   int64 `json:"schedule_ns"`   // planning, while the device had nothing of it to do
	Memory     int64 `json:"memory_ns"`     // reserving blocks, likewise
	Serialize  int64 `json:"serialize_ns"`  // messages to memory and compute, if they are elsewhere
	Bus        int64 `json:"bus_ns"`        // the way to memory and compute, and results on theirs back
	Launch     int64 `json:"launch_ns"`     // handing plans over until the device has its inputs
	Device     int64 `json:"device_ns"`     // steps with it on the device
	Detokenize int64 `json:"detokenize_ns"` // in the tokenizer, beyond Span
}

// RequestLedger says where the time of a client's request went, in microseconds. Every moment counts once, for what the
// request waited for then: the parts add up to Wall. What overlaps with the device's work, as the text of earlier tokens
// does, costs a request no time and is not in it.
type RequestLedger struct {
	Gateway    float64 `json:"gateway" jsonschema_description:"reading, checking, placing and writing the request and its answer"`
	Tokenize   float64 `json:"tokenize" jsonschema_description:"chat template and tokenizer"`
	Queue      float64 `json:"queue" jsonschema_description:"waiting for a place in a step, and behind steps of others"`
	Schedule   float64 `json:"schedule" jsonschema_description:"planning of its steps while the device had nothing of it to do"`
	Memory     float64 `json:"memory" jsonschema_description:"reserving its KV blocks, likewise"`
	Serialize  float64 `json:"serialize" jsonschema_description:"encoding and decoding of the calls of gateway and scheduler that leave the process; 0 in process"`
	Bus        float64 `json:"bus" jsonschema_description:"messages under way: from where one actor hands one over to where the next takes it up"`
	Launch     float64 `json:"launch" jsonschema_description:"from a plan to the device's having its inputs"`
	Device     float64 `json:"device" jsonschema_description:"the steps it was in: model and sampler"`
	Detokenize float64 `json:"detokenize" jsonschema_description:"the last token's way to text"`
	Send       float64 `json:"send" jsonschema_description:"writing to the client, once the last token was there"`
	Idle       float64 `json:"idle" jsonschema_description:"what no actor accounts for"`
	Wall       float64 `json:"wall" jsonschema_description:"from the request's arrival until this was written"`
}

// LedgerPart is a part of a RequestLedger.
type LedgerPart struct {
	Name string
	Us   float64
}

// Parts lists the parts, in the order of the way of a request.
func (l *RequestLedger) Parts() []LedgerPart {
	return []LedgerPart{{"gateway", l.Gateway}, {"tokenize", l.Tokenize}, {"queue", l.Queue}, {"schedule", l.Schedule}, {"memory", l.Memory},
		{"serialize", l.Serialize}, {"bus", l.Bus}, {"launch", l.Launch}, {"device", l.Device}, {"detokenize", l.Detokenize}, {"send", l.Send}, {"idle", l.Idle}}
}

// Wish is what a request may ask of this engine beyond the API of others, in its field troupe.
type Wish struct {
	Ledger bool `json:"ledger,omitempty" jsonschema_description:"tell where the request's time went, in the answer or a stream's last event"`
}

// Extra is what an answer has beyond the API of others, in its field troupe.
type Extra struct {
	Ledger *RequestLedger `json:"ledger,omitempty"`
}

// Example is the first token of a sequence that waited for no one.
func (*SeqLedger) Example() *SeqLedger {
	return &SeqLedger{Span: 1_120_000, Schedule: 9_000, Memory: 4_000, Bus: 12_000, Launch: 35_000, Device: 1_060_000, Detokenize: 6_000}
}

// Example is a short answer on a quiet machine.
func (*RequestLedger) Example() *RequestLedger {
	return &RequestLedger{Gateway: 61, Tokenize: 40, Schedule: 9, Memory: 4, Bus: 55, Launch: 35, Device: 1060, Detokenize: 6, Send: 12, Idle: 18, Wall: 1300}
}

// LedgerOf is the ledger of a row, or nil. Ledgers are in the order of their rows.
func LedgerOf(ledgers []SeqLedger, row int) *SeqLedger {
	at, found := slices.BinarySearchFunc(ledgers, row, func(l SeqLedger, row int) int { return cmp.Compare(int(l.Row), row) })
	if !found {
		return nil
	}
	return &ledgers[at]
}
