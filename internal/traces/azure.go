package traces

import (
	"io"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// azureTimes are the layouts of TIMESTAMP in the traces of 2023 and 2024.
var azureTimes = []string{"2006-01-02 15:04:05.9999999", "2006-01-02 15:04:05.999999-07:00"}

// azure reads the Azure LLM inference traces (https://github.com/Azure/AzurePublicDataset): lengths and times,
// nothing about what prompts have in common.
type azure struct {
	lines   *lines
	columns *columns
	first   time.Time
}

func newAzure(r io.Reader) (Reader, error) {
	a := &azure{lines: newLines(r)}
	header, err := a.lines.next()
	if err != nil {
		return nil, empty(err)
	}
	columns, bad := newColumns(a.lines, header, "TIMESTAMP", "ContextTokens", "GeneratedTokens")
	if bad != nil {
		return nil, bad
	}
	a.columns = columns
	return a, nil
}

// Next returns the next request.
func (a *azure) Next() (Request, error) {
	line, err := a.lines.next()
	if err != nil {
		return Request{}, err
	}
	var q Request
	row, bad := a.columns.row(a.lines, line)
	if bad == nil {
		q.ArrivalNs, bad = a.arrival(row[0])
	}
	if bad == nil {
		q.Input, bad = a.lines.tokens("ContextTokens", row[1], 1)
	}
	if bad == nil {
		q.Output, bad = a.lines.tokens("GeneratedTokens", row[2], 1)
	}
	if bad != nil {
		return Request{}, bad
	}
	return q, nil
}

// arrival may be negative: a trace need not be in order.
func (a *azure) arrival(text string) (int64, *schemas.Error) {
	for _, layout := range azureTimes {
		at, err := time.Parse(layout, text)
		if err != nil {
			continue
		}
		if a.first.IsZero() {
			a.first = at
		}
		d := at.Sub(a.first).Nanoseconds()
		if d > arrivalMax || d < -arrivalMax {
			return 0, a.lines.bad("TIMESTAMP", "%.60q is more than 73 years from the first request", text)
		}
		return d, nil
	}
	return 0, a.lines.bad("TIMESTAMP", "%.60q; expected a time as in 2023-11-16 18:15:46.6805900", text)
}
