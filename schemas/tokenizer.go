package schemas

import "encoding/json"

// EncodeRequest turns a prompt into tokens and, if Detok is set, opens the session that will turn
// the answer back into text. Exactly one of Prompt, Tokens and Messages is used: the first set.
// A repeat with the same Request leaves the session as it is, so a retry is harmless.
type EncodeRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Request      RequestID       `json:"request"`
	Tokens       I32             `json:"tokens,omitempty"`        // already encoded; only checked against the vocabulary
	Messages     json.RawMessage `json:"messages,omitempty"`      // OpenAI chat messages, rendered by the chat template
	Tools        json.RawMessage `json:"tools,omitempty"`         // OpenAI tools, for the chat template
	TemplateArgs json.RawMessage `json:"template_args,omitempty"` // chat_template_kwargs: a JSON object
	Continue     bool            `json:"continue,omitempty"`      // with Messages: no generation prompt
	Prompt       string          `json:"prompt,omitempty"`        // plain text
	Raw          bool            `json:"raw,omitempty"`           // add no special tokens
	Detok        *DetokSpec      `json:"detok,omitempty"`
}

// DetokSpec says how and for whom a request's answer becomes text.
type DetokSpec struct {
	_msgpack struct{} `msgpack:",as_array"`

	Gateway     Instance `json:"gateway"`                // receives the DeltaBatches
	Scheduler   Instance `json:"scheduler"`              // is told to stop when a stop string appears; "" is the one whose tokens come
	Choices     int32    `json:"choices"`                // sequences of the request
	Stop        []string `json:"stop,omitempty"`         // stop strings; matched across token boundaries
	KeepStop    bool     `json:"keep_stop,omitempty"`    // leave the stop string in the text
	KeepSpecial bool     `json:"keep_special,omitempty"` // leave special tokens in the text
	Resume      *Resumed `json:"resume,omitempty"`       // output whose text has been delivered already
}

// EncodeReply carries the prompt's tokens.
type EncodeReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Tokens I32    `json:"tokens"`
	Text   string `json:"text,omitempty"` // the rendered chat template, for Messages
}

// DecodeRequest asks for the text of tokens, for debugging and /detokenize.
type DecodeRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Tokens      I32  `json:"tokens"`
	KeepSpecial bool `json:"keep_special,omitempty"`
}

// DecodeReply is the text of a DecodeRequest.
type DecodeReply struct {
	_msgpack struct{} `msgpack:",as_array"`

	Text string `json:"text"`
}

// TokenBatch carries what one or more steps produced, from a scheduler to the tokenizer that holds
// the sequences' sessions. Rows are in order per sequence; a row whose Index was seen before is a
// repetition and ignored. An end row (Finish ≠ 0) may carry no token (Token -1).
type TokenBatch struct {
	_msgpack struct{} `msgpack:",as_array"`

	From   Instance   `json:"from"`   // the scheduler
	Number uint64     `json:"number"` // counts batches from 1, per receiver
	Seq    U64        `json:"seq"`
	Index  I32        `json:"index"` // of the token in the sequence's output, from 0
	Token  I32        `json:"token"` // -1: no token in this row
	Finish U8         `json:"finish"`
	Cached I32        `json:"cached"`           // prompt tokens that came from the prefix cache
	Errors []SeqError `json:"errors,omitempty"` // why, for rows that end with FinishError

	Logprobs   []TokenLogprobs `json:"logprobs,omitempty"`   // of the rows' tokens, and of the prompt's with the first of a sequence
	Embeddings []Embedding     `json:"embeddings,omitempty"` // of rows that end an embedding request
	Ledgers    []SeqLedger     `json:"ledgers,omitempty"`    // of the rows with a token whose requests ask for them
}

// SeqError is the reason a sequence failed.
type SeqError struct {
	_msgpack struct{} `msgpack:",as_array"`

	Seq   SeqID `json:"seq"`
	Error Error `json:"error"`
}

// Ack confirms a batch. Forgotten lists sequences the receiver does not know (any more): the sender
// should cancel them, nobody is listening.
type Ack struct {
	_msgpack struct{} `msgpack:",as_array"`

	Forgotten U64 `json:"forgotten,omitempty"`
}

// DeltaBatch carries new text from the tokenizer to the gateway that owns the requests. Rows are in
// order per sequence; Tokens counts the sequence's output so far, and a row that does not advance it
// (and does not end the sequence) is a repetition.
type DeltaBatch struct {
	_msgpack struct{} `msgpack:",as_array"`

	From   Instance   `json:"from"`   // the tokenizer
	Number uint64     `json:"number"` // counts batches from 1, per receiver
	Seq    U64        `json:"seq"`
	Text   []string   `json:"text"`   // newly completed text; may be empty
	Tokens I32        `json:"tokens"` // output tokens so far, the row's own included
	IDs    I32        `json:"ids"`    // the row's token, -1 for none
	Finish U8         `json:"finish"`
	Cached I32        `json:"cached"` // prompt tokens that came from the prefix cache
	Errors []SeqError `json:"errors,omitempty"`

	Logprobs   []TextLogprobs `json:"logprobs,omitempty"`
	Embeddings []Embedding    `json:"embeddings,omitempty"`
	Ledgers    []SeqLedger    `json:"ledgers,omitempty"`
}

// TextLogprobs is TokenLogprobs with the bytes of its tokens; one alone may be part of a character.
type TextLogprobs struct {
	_msgpack struct{} `msgpack:",as_array"`

	Logprobs TokenLogprobs `json:"logprobs"`
	Bytes    [][]byte      `json:"bytes"` // [n, Width]: what each token adds to the text
}

// TokenizerState is the tokenizer's debugging snapshot.
type TokenizerState struct {
	_msgpack struct{} `msgpack:",as_array"`

	Model     string `json:"model"`
	VocabSize int32  `json:"vocab_size"`
	ChatReady bool   `json:"chat_ready"` // the model has a chat template
	Sessions  int32  `json:"sessions"`   // sequences being turned into text
	Encoded   uint64 `json:"encoded"`    // tokens, in total
	Decoded   uint64 `json:"decoded"`

	ToolFormat string          `json:"tool_format,omitempty"` // of function calls, as the chat template has them; see package toolcalls
	Sampling   *SamplingParams `json:"sampling,omitempty"`    // the model's own, from generation_config.json; nil from programs that do not say
}
