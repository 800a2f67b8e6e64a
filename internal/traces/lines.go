package traces

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// lineBytesMax bounds a line: a Mooncake request of TokensMax tokens has a quarter of it.
const lineBytesMax = 1 << 20

// lines reads a text file line by line.
type lines struct {
	scanner *bufio.Scanner
	number  int // of the current line, from 1
}

func newLines(r io.Reader) *lines {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), lineBytesMax)
	return &lines{scanner: s}
}

// next returns the next line that is not blank, or io.EOF. It is valid until the next call.
func (l *lines) next() ([]byte, error) {
	for l.scanner.Scan() {
		l.number++
		line := bytes.TrimSpace(l.scanner.Bytes())
		if l.number == 1 {
			line = bytes.TrimPrefix(line, []byte("\ufeff"))
		}
		if len(line) > 0 {
			return line, nil
		}
	}
	if err := l.scanner.Err(); err != nil {
		l.number++
		if errors.Is(err, bufio.ErrTooLong) {
			return nil, l.bad("", "longer than %d bytes", lineBytesMax)
		}
		return nil, fmt.Errorf("trace: line %d: %w", l.number, err)
	}
	return nil, io.EOF
}

// bad is the error of the current line and one of its fields.
func (l *lines) bad(field, format string, args ...any) *schemas.Error {
	where := fmt.Sprintf("line %d: ", l.number)
	if field != "" {
		where += field + ": "
	}
	return schemas.Errorf(schemas.KindInvalid, "trace", where+format, args...).WithParam(field)
}

// columns are the places of a CSV file's columns that matter.
type columns struct {
	names []string
	at    []int
	count int
}

// newColumns finds names in a header; a name that begins with ? need not be there. Case does not matter.
func newColumns(l *lines, header []byte, names ...string) (*columns, *schemas.Error) {
	c := &columns{names: names, at: make([]int, len(names))}
	fields := splitCSV(string(header))
	c.count = len(fields)
	for i, name := range names {
		plain, optional := strings.CutPrefix(name, "?")
		c.names[i], c.at[i] = plain, -1
		for j, f := range fields {
			if strings.EqualFold(f, plain) {
				c.at[i] = j
			}
		}
		if c.at[i] < 0 && !optional {
			return nil, l.bad(plain, "the header has no such column; it has %.200q", fields)
		}
	}
	return c, nil
}

// row returns the columns' fields of a line; "" where a column is absent.
func (c *columns) row(l *lines, line []byte) ([]string, *schemas.Error) {
	fields := splitCSV(string(line))
	if len(fields) != c.count {
		return nil, l.bad("", "%d fields, the header has %d", len(fields), c.count)
	}
	row := make([]string, len(c.at))
	for i, at := range c.at {
		if at >= 0 {
			row[i] = fields[at]
		}
	}
	return row, nil
}

// splitCSV splits at commas. Fields of traces are numbers, times and plain names: quotes are taken off, commas
// within them are not expected.
func splitCSV(line string) []string {
	fields := strings.Split(line, ",")
	for i, f := range fields {
		f = strings.TrimSpace(f)
		if n := len(f); n >= 2 && f[0] == '"' && f[n-1] == '"' {
			f = f[1 : n-1]
		}
		fields[i] = f
	}
	return fields
}

// tokens reads a count of tokens, which some tools write as 12.0; lowest is 0 or 1.
func (l *lines) tokens(field, text string, lowest int) (int32, *schemas.Error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		f, ferr := strconv.ParseFloat(text, 64)
		if ferr != nil || f != math.Trunc(f) || math.Abs(f) > TokensMax {
			return 0, l.bad(field, "%.40q; expected a whole number of tokens", text)
		}
		n = int(f)
	}
	if n < lowest || n > TokensMax {
		return 0, l.bad(field, "%d tokens; expected %d to %d", n, lowest, TokensMax)
	}
	return int32(n), nil
}

// seconds reads a time in seconds as nanoseconds.
func (l *lines) seconds(field, text string) (int64, *schemas.Error) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil || !(f >= 0 && f <= arrivalMax/1e9) {
		return 0, l.bad(field, "%.40q; expected seconds, 0 or more", text)
	}
	return int64(math.Round(f * 1e9)), nil
}
