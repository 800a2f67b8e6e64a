package gateway

import (
	"encoding/json"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// journalRequest notes what a client asked for, if somebody listens.
func (f *flight) journalRequest() {
	if !f.g.node.Journaling() {
		return
	}
	body, err := json.Marshal(f.job.fields)
	if err != nil {
		f.g.log.Error().Err(err).Msg("a request cannot be journaled") // its fields are valid JSON
		return
	}
	parts := make(schemas.U64, len(f.parts))
	for i, p := range f.parts {
		parts[i] = uint64(p.id)
	}
	f.g.node.Journal(schemas.JournalEntry{Actor: f.g.actor.Name(), Request: &schemas.ClientRequest{Request: f.id, API: f.job.api.name, Body: string(body), Parts: parts}})
}

// journalAnswer notes how the request ended.
func (f *flight) journalAnswer(err *schemas.Error) {
	if !f.g.node.Journaling() {
		return
	}
	usage := f.answer.counts()
	f.g.node.Journal(schemas.JournalEntry{Actor: f.g.actor.Name(), Answer: &schemas.ClientAnswer{Request: f.id, Error: err,
		PromptTokens: int32(usage.PromptTokens), OutputTokens: int32(usage.CompletionTokens), TookNs: time.Since(f.began).Nanoseconds()}})
}
