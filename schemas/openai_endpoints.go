package schemas

import (
	"encoding/json"
	"reflect"
)

// GatewayInfo describes a gateway. It stands here because gateways are the only actors that know it.
var GatewayInfo = define[InfoRequest, GatewayState]("gateway", "state", askTimeout, 1,
	"The gateway's state for debugging.")

// ClientEndpoint is an exchange with clients. Its bodies are JSON objects, or msgpack maps with the same
// keys; an answer is one message or a stream.
type ClientEndpoint struct {
	Verb           string
	Path           string // over HTTP; "" if there is none
	Doc            string
	Request, Reply reflect.Type
	RequestExample any // pointers
	ReplyExample   any
	Event          reflect.Type // of a stream; nil if the answer is never one
	EventExample   any
}

// Subject is the endpoint's subject: inf.v1.<verb>.
func (e ClientEndpoint) Subject() string { return SubjectPrefix + e.Verb }

// ClientEndpoints lists what clients can ask, for listings.
func ClientEndpoints() []ClientEndpoint {
	return []ClientEndpoint{
		{Verb: "chat", Path: "/v1/chat/completions", Doc: "The next message of a conversation.",
			Request: reflect.TypeFor[ChatRequest](), RequestExample: (*ChatRequest)(nil).Example(),
			Reply: reflect.TypeFor[ChatCompletion](), ReplyExample: (*ChatCompletion)(nil).Example(),
			Event: reflect.TypeFor[ChatChunk](), EventExample: (*ChatChunk)(nil).Example()},
		{Verb: "generate", Path: "/v1/completions", Doc: "The continuation of a prompt: text or tokens.",
			Request: reflect.TypeFor[CompletionRequest](), RequestExample: (*CompletionRequest)(nil).Example(),
			Reply: reflect.TypeFor[Completion](), ReplyExample: (*Completion)(nil).Example(),
			Event: reflect.TypeFor[Completion](), EventExample: (*Completion)(nil).Example()},
		{Verb: "responses", Path: "/v1/responses", Doc: "The next output of a conversation, in the form of OpenAI's Responses API.",
			Request: reflect.TypeFor[ResponsesRequest](), RequestExample: (*ResponsesRequest)(nil).Example(),
			Reply: reflect.TypeFor[Response](), ReplyExample: (*Response)(nil).Example(),
			Event: reflect.TypeFor[ResponseEvent](), EventExample: (*ResponseEvent)(nil).Example()},
		{Verb: "embed", Path: "/v1/embeddings", Doc: "The vectors that stand for texts.",
			Request: reflect.TypeFor[EmbeddingRequest](), RequestExample: (*EmbeddingRequest)(nil).Example(),
			Reply: reflect.TypeFor[EmbeddingList](), ReplyExample: (*EmbeddingList)(nil).Example()},
		{Verb: "tokenize", Path: "/tokenize", Doc: "The tokens of a prompt or of chat messages.",
			Request: reflect.TypeFor[TokenizeRequest](), RequestExample: (*TokenizeRequest)(nil).Example(),
			Reply: reflect.TypeFor[TokenizeReply](), ReplyExample: (*TokenizeReply)(nil).Example()},
		{Verb: "detokenize", Path: "/detokenize", Doc: "The text of tokens.",
			Request: reflect.TypeFor[DetokenizeRequest](), RequestExample: (*DetokenizeRequest)(nil).Example(),
			Reply: reflect.TypeFor[DetokenizeReply](), ReplyExample: (*DetokenizeReply)(nil).Example()},
		{Verb: "models", Path: "/v1/models", Doc: "The served models.",
			Request: reflect.TypeFor[ModelsRequest](), RequestExample: (*ModelsRequest)(nil).Example(),
			Reply: reflect.TypeFor[ModelList](), ReplyExample: (*ModelList)(nil).Example()},
		{Verb: "cancel", Doc: "End a request early, by the id that its answer carries.",
			Request: reflect.TypeFor[CancelClientRequest](), RequestExample: (*CancelClientRequest)(nil).Example(),
			Reply: reflect.TypeFor[CancelClientReply](), ReplyExample: (*CancelClientReply)(nil).Example()},
	}
}

const exampleCreated = 1764000000

func ptr[T any](v T) *T { return &v }

// Example asks for a streamed story.
func (*ChatRequest) Example() *ChatRequest {
	return &ChatRequest{Messages: json.RawMessage(`[{"role":"user","content":"Tell me a story."}]`),
		GenerationParams: GenerationParams{Model: "troupe-tiny", Temperature: ptr(0.8), MaxTokens: ptr(int64(64)), Stream: true}}
}

// Example continues a sentence, twice.
func (*CompletionRequest) Example() *CompletionRequest {
	return &CompletionRequest{Prompt: Prompts{Texts: []string{"Once upon a time"}},
		GenerationParams: GenerationParams{N: ptr(int64(2)), MaxTokens: ptr(int64(64)), Seed: ptr(Seed(42)), Stop: StringList{"\n\n"}}}
}

// Example is a short answer.
func (*ChatCompletion) Example() *ChatCompletion {
	return &ChatCompletion{ID: "chatcmpl-" + exampleRequest.String(), Object: "chat.completion", Created: exampleCreated, Model: "troupe-tiny",
		Choices: []ChatChoice{{Message: ChatMessage{Role: "assistant", Content: "There was a king."}, FinishReason: "stop"}},
		Usage:   (*Usage)(nil).Example()}
}

// Example is the first text of a streamed answer.
func (*ChatChunk) Example() *ChatChunk {
	return &ChatChunk{ID: "chatcmpl-" + exampleRequest.String(), Object: "chat.completion.chunk", Created: exampleCreated, Model: "troupe-tiny",
		Choices: []ChunkChoice{{Delta: ChatDelta{Content: ptr(" there")}}}, Seq: 2}
}

// Example is a continuation.
func (*Completion) Example() *Completion {
	return &Completion{ID: "cmpl-" + exampleRequest.String(), Object: "text_completion", Created: exampleCreated, Model: "troupe-tiny",
		Choices: []CompletionChoice{{Text: " there was a king.", FinishReason: ptr("stop")}}, Usage: &StreamUsage{(*Usage)(nil).Example()}}
}

// Example counts a prompt of three tokens, two of them cached.
func (*Usage) Example() *Usage {
	return &Usage{PromptTokens: 3, CompletionTokens: 5, TotalTokens: 8, PromptDetails: &PromptDetails{CachedTokens: 2}}
}

// Example asks; there is nothing to say.
func (*ModelsRequest) Example() *ModelsRequest { return &ModelsRequest{} }

// Example lists the default model.
func (*ModelList) Example() *ModelList {
	return &ModelList{Object: "list", Data: []ModelCard{{ID: "troupe-tiny", Object: "model", Created: exampleCreated, OwnedBy: "troupe", MaxModelLen: 2048}}}
}

// Example cancels the example request.
func (*CancelClientRequest) Example() *CancelClientRequest {
	return &CancelClientRequest{ID: "chatcmpl-" + exampleRequest.String()}
}

// Example confirms it.
func (*CancelClientReply) Example() *CancelClientReply {
	return &CancelClientReply{ID: "chatcmpl-" + exampleRequest.String(), Cancelled: true}
}

// Example is a refused temperature.
func (*ErrorReply) Example() *ErrorReply {
	return ptr(NewErrorReply((*Error)(nil).Example()))
}

// Example is a gateway with one running request.
func (*GatewayState) Example() *GatewayState {
	return &GatewayState{Ready: true, Running: 1, RunningMax: 512, Started: 1,
		Requests: []RequestState{*(*RequestState)(nil).Example()}}
}

// Example is the example request, five tokens in.
func (*RequestState) Example() *RequestState {
	return &RequestState{Request: exampleRequest, PromptTokens: 3, OutputTokens: 5, Choices: 2, AgeMs: 12}
}
