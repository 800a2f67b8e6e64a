package traces

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/schemas"
)

// Reader yields the requests of a workload one by one; io.EOF ends it. An error names the line (in JSON, the
// conversation) and the field that is wrong, and ends it, too.
type Reader interface{ Next() (Request, error) }

// Formats that Open reads.
const (
	FormatAzure    = "azure"
	FormatBurstGPT = "burstgpt"
	FormatMooncake = "mooncake"
	FormatShareGPT = "sharegpt"
	// FormatRecording is of troupe record.
	FormatRecording = "recording"
)

// Formats lists them.
func Formats() []string {
	return []string{FormatAzure, FormatBurstGPT, FormatMooncake, FormatShareGPT}
}

// Options of reading.
type Options struct {
	Format string                // one of Formats; "" looks at the beginning of the file
	Count  func(text string) int // tokens of a text, for formats that have text; nil: a quarter of its bytes
	Max    int                   // requests to read; 0: RequestsMax
}

// Trace is a workload in memory, in order of arrival.
type Trace struct {
	Name     string
	Format   string
	Requests []Request
	// PrefixBlock is how many tokens one segment stands for where all segments are blocks of a trace; otherwise 0.
	PrefixBlock int32
	Skipped     int // requests of the file that are left out: they failed, or are empty
}

// NewReader reads a trace of a known format.
func NewReader(r io.Reader, o Options) (Reader, error) {
	switch o.Format {
	case FormatAzure:
		return newAzure(r)
	case FormatBurstGPT:
		return newBurstGPT(r)
	case FormatMooncake:
		return newMooncake(r)
	case FormatShareGPT:
		return newShareGPT(r, o.Count)
	}
	return nil, schemas.Errorf(schemas.KindInvalid, "trace", "no format %.40q", o.Format).WithParam("format").
		WithHint("choose one of %s", strings.Join(Formats(), ", "))
}

// Load reads a trace from a file, at most o.Max requests of it.
func Load(path string, o Options) (*Trace, error) {
	t, err := loadFile(path, o)
	if err != nil {
		e := schemas.AsError(err, "trace")
		e.Detail = filepath.Base(path) + ": " + e.Detail
		return nil, e
	}
	t.Name = filepath.Base(path)
	return t, nil
}

func loadFile(path string, o Options) (*Trace, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, schemas.Errorf(schemas.KindNotFound, "trace", "%v", err).WithParam("trace")
	}
	defer file.Close()
	if o.Format == FormatRecording || o.Format == "" && recording.Begins(file) {
		r, err := recording.Open(path, false)
		if err != nil {
			return nil, schemas.Errorf(schemas.KindInvalid, "trace", "%v", err)
		}
		defer r.Close()
		return FromRecording(r, "")
	}
	return Read(file, o)
}

// Read reads a trace of any format but recordings.
func Read(r io.Reader, o Options) (*Trace, error) {
	buffered := bufio.NewReaderSize(r, 64<<10)
	if o.Format == "" {
		var err error
		if o.Format, err = Detect(buffered); err != nil {
			return nil, err
		}
	}
	reader, err := NewReader(buffered, o)
	if err != nil {
		return nil, err
	}
	t, err := Collect(reader, o.Max)
	if err != nil {
		return nil, err
	}
	t.Format = o.Format
	if o.Format == FormatMooncake {
		t.PrefixBlock = MooncakeBlock
	}
	return t, nil
}

// Collect reads up to limit requests (0: RequestsMax) and puts them in order of arrival, the first at 0.
func Collect(r Reader, limit int) (*Trace, error) {
	if limit <= 0 || limit > RequestsMax {
		limit = RequestsMax
	}
	t := &Trace{}
	for len(t.Requests) < limit {
		q, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		t.Requests = append(t.Requests, q)
	}
	if s, ok := r.(interface{ leftOut() int }); ok {
		t.Skipped = s.leftOut()
	}
	if len(t.Requests) == 0 {
		return nil, schemas.Errorf(schemas.KindInvalid, "trace", "it has no requests")
	}
	slices.SortStableFunc(t.Requests, func(a, b Request) int { return cmp.Compare(a.ArrivalNs, b.ArrivalNs) })
	first := t.Requests[0].ArrivalNs
	for i := range t.Requests {
		t.Requests[i].ArrivalNs -= first
	}
	return t, nil
}

// Detect says which format begins at r, without consuming anything.
func Detect(r *bufio.Reader) (string, error) {
	head, err := r.Peek(r.Size())
	if len(head) == 0 {
		return "", empty(err)
	}
	head = bytes.TrimLeft(bytes.TrimPrefix(head, []byte("\ufeff")), " \t\r\n")
	line, _, _ := bytes.Cut(head, []byte("\n"))
	has := func(text string) bool { return bytes.Contains(bytes.ToLower(line), []byte(text)) }
	switch {
	case len(head) > 0 && head[0] == '[', has(`"conversations"`), has(`"messages"`):
		return FormatShareGPT, nil
	case has(`"input_length"`):
		return FormatMooncake, nil
	case len(head) > 0 && head[0] == '{':
		return FormatShareGPT, nil
	case has("contexttokens"):
		return FormatAzure, nil
	case has("request tokens"):
		return FormatBurstGPT, nil
	}
	return "", schemas.Errorf(schemas.KindInvalid, "trace", "line 1: %.80q begins no format that is known", line).
		WithHint("known are %s; see docs/simulate.md for what they look like", strings.Join(Formats(), ", "))
}

// empty makes the end of a file before its beginning an error.
func empty(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return schemas.Errorf(schemas.KindInvalid, "trace", "line 1: the file is empty")
	}
	return err
}
