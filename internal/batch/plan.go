package batch

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"

	"github.com/troupe-engine/troupe/schemas"
)

const (
	opPlan = "batch"
	// outputLineBytesMax bounds a line of an earlier run's output: more is none of ours.
	outputLineBytesMax = responseBytesMax + responseBytesMax/4
)

// Flags of an answered line, the value of its record.
const (
	answeredWell = iota
	answeredFailed
)

// plan is what the first look at the files tells: what is to do, and that input and output belong together.
type plan struct {
	cfg      *Config
	input    *os.File
	answered *sorter // by line and hash; the value is a flag
	customs  *sorter // by hash of custom_id; the value is the line
	repeats  *sorter // by line and the earlier line with its custom_id
	lines    int64   // of the input, without blank ones
	done     int64   // of them answered, and not to be asked again
	failed   int64   // of done
	again    int64   // failed lines to ask again
	tail     int64   // where the output's torn last line begins
	torn     bool
	ordered  bool // the output's lines are in the order of the input
}

func invalid(param, format string, args ...any) *schemas.Error {
	return schemas.Errorf(schemas.KindInvalid, opPlan, format, args...).WithParam(param)
}

// newPlan reads both files. It changes neither.
func newPlan(cfg *Config, input, output *os.File) (_ *plan, err error) {
	dir := filepath.Dir(cfg.Output)
	p := &plan{cfg: cfg, input: input, answered: newSorter(dir), customs: newSorter(dir), repeats: newSorter(dir)}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if err := p.readOutput(output); err != nil {
		return nil, err
	}
	if err := p.readInput(); err != nil {
		return nil, err
	}
	return p, p.findRepeats()
}

func (p *plan) close() {
	for _, s := range []*sorter{p.answered, p.customs, p.repeats} {
		s.close()
	}
}

// readOutput notes what an earlier run has answered.
func (p *plan) readOutput(output *os.File) error {
	if _, err := output.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r, before := newLineReader(output, outputLineBytesMax), int64(0)
	p.ordered = true
	for {
		l, err := r.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return schemas.AsError(err, "read "+p.cfg.Output)
		}
		if !l.whole { // the process ended while it wrote
			p.torn = true
			return nil
		}
		number, hash, flag, ok := parseAnswered(l)
		if !ok {
			return invalid("output", "%s:%d is not a line of a batch's output", p.cfg.Output, l.number).
				WithHint("name another file with -o, or move this one away")
		}
		p.tail = l.end
		p.ordered, before = p.ordered && number > before, number
		if flag == answeredFailed && p.cfg.RetryFailed {
			p.again++
			p.ordered = false
			continue
		}
		p.done++
		if flag == answeredFailed {
			p.failed++
		}
		if err := p.answered.add(record{pair(uint64(number), hash), uint64(flag)}); err != nil {
			return schemas.AsError(err, "sort")
		}
	}
}

// parseAnswered reads a line of the output.
func parseAnswered(l *line) (number int64, hash uint64, flag int, ok bool) {
	var r struct {
		ID       string          `json:"id"`
		Response *ResultResponse `json:"response"`
		Error    json.RawMessage `json:"error"`
	}
	if l.tooBig || json.Unmarshal(l.text, &r) != nil {
		return 0, 0, 0, false
	}
	number, hash, ok = parseResultID(r.ID)
	hasError := r.Error != nil && string(r.Error) != "null"
	if !ok || (r.Response == nil) != hasError {
		return 0, 0, 0, false
	}
	if hasError || !succeeded(r.Response.StatusCode) {
		flag = answeredFailed
	}
	return number, hash, flag, true
}

// readInput counts the lines, notes their ids and compares those that are answered with what they were.
func (p *plan) readInput() error {
	answered, err := p.answered.sorted()
	if err != nil {
		return schemas.AsError(err, "sort")
	}
	err = eachLine(p.input, p.cfg, func(l *line) error {
		p.lines++
		was, err := takeAnswered(answered, l.number)
		if err != nil {
			return err
		}
		switch {
		case was == nil && p.cfg.Ordered && answered.peek() != nil:
			p.ordered = false // a gap
		case was != nil && was.hash != l.hash:
			return p.changed(l.number, was.flag)
		case answered.peek() != nil && lineOf(answered.peek()) <= l.number:
			return invalid("output", "%s answers line %d of the input more than once, or a blank one", p.cfg.Output, lineOf(answered.peek())).
				WithHint("name another file with -o, or move this one away")
		}
		t, _ := parseLine(l, p.cfg.LineBytesMax)
		if t.customID == nil {
			return nil
		}
		sum := sha256.Sum256(t.customID)
		return p.customs.add(record{[16]byte(sum[:16]), uint64(l.number)})
	})
	if err != nil {
		return err
	}
	if left := answered.peek(); left != nil {
		return invalid("input", "%s answers line %d, but %s has no such line", p.cfg.Output, lineOf(left), p.cfg.Input).
			WithHint("they do not belong together: name another output with -o")
	}
	if p.cfg.Ordered && !p.ordered {
		return invalid("ordered", "%s is not in the order of the input, so --ordered cannot go on with it", p.cfg.Output).
			WithHint("go on without --ordered, or name another file with -o")
	}
	return nil
}

func (p *plan) changed(number int64, flag int) error {
	e := invalid("input", "line %d of %s has changed since %s answered it", number, p.cfg.Input, p.cfg.Output)
	if flag == answeredFailed {
		return e.WithHint("that line failed: --retry-failed asks it again as it is now")
	}
	return e.WithHint("bring the old input back, or name another output with -o")
}

// findRepeats notes every line whose custom_id an earlier line has.
func (p *plan) findRepeats() error {
	sorted, err := p.customs.sorted()
	if err != nil {
		return schemas.AsError(err, "sort")
	}
	var first record
	for next := sorted.peek(); next != nil; next = sorted.peek() {
		if next.key != first.key || first.value == 0 {
			first = *next
		} else if err := p.repeats.add(record{pair(next.value, first.value), 0}); err != nil {
			return schemas.AsError(err, "sort")
		}
		if err := sorted.drop(); err != nil {
			return schemas.AsError(err, "sort")
		}
	}
	return nil
}

// answer is what the output says of a line.
type answer struct {
	hash uint64
	flag int
}

func lineOf(r *record) int64 {
	number, _ := r.unpair()
	return int64(number)
}

// takeAnswered takes the record of a line, or returns nil if that is not the next.
func takeAnswered(m *merge, number int64) (*answer, error) {
	r := m.peek()
	if r == nil || lineOf(r) != number {
		return nil, nil
	}
	_, hash := r.unpair()
	a := &answer{hash, int(r.value)}
	return a, m.drop()
}

// eachLine calls do for every line of the input that is not blank.
func eachLine(input *os.File, cfg *Config, do func(*line) error) error {
	if _, err := input.Seek(0, io.SeekStart); err != nil {
		return err
	}
	r := newLineReader(input, cfg.LineBytesMax)
	for {
		l, err := r.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return schemas.AsError(err, "read "+cfg.Input)
		}
		if l.blank() {
			continue
		}
		if err := do(l); err != nil {
			return err
		}
	}
}

// eachTask calls do for every line that is still to do, with what is wrong with it or nil.
func (p *plan) eachTask(do func(*task, *LineError) error) error {
	answered, err := p.answered.sorted()
	if err != nil {
		return schemas.AsError(err, "sort")
	}
	repeats, err := p.repeats.sorted()
	if err != nil {
		return schemas.AsError(err, "sort")
	}
	return eachLine(p.input, p.cfg, func(l *line) error {
		was, err := takeAnswered(answered, l.number)
		if err != nil {
			return err
		}
		repeated, err := takeAnswered(repeats, l.number) // its hash is the earlier line
		if err != nil || was != nil {
			return err
		}
		t, failed := parseLine(l, p.cfg.LineBytesMax)
		if repeated != nil {
			failed = t.fail(CodeDuplicate, "custom_id", "custom_id %s is that of line %d already", clip(t.customID), repeated.hash)
		}
		return do(t, failed)
	})
}
