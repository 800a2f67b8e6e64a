package schemas

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// LogprobMin stands for the logarithm of 0, which JSON cannot express.
const LogprobMin = -9999

// ChatLogprobs are the log-probabilities of the tokens of a chat choice, or of what an event adds to it.
type ChatLogprobs struct {
	Content []ChatLogprob `json:"content"`
	Refusal []ChatLogprob `json:"refusal" jsonschema:"nullable"` // null: the engine does not refuse
}

// ChatLogprob is a sampled token with the likeliest ones at its place, in descending order.
type ChatLogprob struct {
	TopLogprob
	TopLogprobs []TopLogprob `json:"top_logprobs"`
}

// TopLogprob is a token with its bytes, of which a character may need several tokens.
type TopLogprob struct {
	Token   string  `json:"token"`
	Logprob float32 `json:"logprob"`
	Bytes   U8      `json:"bytes"`
}

// CompletionLogprobs are the log-probabilities of the tokens of a completion's choice, one element per token. The
// first token of an echoed prompt has none.
type CompletionLogprobs struct {
	TextOffset    []int                `json:"text_offset"` // characters of the choice's text before the token
	TokenLogprobs []*float32           `json:"token_logprobs"`
	Tokens        []string             `json:"tokens"`
	TopLogprobs   []map[string]float32 `json:"top_logprobs"` // the token's own included
}

// PromptLogprobs are the log-probabilities at one token of the prompt, by token id: its own and the likeliest ones. null
// for the first token.
type PromptLogprobs map[string]RankedLogprob

// RankedLogprob is one of them.
type RankedLogprob struct {
	Logprob      float32 `json:"logprob"`
	Rank         int32   `json:"rank"` // its place among all tokens, from 1
	DecodedToken string  `json:"decoded_token"`
}

// TokenText is a token's bytes as a JSON string: its text or, for a part of a character, "bytes:\xe2\x82".
func TokenText(raw string) string {
	if utf8.ValidString(raw) {
		return raw
	}
	var b strings.Builder
	b.WriteString("bytes:")
	for i := range len(raw) {
		fmt.Fprintf(&b, `\x%02x`, raw[i])
	}
	return b.String()
}
