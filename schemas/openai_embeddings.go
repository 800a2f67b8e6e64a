package schemas

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/invopop/jsonschema"
)

// EmbeddingInputsMax bounds the inputs of one embedding request, as OpenAI's does.
const EmbeddingInputsMax = 2048

// EmbeddingRequest asks for the vectors that stand for texts: the hidden state of each one's last token, of length 1.
type EmbeddingRequest struct {
	Input            Prompts `json:"input"`
	Model            string  `json:"model,omitempty"`
	EncodingFormat   string  `json:"encoding_format,omitempty" jsonschema:"enum=float,enum=base64"`
	Dimensions       *int64  `json:"dimensions,omitempty" jsonschema:"minimum=1" jsonschema_description:"only the model's own are possible"`
	User             string  `json:"user,omitempty"`
	Priority         int64   `json:"priority,omitempty" jsonschema_description:"lower runs earlier"`
	AddSpecialTokens *bool   `json:"add_special_tokens,omitempty" jsonschema_description:"default true"`
	Troupe           *Wish   `json:"troupe,omitempty" jsonschema_description:"what only this engine offers"`
}

// Validate names the first field that is out of range.
func (r *EmbeddingRequest) Validate() *Error {
	switch n := r.Input.Len(); {
	case n == 0:
		return Errorf(KindInvalid, "validate", "input is missing; expected a string, an array of strings or token ids").WithParam("input")
	case n > EmbeddingInputsMax:
		return outOfRange("input", fmt.Sprintf("an array of %d inputs", n), fmt.Sprintf("at most %d", EmbeddingInputsMax))
	case r.EncodingFormat != "" && r.EncodingFormat != "float" && r.EncodingFormat != "base64":
		return outOfRange("encoding_format", fmt.Sprintf("%.40q", r.EncodingFormat), "float or base64")
	case r.Dimensions != nil && (*r.Dimensions < 1 || *r.Dimensions > math.MaxInt32):
		return outOfRange("dimensions", *r.Dimensions, "a positive count")
	}
	if i := slices.Index(r.Input.Texts, ""); i >= 0 {
		return outOfRange("input", fmt.Sprintf("empty at element %d", i), "texts with at least one character")
	}
	p := GenerationParams{User: r.User, Priority: r.Priority}
	return p.validate()
}

// EmbeddingList is the answer to an EmbeddingRequest.
type EmbeddingList struct {
	Object string            `json:"object"` // "list"
	Data   []EmbeddingObject `json:"data"`
	Model  string            `json:"model"`
	Usage  EmbeddingUsage    `json:"usage"`
	Troupe *Extra            `json:"troupe,omitempty"` // what only this engine offers, if asked for
}

// EmbeddingObject is the vector of one input.
type EmbeddingObject struct {
	Object    string       `json:"object"` // "embedding"
	Index     int          `json:"index"`
	Embedding VectorValues `json:"embedding"`
}

// EmbeddingUsage counts tokens.
type EmbeddingUsage struct {
	PromptTokens int64 `json:"prompt_tokens"`
	TotalTokens  int64 `json:"total_tokens"`
}

// VectorValues is a vector as an array of numbers or, in base64, as little-endian float32.
type VectorValues struct {
	Values F32
	Base64 bool
}

// MarshalJSON writes the chosen form.
func (v VectorValues) MarshalJSON() ([]byte, error) {
	if !v.Base64 {
		return json.Marshal(v.Values)
	}
	raw := make([]byte, 0, 4*len(v.Values))
	for _, f := range v.Values {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(f))
	}
	return json.Marshal(base64.StdEncoding.EncodeToString(raw))
}

// UnmarshalJSON reads either form.
func (v *VectorValues) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) != nil {
		v.Base64 = false
		return json.Unmarshal(b, &v.Values)
	}
	raw, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(raw)%4 != 0 {
		return fmt.Errorf("expected base64 of float32 values")
	}
	v.Base64, v.Values = true, make(F32, len(raw)/4)
	for i := range v.Values {
		v.Values[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
	}
	return nil
}

// JSONSchema describes both forms.
func (VectorValues) JSONSchema() *jsonschema.Schema {
	return &jsonschema.Schema{OneOf: []*jsonschema.Schema{arrayOf(&jsonschema.Schema{Type: "number"}), {Type: "string", ContentEncoding: "base64"}}}
}

// Example asks for the vectors of two texts.
func (*EmbeddingRequest) Example() *EmbeddingRequest {
	return &EmbeddingRequest{Input: Prompts{Texts: []string{"a king", "a queen"}}, Model: "troupe-tiny"}
}

// Example is one short vector.
func (*EmbeddingList) Example() *EmbeddingList {
	return &EmbeddingList{Object: "list", Model: "troupe-tiny", Usage: EmbeddingUsage{PromptTokens: 3, TotalTokens: 3},
		Data: []EmbeddingObject{{Object: "embedding", Embedding: VectorValues{Values: F32{0.6, 0, -0.8}}}}}
}
