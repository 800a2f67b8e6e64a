package schemas

import (
	"encoding/json"
	"fmt"
)

// TokenizeRequest asks for the tokens of a prompt or of chat messages, in vLLM's form.
type TokenizeRequest struct {
	Model            string `json:"model,omitempty"`
	Prompt           string `json:"prompt,omitempty"`
	AddSpecialTokens *bool  `json:"add_special_tokens,omitempty" jsonschema_description:"of a prompt; default true"`

	Messages            json.RawMessage `json:"messages,omitempty"`
	Tools               json.RawMessage `json:"tools,omitempty"`
	TemplateArgs        json.RawMessage `json:"chat_template_kwargs,omitempty"`
	AddGenerationPrompt *bool           `json:"add_generation_prompt,omitempty" jsonschema_description:"of messages; default true"`
}

// TokenizeReply is the answer to a TokenizeRequest.
type TokenizeReply struct {
	Count       int   `json:"count"`
	MaxModelLen int32 `json:"max_model_len"`
	Tokens      I32   `json:"tokens"`
}

// DetokenizeRequest asks for the text of tokens.
type DetokenizeRequest struct {
	Model  string   `json:"model,omitempty"`
	Tokens TokenIDs `json:"tokens"`
}

// DetokenizeReply is the answer to a DetokenizeRequest. Special tokens are shown.
type DetokenizeReply struct {
	Prompt string `json:"prompt"`
}

// TokenIDs is an array of token ids.
type TokenIDs I32

// UnmarshalJSON refuses what cannot be an id. The array may be empty.
func (t *TokenIDs) UnmarshalJSON(b []byte) error {
	var numbers []*int32
	if err := json.Unmarshal(b, &numbers); err != nil {
		return fmt.Errorf("expected an array of token ids (integers from 0 to 2147483647)")
	}
	*t = make(TokenIDs, len(numbers))
	for i, v := range numbers {
		if v == nil || *v < 0 {
			return fmt.Errorf("token %d is no integer from 0 to 2147483647", i)
		}
		(*t)[i] = *v
	}
	return nil
}

// Example is a prompt.
func (*TokenizeRequest) Example() *TokenizeRequest {
	return &TokenizeRequest{Prompt: "Once upon a time"}
}

// Example are its tokens.
func (*TokenizeReply) Example() *TokenizeReply {
	return &TokenizeReply{Count: 3, MaxModelLen: 2048, Tokens: I32{1, 403, 407}}
}

// Example asks for the way back.
func (*DetokenizeRequest) Example() *DetokenizeRequest {
	return &DetokenizeRequest{Tokens: TokenIDs{1, 403, 407}}
}

// Example is the text, with the token that begins it.
func (*DetokenizeReply) Example() *DetokenizeReply {
	return &DetokenizeReply{Prompt: "<s>Once upon a time"}
}
