package schemas

import "encoding/json"

// What every actor can be asked to be understood, besides its state.

// TryRequest asks what an actor would do about a message. A copy of its core gets the message; the actor itself stays as
// it is.
type TryRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Verb    string          `json:"verb"`    // the message is for <service>.<verb>; a gateway takes what clients send, as chat
	Message json.RawMessage `json:"message"` // as JSON, whatever the encoding of this request
}

// TryReply is what came of it. Reply or Error is what the sender would get.
type TryReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Verb    string          `json:"verb"`
	Reply   json.RawMessage `json:"reply,omitempty"`
	Error   *Error          `json:"error,omitempty"`
	Effects json.RawMessage `json:"effects,omitempty"` // what else would follow
	State   json.RawMessage `json:"state,omitempty"`   // of the copy, afterwards
}

// ActorHealth says whether an actor can do its work.
type ActorHealth struct {
	_msgpack struct{} `msgpack:",as_array"`

	Actor   string   `json:"actor"`
	Healthy bool     `json:"healthy"`
	Reasons []string `json:"reasons,omitempty"` // why not
}

var (
	tries   = map[string]Endpoint[TryRequest, TryReply]{}
	healths = map[string]Endpoint[InfoRequest, ActorHealth]{}
)

func init() {
	for _, service := range []string{"tokenizer", "scheduler", "memory", "compute", "gateway"} {
		tries[service] = define[TryRequest, TryReply](service, "try", askTimeout, 1, "What a message of one's own would do, tried in a copy of the "+service+"'s state.")
		healths[service] = define[InfoRequest, ActorHealth](service, "health", askTimeout, 1, "Whether the "+service+" can do its work and, if not, why.")
	}
}

// Try is the endpoint of a service that tries messages in a copy of its state.
func Try(service string) Endpoint[TryRequest, TryReply] { return tries[service] }

// Health is the endpoint of a service that says how it is.
func Health(service string) Endpoint[InfoRequest, ActorHealth] { return healths[service] }

// Example tries a cancellation.
func (*TryRequest) Example() *TryRequest {
	return &TryRequest{Verb: "cancel", Message: json.RawMessage(`{"seq":["00000a0000000100"],"finish":3}`)}
}

// Example is a cancellation of a sequence that is unknown.
func (*TryReply) Example() *TryReply {
	return &TryReply{Verb: "cancel", Reply: json.RawMessage(`{"cancelled":0}`)}
}

// Example is a device that is stuck.
func (*ActorHealth) Example() *ActorHealth {
	return &ActorHealth{Actor: "scheduler.replica0", Reasons: []string{"step 9 has had no result for 4.2 s"}}
}
