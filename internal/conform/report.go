package conform

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"
)

// Check is one requirement and how it was met.
type Check struct {
	Name   string `json:"name"`
	Passed bool   `json:"passed"`
	Detail string `json:"detail"` // what was found; if it failed, with the first case
	Hint   string `json:"hint,omitempty"`
}

// Report is what a run found.
type Report struct {
	Subject   string  `json:"subject"`
	Questions int     `json:"questions"`
	Checks    []Check `json:"checks"`

	// Time from question to answer, in milliseconds.
	TripP50 float64 `json:"trip_p50_ms"`
	TripP99 float64 `json:"trip_p99_ms"`
	TripMax float64 `json:"trip_max_ms"`
}

// Passed reports whether every check did.
func (r *Report) Passed() bool {
	for _, c := range r.Checks {
		if !c.Passed {
			return false
		}
	}
	return len(r.Checks) > 0
}

// detailColumns is how wide the text beside a check's name is.
const detailColumns = 58

// Print writes the report for people, in 80 columns.
func (r *Report) Print(w io.Writer) error {
	fmt.Fprintf(w, "%.64s\n%d questions, answered in %.2f ms (p50), %.2f ms (p99), %.2f ms (longest)\n", r.Subject, r.Questions, r.TripP50, r.TripP99, r.TripMax)
	failed := 0
	for _, c := range r.Checks {
		mark, text := "ok  ", c.Detail
		if !c.Passed {
			mark = "FAIL"
			failed++
			if c.Hint != "" {
				text += "; hint: " + c.Hint
			}
		}
		for i, line := range wrap(text, detailColumns) {
			if i > 0 {
				mark, c.Name = "", ""
			}
			fmt.Fprintf(w, "  %-4s  %-13s %s\n", mark, c.Name, line)
		}
	}
	verdict := "it conforms"
	if failed > 0 {
		verdict = fmt.Sprintf("it does not conform: %d of %d checks failed", failed, len(r.Checks))
	}
	_, err := fmt.Fprintln(w, verdict)
	return err
}

// wrap breaks a text into lines of at most columns runes, also within a word if it must. What a policy said is in it, so
// control characters are left out.
func wrap(text string, columns int) (lines []string) {
	line := []rune{}
	flush := func() {
		if len(line) > 0 {
			lines, line = append(lines, string(line)), line[:0]
		}
	}
	for _, field := range strings.Fields(text) {
		word := []rune(strings.Map(func(r rune) rune {
			if !unicode.IsPrint(r) {
				return -1
			}
			return r
		}, field))
		if len(line) > 0 && len(line)+1+len(word) > columns {
			flush()
		}
		for len(word) > columns {
			lines, word = append(lines, string(word[:columns])), word[columns:]
		}
		if len(line) > 0 {
			line = append(line, ' ')
		}
		line = append(line, word...)
	}
	flush()
	return lines
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
