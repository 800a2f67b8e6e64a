package traces

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"io"

	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/schemas"
)

// recordingSegment is the grain, in tokens, in which prompts of a recording are found to begin alike.
const recordingSegment = 8

// FromRecording reads the requests that a recording has from their arrival at a scheduler to their end: every choice of a
// request is one. scheduler names one of them ("scheduler.replica0"); "" takes the requests of all.
func FromRecording(r *recording.Reader, scheduler string) (*Trace, error) {
	t, err := Collect(&recorded{r: r, scheduler: scheduler, arrived: map[schemas.RequestID]arrival{}, output: map[schemas.SeqID]int32{}}, 0)
	if err != nil {
		return nil, err
	}
	t.Name, t.Format = "recording", FormatRecording
	return t, nil
}

// recorded is a Reader of a recording.
type recorded struct {
	r         *recording.Reader
	scheduler string
	arrived   map[schemas.RequestID]arrival
	output    map[schemas.SeqID]int32
	ready     []Request
}

type arrival struct {
	request *schemas.SubmitRequest
	atNs    int64
}

func (r *recorded) Next() (Request, error) {
	for len(r.ready) == 0 {
		e, err := r.r.Next()
		if err != nil {
			if !errors.Is(err, io.EOF) {
				err = schemas.Errorf(schemas.KindInvalid, "trace", "%v", err)
			}
			return Request{}, err
		}
		if e.Scheduler != nil && (r.scheduler == "" || e.Actor == r.scheduler) {
			r.take(e.Scheduler)
		}
	}
	q := r.ready[0]
	r.ready = r.ready[1:]
	return q, nil
}

// take notes what arrives, and makes requests of what ends.
func (r *recorded) take(s *schemas.SchedulerStep) {
	if s.Submit != nil && s.Accepted != nil && !s.Accepted.Ended {
		if _, twice := r.arrived[s.Submit.Request]; !twice {
			r.arrived[s.Submit.Request] = arrival{s.Submit, s.NowNs}
		}
	}
	e := s.Emit
	if e == nil || len(e.Token) != len(e.Seq) || len(e.Finish) != len(e.Seq) {
		return
	}
	for i := range e.Seq {
		id := schemas.SeqID(e.Seq[i])
		if e.Token[i] >= 0 {
			r.output[id]++
		}
		if e.Finish[i] == byte(schemas.FinishNone) {
			continue
		}
		from, known := r.arrived[id.Request()]
		if n := r.output[id]; known && n > 0 && len(from.request.Tokens) > 0 {
			r.ready = append(r.ready, Request{ArrivalNs: from.atNs, Input: int32(len(from.request.Tokens)), Output: n,
				Prompt: recordedSegments(from.request), Priority: from.request.Priority, User: from.request.User})
		}
		delete(r.output, id)
	}
}

// recordedSegments names the pieces of a prompt so that prompts that begin with the same tokens begin with the same names.
func recordedSegments(q *schemas.SubmitRequest) []Segment {
	h := fnv.New64a()
	var word [8]byte
	binary.LittleEndian.PutUint64(word[:], q.CacheSalt)
	h.Write(word[:])
	list := make([]Segment, 0, (len(q.Tokens)+recordingSegment-1)/recordingSegment)
	for at := 0; at < len(q.Tokens); at += recordingSegment {
		piece := q.Tokens[at:min(at+recordingSegment, len(q.Tokens))]
		for _, t := range piece {
			binary.LittleEndian.PutUint32(word[:4], uint32(t))
			h.Write(word[:4])
		}
		list = append(list, Segment{ID: identity(kindHash, h.Sum64()), Tokens: int32(len(piece))})
	}
	return list
}
