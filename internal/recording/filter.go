package recording

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"reflect"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

func unmarshalJSON(b []byte, v any) error { return json.Unmarshal(b, v) }

// Filter chooses the requests whose entries are recorded. The zero Filter records everything.
type Filter struct {
	Requests []schemas.RequestID // only these
	Model    string              // only the entries of schedulers that serve it, and of gateways and tokenizers
	Sample   float64             // of all requests, this share, chosen by their ids; 0 is all
}

// Active says that something is left out.
func (f *Filter) Active() bool {
	return len(f.Requests) > 0 || f.Model != "" || f.Sample > 0 && f.Sample < 1
}

func (f *Filter) String() string {
	var parts []string
	for _, id := range f.Requests {
		parts = append(parts, "request "+id.String())
	}
	if f.Model != "" {
		parts = append(parts, "model "+f.Model)
	}
	if f.Sample > 0 && f.Sample < 1 {
		parts = append(parts, fmt.Sprintf("%g of the requests", f.Sample))
	}
	return strings.Join(parts, ", ")
}

// keeps says whether a request is chosen.
func (f *Filter) keeps(id schemas.RequestID) bool {
	if len(f.Requests) > 0 && !slices.Contains(f.Requests, id) {
		return false
	}
	if f.Sample > 0 && f.Sample < 1 {
		h := fnv.New64a()
		fmt.Fprint(h, id)
		return float64(h.Sum64()>>11)/(1<<53) < f.Sample
	}
	return true
}

// keepsEntry says whether an entry is about a chosen request, or about none.
func (f *Filter) keepsEntry(e *schemas.JournalEntry) bool {
	if len(f.Requests) == 0 && (f.Sample <= 0 || f.Sample >= 1) {
		return true
	}
	ids := RequestsOf(e)
	return slices.ContainsFunc(ids, f.keeps)
}

// RequestsOf lists the requests that an entry is about, each once.
func RequestsOf(e *schemas.JournalEntry) []schemas.RequestID {
	var ids []schemas.RequestID
	seqs := func(list schemas.U64) {
		for _, s := range list {
			ids = append(ids, schemas.SeqID(s).Request())
		}
	}
	if s := e.Scheduler; s != nil {
		if s.Submit != nil {
			ids = append(ids, s.Submit.Request)
		}
		if s.Cancel != nil {
			seqs(s.Cancel.Seq)
		}
		if s.Reserve != nil {
			seqs(s.Reserve.Seq)
		}
		if s.Execute != nil {
			seqs(s.Execute.Seq)
		}
		if s.Emit != nil {
			seqs(s.Emit.Seq)
		}
		if s.Checkpoint != nil {
			for i := range s.Checkpoint.Requests {
				ids = append(ids, s.Checkpoint.Requests[i].Request)
			}
		}
	}
	if e.Request != nil {
		ids = append(ids, e.Request.Request)
		seqs(e.Request.Parts)
	}
	if e.Answer != nil {
		ids = append(ids, e.Answer.Request)
	}
	if e.Delivery != nil {
		switch m := Message(e.Delivery).(type) {
		case *schemas.EncodeRequest:
			ids = append(ids, m.Request)
		case *schemas.TokenBatch:
			seqs(m.Seq)
		case *schemas.DeltaBatch:
			seqs(m.Seq)
		case *schemas.CancelRequest:
			seqs(m.Seq)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}

// Message is what was delivered, as a pointer to its type; nil if this version does not know the subject, or if the message is
// an error or spoilt.
func Message(d *schemas.Delivery) any {
	subject, reply := strings.CutSuffix(d.Subject, schemas.ReplySuffix)
	for _, e := range schemas.Endpoints() {
		if subject != e.Subject() && !strings.HasPrefix(subject, e.Subject()+".") {
			continue
		}
		m := reflect.New(e.Request).Interface()
		if reply {
			m = reflect.New(e.Reply).Interface()
		}
		if bus.Unmarshal(d.Message, m) != nil {
			return nil
		}
		return m
	}
	return nil
}
