package gateway

import (
	"github.com/troupe-engine/troupe/schemas"
)

var embeddingAPI = &api{name: "embedding", id: "embd-", parse: parseEmbedding,
	shape: func(a *answer) shape { return embeddingShape{a} }}

// embedForm is how an embedding is wanted.
type embedForm struct {
	base64     bool
	dimensions int // 0: the model's
}

// parseEmbedding turns the fields of an embedding request into a job.
func parseEmbedding(f fields, cfg *Config) (*job, *schemas.Error) {
	var r schemas.EmbeddingRequest
	if err := decodeInto(f, &r); err != nil {
		return nil, err
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	one := int64(1)
	j, err := newJob(&schemas.GenerationParams{Model: r.Model, User: r.User, Priority: r.Priority, MaxTokens: &one, Troupe: r.Troupe}, &Config{Defaults: schemas.SamplingParams{TopP: 1}})
	if err != nil {
		return nil, err
	}
	j.embed = &embedForm{base64: r.EncodingFormat == "base64"}
	if r.Dimensions != nil {
		j.embed.dimensions = int(*r.Dimensions)
	}
	j.promptField, j.discard = "input", true
	j.addPrompts(&r.Input, r.AddSpecialTokens)
	return j, j.check(cfg)
}

// check finds why an input's result is not what was asked for.
func (e *embedForm) check(r *row) *schemas.Error {
	switch {
	case r.finish == schemas.FinishNone:
		return nil
	case r.embedding == nil:
		return schemas.Errorf(schemas.KindInternal, "embed", "the engine sent no embedding").WithHint("is it of an older version than this gateway?")
	case e.dimensions != 0 && e.dimensions != len(r.embedding):
		return invalid("dimensions", "dimensions is %d; this model's embeddings have %d", e.dimensions, len(r.embedding)).WithHint("leave it out")
	}
	return nil
}

// embeddingShape makes the object of /v1/embeddings, which is never streamed.
type embeddingShape struct{ *answer }

func (embeddingShape) opening() []event                   { return nil }
func (embeddingShape) row(events []event, _ *row) []event { return events }
func (embeddingShape) closing() []event                   { return nil }
func (embeddingShape) failed(err *schemas.Error) []event  { return []event{schemas.NewErrorReply(err)} }

func (s embeddingShape) whole() any {
	list := &schemas.EmbeddingList{Object: "list", Model: s.job.model, Troupe: s.extra, Data: make([]schemas.EmbeddingObject, len(s.choices))}
	for i := range s.choices {
		list.Data[i] = schemas.EmbeddingObject{Object: "embedding", Index: i,
			Embedding: schemas.VectorValues{Values: s.choices[i].embedding, Base64: s.job.embed.base64}}
	}
	tokens := s.counts().PromptTokens
	list.Usage = schemas.EmbeddingUsage{PromptTokens: tokens, TotalTokens: tokens}
	return list
}
