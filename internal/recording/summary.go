package recording

import (
	"io"
	"maps"
	"slices"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// Summary is what a recording holds.
type Summary struct {
	Parts       []*Manifest    `json:"parts"`
	Nodes       []string       `json:"nodes"`
	From        time.Time      `json:"from"`
	To          time.Time      `json:"to"`
	Entries     uint64         `json:"entries"`
	Actors      []ActorSummary `json:"actors"`
	Requests    int            `json:"requests"`
	Failed      int            `json:"failed"`  // requests that ended with an error
	Unended     int            `json:"unended"` // that had not ended
	Steps       uint64         `json:"steps"`   // that ran
	Tokens      uint64         `json:"tokens"`  // that were handed on
	Checkpoints int            `json:"checkpoints"`
	Gaps        []string       `json:"gaps,omitempty"`
	Damage      []string       `json:"damage,omitempty"`
	Ended       bool           `json:"ended"` // by its recorder, on purpose
	Bytes       int64          `json:"bytes"`
}

// ActorSummary counts an actor's entries.
type ActorSummary struct {
	Actor   string `json:"actor"`
	Entries uint64 `json:"entries"`
}

// Summarize reads r to its end. Each, which may be nil, hears of every entry.
func Summarize(r *Reader, each func(*Entry) error) (*Summary, error) {
	s := &Summary{Bytes: r.Size()}
	actors, nodes, open := map[string]uint64{}, map[string]bool{}, map[schemas.RequestID]bool{}
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		at := time.Unix(0, e.UnixNs).UTC()
		if s.Entries == 0 || at.Before(s.From) {
			s.From = at
		}
		if at.After(s.To) {
			s.To = at
		}
		s.Entries++
		actors[e.Actor]++
		nodes[string(e.Node)] = true
		if e.Request != nil {
			s.Requests++
			open[e.Request.Request] = true
		}
		if e.Answer != nil {
			delete(open, e.Answer.Request)
			if e.Answer.Error != nil {
				s.Failed++
			}
		}
		if step := e.Scheduler; step != nil {
			if step.Done != nil {
				s.Steps++
			}
			if step.Checkpoint != nil {
				s.Checkpoints++
			}
			if step.Emit != nil {
				s.Tokens += uint64(len(step.Emit.Seq))
			}
		}
		if each != nil {
			if err := each(e); err != nil {
				return nil, err
			}
		}
	}
	s.Unended = len(open)
	for _, name := range slices.Sorted(maps.Keys(actors)) {
		s.Actors = append(s.Actors, ActorSummary{name, actors[name]})
	}
	s.Nodes = slices.Sorted(maps.Keys(nodes))
	s.Parts, s.Ended = r.Manifests(), r.Ended()
	for _, g := range r.Gaps() {
		s.Gaps = append(s.Gaps, g.String())
	}
	for i := range r.Damage() {
		s.Damage = append(s.Damage, r.Damage()[i].Error())
	}
	return s, nil
}
