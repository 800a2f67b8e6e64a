package gateway

import (
	"context"

	"github.com/troupe-engine/troupe/schemas"
)

// ask is a request that is answered at once, without the model.
type ask func(context.Context, fields) (any, *schemas.Error)

// tokenize answers with the tokens of a prompt or of chat messages.
func (g *Gateway) tokenize(ctx context.Context, f fields) (any, *schemas.Error) {
	var r schemas.TokenizeRequest
	if err := decodeInto(f, &r); err != nil {
		return nil, err
	}
	raw, hasPrompt := f["prompt"]
	hasPrompt = hasPrompt && string(raw) != "null"
	if hasPrompt == (r.Messages != nil) {
		return nil, invalid("prompt", "expected either prompt or messages")
	}
	m, _, err := g.chosen(r.Model)
	if err != nil {
		return nil, err
	}
	engine, err := g.available(m)
	if err != nil {
		return nil, err
	}
	q := &schemas.EncodeRequest{Prompt: r.Prompt, Raw: r.AddSpecialTokens != nil && !*r.AddSpecialTokens}
	if r.Messages != nil {
		if q.Messages, err = checkMessages(r.Messages); err != nil {
			return nil, err
		}
		q.Tools, q.TemplateArgs, q.Continue = r.Tools, r.TemplateArgs, r.AddGenerationPrompt != nil && !*r.AddGenerationPrompt
	}
	t, none := g.tokenizers.pick(m, nil)
	if none != nil {
		return nil, none
	}
	reply, failed := t.encode.Call(ctx, q)
	if failed != nil {
		return nil, schemas.AsError(failed, "encode")
	}
	return &schemas.TokenizeReply{Count: len(reply.Tokens), MaxModelLen: engine.ContextMax, Tokens: reply.Tokens}, nil
}

// detokenize answers with the text of tokens.
func (g *Gateway) detokenize(ctx context.Context, f fields) (any, *schemas.Error) {
	var r schemas.DetokenizeRequest
	if err := decodeInto(f, &r); err != nil {
		return nil, err
	}
	if r.Tokens == nil {
		return nil, invalid("tokens", "tokens is missing; expected an array of token ids")
	}
	m, _, wrong := g.chosen(r.Model)
	if wrong != nil {
		return nil, wrong
	}
	if _, err := g.available(m); err != nil {
		return nil, err
	}
	t, none := g.tokenizers.pick(m, nil)
	if none != nil {
		return nil, none
	}
	reply, err := t.decode.Call(ctx, &schemas.DecodeRequest{Tokens: schemas.I32(r.Tokens), KeepSpecial: true})
	if err != nil {
		return nil, schemas.AsError(err, "decode")
	}
	return &schemas.DetokenizeReply{Prompt: reply.Text}, nil
}
