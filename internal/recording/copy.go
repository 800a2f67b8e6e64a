package recording

import (
	"errors"
	"io"
	"strings"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// Copy writes what r can read, to its end, as a new recording of one part per part, and counts the entries.
func Copy(r *Reader, to string) (entries uint64, err error) {
	part := -1
	var w *Writer
	defer func() {
		if w != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	for {
		e, err := r.Next()
		if err == io.EOF {
			return entries, nil
		}
		if err != nil {
			return entries, err
		}
		if e.Part != part {
			if w != nil {
				if err := w.Close(); err != nil {
					return entries, err
				}
			}
			part = e.Part
			if w, _, err = Create(to, e.Manifest); err != nil {
				return entries, err
			}
		}
		wire, err := bus.Marshal(&schemas.JournalBatch{Version: schemas.JournalVersion, Node: e.Node, Build: e.Build, Number: e.Number, Started: e.Started, Entries: []schemas.JournalEntry{e.JournalEntry}})
		if err == nil {
			err = w.Add(wire)
		}
		if err != nil {
			return entries, err
		}
		entries++
	}
}

// ParseRequest reads a request's id: as clients see it, "chatcmpl-…", or its 16 hexadecimal digits.
func ParseRequest(text string) (schemas.RequestID, error) {
	hex := text[strings.LastIndexAny(text, "-_")+1:]
	var id schemas.RequestID
	if len(hex) != 16 || id.UnmarshalJSON([]byte(`"`+hex+`"`)) != nil {
		return 0, schemas.Errorf(schemas.KindInvalid, "request id", "%.60q is no request id; expected chatcmpl-…, cmpl-… or resp_… and 16 hexadecimal digits", text).WithParam("request")
	}
	return id, nil
}
