package traces

import "io"

// burstGPT reads the BurstGPT traces (https://github.com/HPMLL/BurstGPT): times in seconds, lengths, and, in newer
// files, sessions. Requests without an answer failed then; they are left out.
type burstGPT struct {
	lines   *lines
	columns *columns
	first   int64 // nanoseconds; -1 before the first request
	skipped int
}

func newBurstGPT(r io.Reader) (Reader, error) {
	b := &burstGPT{lines: newLines(r), first: -1}
	header, err := b.lines.next()
	if err != nil {
		return nil, empty(err)
	}
	columns, bad := newColumns(b.lines, header, "Timestamp", "Request tokens", "Response tokens", "?Session ID")
	if bad != nil {
		return nil, bad
	}
	b.columns = columns
	return b, nil
}

// Next returns the next request that was answered.
func (b *burstGPT) Next() (Request, error) {
	for {
		line, err := b.lines.next()
		if err != nil {
			return Request{}, err
		}
		var q Request
		row, bad := b.columns.row(b.lines, line)
		if bad == nil {
			q.ArrivalNs, bad = b.lines.seconds("Timestamp", row[0])
		}
		if bad == nil {
			q.Input, bad = b.lines.tokens("Request tokens", row[1], 0)
		}
		if bad == nil {
			q.Output, bad = b.lines.tokens("Response tokens", row[2], 0)
		}
		if bad != nil {
			return Request{}, bad
		}
		if q.Input == 0 || q.Output == 0 {
			b.skipped++
			continue
		}
		if b.first < 0 {
			b.first = q.ArrivalNs
		}
		q.ArrivalNs -= b.first
		q.User = row[3]
		return q, nil
	}
}

func (b *burstGPT) leftOut() int { return b.skipped }
