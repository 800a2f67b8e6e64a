package scheduler

import (
	"fmt"

	"github.com/troupe-engine/troupe/schemas"
)

// JournalOf describes an event and its effects for a journal.
func JournalOf(nowNs int64, event Event, fx *Effects) *schemas.SchedulerStep {
	s := &schemas.SchedulerStep{NowNs: nowNs, Reserve: fx.Reserve, Execute: fx.Execute, Accepted: fx.Accepted, Refused: fx.Refused,
		Cancelled: fx.Cancelled, GaveUp: fx.Lost, Checkpoint: fx.Checkpoint, Emit: emissionsOf(fx.Emit)}
	if fx.Repeat != nil {
		s.Repeat = fx.Repeat.Step
	}
	switch e := event.(type) {
	case Submitted:
		s.Event, s.Submit = schemas.EventSubmit, e.Request
	case Cancelled:
		s.Event, s.Cancel = schemas.EventCancel, e.Request
	case Granted:
		s.Event, s.Grant = schemas.EventGrant, e.Reply
	case Done:
		s.Event, s.Done = schemas.EventDone, e.Result
	case Lost:
		s.Event, s.Lost = schemas.EventLost, e.Err
	case Tick:
		s.Event = schemas.EventTick
	case More:
		s.Event = schemas.EventMore
	case PolicyChosen:
		s.Event, s.Policy = schemas.EventPolicy, e.Policy.Name()
	case CostsGiven:
		s.Event, s.Costs = schemas.EventCosts, e.Costs
	case Ranked:
		s.Event, s.Ranked = schemas.EventRanked, e.Outcome
	case CheckpointWanted:
		s.Event = schemas.EventCheckpoint
	default:
		panic(fmt.Sprintf("scheduler: event %T has no journal form", event))
	}
	return s
}

// EventOf is the event that a journal describes. Errors name the field that is missing.
func EventOf(s *schemas.SchedulerStep) (Event, error) {
	missing := schemas.Errorf(schemas.KindInvalid, "journal", "the event %.40q lacks the field of its name", s.Event).WithParam("event")
	switch s.Event {
	case schemas.EventSubmit:
		if s.Submit == nil {
			return nil, missing
		}
		return Submitted{s.Submit}, nil
	case schemas.EventCancel:
		if s.Cancel == nil {
			return nil, missing
		}
		return Cancelled{s.Cancel}, nil
	case schemas.EventGrant:
		if s.Grant == nil {
			return nil, missing
		}
		return Granted{s.Grant}, nil
	case schemas.EventDone:
		if s.Done == nil {
			return nil, missing
		}
		return Done{s.Done}, nil
	case schemas.EventLost:
		if s.Lost == nil {
			return nil, missing
		}
		return Lost{s.Lost}, nil
	case schemas.EventTick:
		return Tick{}, nil
	case schemas.EventMore:
		return More{}, nil
	case schemas.EventPolicy:
		p, err := PolicyByName(s.Policy)
		if err != nil {
			return nil, err
		}
		return PolicyChosen{p}, nil
	case schemas.EventCosts:
		if s.Costs != nil {
			if err := s.Costs.Validate(); err != nil {
				return nil, err
			}
		}
		return CostsGiven{s.Costs}, nil
	case schemas.EventRanked:
		if s.Ranked == nil {
			return nil, missing
		}
		return Ranked{s.Ranked}, nil
	case schemas.EventCheckpoint:
		return CheckpointWanted{}, nil
	}
	return nil, schemas.Errorf(schemas.KindInvalid, "journal", "event is %.40q, which this version does not know", s.Event).WithParam("event").
		WithHint("was the recording made by a later version of troupe?")
}

func emissionsOf(list []Emission) *schemas.Emissions {
	if len(list) == 0 {
		return nil
	}
	n := len(list)
	e := &schemas.Emissions{Seq: make(schemas.U64, n), Index: make(schemas.I32, n), Token: make(schemas.I32, n), Finish: make(schemas.U8, n)}
	for i := range list {
		e.Seq[i], e.Index[i], e.Token[i], e.Finish[i] = uint64(list[i].Seq), list[i].Index, list[i].Token, byte(list[i].Finish)
	}
	return e
}
