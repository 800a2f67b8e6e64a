package conform

import (
	"fmt"
	"io"
	"time"
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

// Print writes the report for people.
func (r *Report) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s: %d questions, answered in %.2f ms (p50), %.2f ms (p99), %.2f ms (longest)\n", r.Subject, r.Questions, r.TripP50, r.TripP99, r.TripMax)
	failed := 0
	for _, c := range r.Checks {
		mark := "ok  "
		if !c.Passed {
			mark = "FAIL"
			failed++
		}
		fmt.Fprintf(w, "  %s  %-13s %s\n", mark, c.Name, c.Detail)
		if c.Hint != "" && !c.Passed {
			fmt.Fprintf(w, "        %-13s hint: %s\n", "", c.Hint)
		}
	}
	verdict := "it conforms"
	if failed > 0 {
		verdict = fmt.Sprintf("it does not conform: %d of %d checks failed", failed, len(r.Checks))
	}
	_, err := fmt.Fprintln(w, verdict)
	return err
}

func milliseconds(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e6 }
