package traces

import (
	"encoding/json"
	"io"

	"github.com/troupe-engine/troupe/schemas"
)

// MooncakeBlock is how many tokens one of a Mooncake trace's hash_ids stands for.
const MooncakeBlock = 512

// mooncake reads the traces of Mooncake (https://github.com/kvcache-ai/Mooncake): milliseconds, lengths, and for
// each block of 512 prompt tokens a number that is the same where the prompt up to its end is the same.
type mooncake struct {
	lines *lines
	first int64 // milliseconds; -1 before the first request
}

func newMooncake(r io.Reader) (Reader, error) { return &mooncake{lines: newLines(r), first: -1}, nil }

type mooncakeLine struct {
	Timestamp *int64   `json:"timestamp"`
	Input     *int32   `json:"input_length"`
	Output    *int32   `json:"output_length"`
	HashIDs   []uint64 `json:"hash_ids"`
}

// Next returns the next request.
func (m *mooncake) Next() (Request, error) {
	line, err := m.lines.next()
	if err != nil {
		return Request{}, err
	}
	var row mooncakeLine
	if err := json.Unmarshal(line, &row); err != nil {
		return Request{}, m.lines.bad(jsonField(err), "%v", err)
	}
	if bad := m.check(&row); bad != nil {
		return Request{}, bad
	}
	if m.first < 0 {
		m.first = *row.Timestamp
	}
	q := Request{ArrivalNs: (*row.Timestamp - m.first) * 1e6, Input: *row.Input, Output: *row.Output}
	left := q.Input
	for _, id := range row.HashIDs {
		n := min(left, MooncakeBlock)
		q.Prompt = append(q.Prompt, Segment{ID: identity(kindHash, id), Tokens: n})
		left -= n
	}
	return q, nil
}

func (m *mooncake) check(row *mooncakeLine) *schemas.Error {
	switch {
	case row.Timestamp == nil:
		return m.lines.bad("timestamp", "missing; expected milliseconds")
	case *row.Timestamp < 0 || *row.Timestamp > arrivalMax/1_000_000:
		return m.lines.bad("timestamp", "%d; expected milliseconds, 0 or more", *row.Timestamp)
	case row.Input == nil:
		return m.lines.bad("input_length", "missing; expected a number of tokens")
	case row.Output == nil:
		return m.lines.bad("output_length", "missing; expected a number of tokens")
	}
	if field, err := (&Request{Input: *row.Input, Output: *row.Output}).check(); err != nil {
		return m.lines.bad(field+"_length", "%s", err.Detail)
	}
	if n, want := len(row.HashIDs), (int(*row.Input)+MooncakeBlock-1)/MooncakeBlock; n != 0 && n != want {
		return m.lines.bad("hash_ids", "%d of them for %d tokens; expected %d, one for each %d, or none", n, *row.Input, want, MooncakeBlock)
	}
	return nil
}

func jsonField(err error) string {
	if wrong, ok := err.(*json.UnmarshalTypeError); ok {
		return wrong.Field
	}
	return ""
}
