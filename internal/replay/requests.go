package replay

import (
	"cmp"
	"encoding/json"
	"io"
	"slices"
	"time"

	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/schemas"
)

// Request is a client's request as it was recorded.
type Request struct {
	ID     schemas.RequestID
	At     time.Duration // after the first
	API    string
	Body   map[string]json.RawMessage
	Texts  map[schemas.SeqID]string
	Seqs   []schemas.SeqID // in the order of the answer's choices
	TTFT   time.Duration   // until the gateway had the first text; 0: none came
	Took   time.Duration
	Ended  bool
	Err    *schemas.Error
	Tokens int32   // of output
	Seed   *uint64 // that was drawn for it
}

// Requests reads the requests of a recording, in the order of their arrival. Clocks are those of the gateways' nodes.
func Requests(r *recording.Reader) ([]*Request, error) {
	byID, byPart := map[schemas.RequestID]*Request{}, map[schemas.RequestID]*Request{}
	began := map[*Request]int64{}
	var list []*Request
	for {
		e, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, err
		}
		switch {
		case e.Request != nil:
			q := &Request{ID: e.Request.Request, At: time.Duration(e.UnixNs), API: e.Request.API, Texts: map[schemas.SeqID]string{}}
			if json.Unmarshal([]byte(e.Request.Body), &q.Body) != nil {
				q.Body = nil // redacted
			}
			list, byID[q.ID], began[q] = append(list, q), q, e.MonoNs
			for _, id := range e.Request.Parts {
				byPart[schemas.RequestID(id)] = q
			}
		case e.Answer != nil:
			if q := byID[e.Answer.Request]; q != nil {
				q.Ended, q.Err, q.Took, q.Tokens = true, e.Answer.Error, time.Duration(e.Answer.TookNs), e.Answer.OutputTokens
			}
		case e.Scheduler != nil && e.Scheduler.Submit != nil:
			if q := byPart[e.Scheduler.Submit.Request]; q != nil {
				q.submitted(e.Scheduler.Submit)
			}
		case e.Delivery != nil:
			if batch, ok := recording.Message(e.Delivery).(*schemas.DeltaBatch); ok {
				for i, seq := range batch.Seq {
					id := schemas.SeqID(seq)
					q := byPart[id.Request()]
					if q == nil || i >= len(batch.Text) || q.Ended {
						continue
					}
					if q.TTFT == 0 {
						q.TTFT = time.Duration(e.MonoNs - began[q])
					}
					q.Texts[id] += batch.Text[i]
				}
			}
		}
	}
	slices.SortStableFunc(list, func(a, b *Request) int { return cmp.Compare(a.At, b.At) })
	for i := len(list) - 1; i >= 0; i-- {
		list[i].At -= list[0].At
	}
	return list, nil
}

func (q *Request) submitted(s *schemas.SubmitRequest) {
	seed := s.Sampling.Seed
	if q.Seed == nil {
		q.Seed = &seed
	}
	for i := range int(min(s.Choices, schemas.ChoicesMax)) {
		if id := s.Request.Seq(i); !slices.Contains(q.Seqs, id) { // a repeat
			q.Seqs = append(q.Seqs, id)
		}
	}
}
