package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// columnsMax is the width that all output fits.
const columnsMax = 80

// addJSON gives a command that reports the flag --json.
func addJSON(cmd *cobra.Command) *bool {
	return cmd.Flags().Bool("json", false, "print JSON")
}

func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// table prints rows in columns; the first row is the heading.
func table(w io.Writer, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range rows {
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	return t.Flush()
}

// fitColumnsMin is the width that fit leaves to every column.
const fitColumnsMin = 6

// fit shortens the cells of some columns of a table, always the widest column, until its rows fit the terminal.
func fit(rows [][]string, columns ...int) [][]string {
	widths, total := make([]int, len(rows[0])), 2*(len(rows[0])-1)
	for c := range widths {
		for _, row := range rows {
			widths[c] = max(widths[c], utf8.RuneCountInString(row[c]))
		}
		total += widths[c]
	}
	for ; total > columnsMax; total-- {
		widest := columns[0]
		for _, c := range columns {
			if widths[c] > widths[widest] {
				widest = c
			}
		}
		if widths[widest] <= fitColumnsMin {
			break
		}
		widths[widest]--
	}
	for _, row := range rows {
		for _, c := range columns {
			row[c] = shorten(row[c], widths[c])
		}
	}
	return rows
}

// shorten cuts a path or name in the middle to n columns.
func shorten(s string, n int) string {
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	return string(r[:n/2-1]) + "…" + string(r[len(r)-(n-n/2):])
}

// size writes bytes in the unit that people use.
func size(bytes int64) string {
	value, unit := float64(bytes), "B"
	for _, next := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if value < 1024 {
			break
		}
		value, unit = value/1024, next
	}
	if unit == "B" {
		return fmt.Sprintf("%d B", bytes)
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// dim makes text unobtrusive on a terminal.
func dim(w io.Writer, text string) string {
	if isTerminal(w) && os.Getenv("NO_COLOR") == "" {
		return "\x1b[2m" + text + "\x1b[0m"
	}
	return text
}

// printable removes what a model must not send to a terminal: control characters other than line breaks
// and tabs, which could move the cursor or worse.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, text)
}

// folder writes text that comes in pieces, safe for a terminal, and breaks its lines at spaces.
type folder struct {
	w      io.Writer
	column int
	spaces int    // before word
	word   []rune // that may go on
}

// Write takes whole characters.
func (f *folder) Write(p []byte) (int, error) {
	var out strings.Builder
	for _, r := range printable(string(p)) {
		switch r {
		case ' ':
			f.take(&out)
			f.spaces++
		case '\n':
			f.take(&out)
			out.WriteByte('\n')
			f.column, f.spaces = 0, 0
		default:
			f.word = append(f.word, r)
		}
	}
	_, err := io.WriteString(f.w, out.String())
	return len(p), err
}

// take ends the word.
func (f *folder) take(out *strings.Builder) {
	if len(f.word) == 0 {
		return
	}
	if f.column+f.spaces+len(f.word) > columnsMax && f.column > 0 {
		out.WriteByte('\n')
		f.column, f.spaces = 0, 0
	}
	out.WriteString(strings.Repeat(" ", f.spaces))
	out.WriteString(string(f.word))
	f.column, f.spaces, f.word = f.column+f.spaces+len(f.word), 0, nil
}

// end writes the last word.
func (f *folder) end() error {
	var out strings.Builder
	f.take(&out)
	_, err := io.WriteString(f.w, out.String())
	return err
}

// progress shows how much of a large model is loaded, on a terminal.
func progress(w io.Writer, name string) func(done, total int64) {
	if !isTerminal(w) {
		return nil
	}
	shown := -1
	return func(done, total int64) {
		percent := int(100 * done / max(total, 1))
		if total < progressBytesMin || percent == shown {
			return
		}
		shown = percent
		fmt.Fprintf(w, "\r\x1b[Kloading %s  %3d%% of %s", shorten(name, 40), percent, size(total))
		if done >= total {
			fmt.Fprint(w, "\r\x1b[K")
		}
	}
}

// progressBytesMin is the size from which loading takes long enough to watch.
const progressBytesMin = 256 << 20

// printJSONLine prints one of many values.
func printJSONLine(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	return e.Encode(v)
}
