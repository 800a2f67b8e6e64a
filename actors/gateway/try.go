package gateway

import (
	"encoding/json"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// clientAPIs are the ways to ask for work, by verb.
var clientAPIs = map[string]*api{"chat": chatAPI, "generate": completionAPI, "responses": responsesAPI, "embed": embeddingAPI}

// asked is what a client's request would make the gateway ask of other actors.
type asked struct {
	Model  string                  `json:"model"`
	Stream bool                    `json:"stream"`
	Encode []schemas.EncodeRequest `json:"encode"` // one per prompt
	Submit *schemas.SubmitRequest  `json:"submit"` // for each of them, with its tokens
}

// trials are the client requests that can be tried: they are read, checked and go no further.
func (g *Gateway) trials() map[string]bus.Trial {
	trials := map[string]bus.Trial{}
	for verb, a := range clientAPIs {
		trials[verb] = func(message json.RawMessage) (bus.Tried, error) {
			would, err := g.try(a, message)
			if err != nil {
				return bus.Tried{}, err
			}
			return bus.Tried{Effects: would}, nil
		}
	}
	return trials
}

func (g *Gateway) try(a *api, message json.RawMessage) (*asked, *schemas.Error) {
	f, err := fieldsOfJSON(message)
	if err != nil {
		return nil, err
	}
	j, err := g.read(a, f)
	if err != nil {
		return nil, err
	}
	m, name, err := g.chosen(j.model)
	if err != nil {
		return nil, err
	}
	if err := j.useTools(g.toolFormat(m)); err != nil {
		return nil, err
	}
	return &asked{Model: name, Stream: j.stream, Encode: j.prompts, Submit: j.template()}, nil
}

// ailments says why the gateway takes no requests.
func (g *Gateway) ailments() []string {
	if err := g.ready(); err != nil {
		return []string{err.Detail}
	}
	return nil
}
