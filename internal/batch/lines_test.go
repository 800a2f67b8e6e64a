package batch

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

func readLines(t *testing.T, text string, bytesMax int) []line {
	t.Helper()
	var all []line
	r := newLineReader(strings.NewReader(text), bytesMax)
	for {
		l, err := r.next()
		if errors.Is(err, io.EOF) {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		c := *l
		c.text = bytes.Clone(l.text)
		all = append(all, c)
	}
}

func TestLinesAreWhatLiesBetweenBreaks(t *testing.T) {
	long := strings.Repeat("x", 2*readBufferBytes)
	all := readLines(t, "\ufeffone\r\n\n"+long+"\nlast", 10)
	if len(all) != 4 {
		t.Fatalf("%d lines; want 4", len(all))
	}
	if l := all[0]; string(l.text) != "one" || l.number != 1 || !l.whole {
		t.Errorf("first line %+v %q", l, l.text)
	}
	if !all[1].blank() || all[2].blank() {
		t.Error("the second line is blank, the third is not")
	}
	if l := all[2]; !l.tooBig || l.text != nil || l.number != 3 {
		t.Errorf("the long line: tooBig %v, %d bytes kept", l.tooBig, len(l.text))
	}
	if l := all[3]; string(l.text) != "last" || l.whole {
		t.Errorf("last line %q, whole %v", l.text, l.whole)
	}
	for _, bytesMax := range []int{len(long), len(long) + 1} {
		if l := readLines(t, long+"\n", bytesMax)[0]; l.tooBig || l.hash != all[2].hash {
			t.Errorf("with a limit of %d the same line is too big (%v) or has another hash", bytesMax, l.tooBig)
		}
	}
	if a, b := readLines(t, "last\n", 10)[0], all[3]; a.hash != b.hash {
		t.Error("a line break at the end of the file changes the hash of the last line")
	}
}

func TestLinesThatCannotBeAsked(t *testing.T) {
	const rest = `,"method":"POST","url":"/v1/completions","body":{}}`
	for text, code := range map[string]string{
		`not json`: CodeInvalidJSON, `[1]`: CodeInvalidJSON, `null`: CodeInvalidJSON, `"x"`: CodeInvalidJSON, `{"custom_id":"a"`: CodeInvalidJSON,
		"{\"custom_id\":\"\xff\"}": CodeInvalidJSON, strings.Repeat("[", 20000): CodeInvalidJSON,
		`{"method":"POST"}`: CodeCustomID, `{"custom_id":7` + rest: CodeCustomID, `{"custom_id":null` + rest: CodeCustomID,
		`{"custom_id":""` + rest: CodeCustomID, `{"custom_ID":"a"` + rest: CodeCustomID,
		`{"custom_id":"` + strings.Repeat("a", customIDBytesMax+1) + `"` + rest:             CodeCustomID,
		`{"custom_id":"a","url":"/v1/completions","body":{}}`:                               CodeMethod,
		`{"custom_id":"a","method":"GET","url":"/v1/completions","body":{}}`:                CodeMethod,
		`{"custom_id":"a","method":"POST","url":"/v1/files","body":{}}`:                     CodeURL,
		`{"custom_id":"a","method":"POST","body":{}}`:                                       CodeURL,
		`{"custom_id":"a","method":"POST","url":"/v1/completions"}`:                         CodeBody,
		`{"custom_id":"a","method":"POST","url":"/v1/completions","body":null}`:             CodeBody,
		`{"custom_id":"a","method":"POST","url":"/v1/completions","body":"{}"}`:             CodeBody,
		`{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"stream":true}}`:  CodeStream,
		`{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"stream":false}}`: "",
		`{"custom_id":"a"` + rest: "",
	} {
		l := readLines(t, text, 1<<20)[0]
		_, failed := parseLine(&l, 1<<20)
		switch {
		case code == "" && failed != nil:
			t.Errorf("%.80s: %s", text, failed.Message)
		case code != "" && (failed == nil || failed.Code != code):
			t.Errorf("%.80s: %+v; want %s", text, failed, code)
		case code != "" && (failed.Line != 1 || !strings.HasPrefix(failed.Message, "line 1: ") || len(failed.Message) > 300):
			t.Errorf("%.80s: line %d, message %q", text, failed.Line, failed.Message)
		}
	}
}

func TestResultsAreOneLineOfJSON(t *testing.T) {
	task := &task{line: 7, hash: 0xabc, customID: json.RawMessage(`"a<b"`)}
	o := newOutcome(task, 0, &Response{Status: 200, RequestID: "r", Body: []byte("{\n \"usage\": {\"completion_tokens\": 5}\n}\n")}, nil)
	want := `{"id":"batch_req_7_0000000000000abc","custom_id":"a<b","response":{"status_code":200,"request_id":"r","body":{"usage":{"completion_tokens":5}}},"error":null}` + "\n"
	if string(o.encoded) != want || o.reason != "" || o.usage.CompletionTokens != 5 {
		t.Errorf("%s reason %q, usage %+v; want\n%s", o.encoded, o.reason, o.usage, want)
	}
	html := newOutcome(task, 0, &Response{Status: 502, Body: []byte("<html>\n\xff bad gateway")}, nil)
	if bytes.Count(html.encoded, []byte("\n")) != 1 || !json.Valid(html.encoded) || html.reason != "HTTP 502, not JSON" {
		t.Errorf("%s reason %q", html.encoded, html.reason)
	}
	number, hash, flag, ok := parseAnswered(&line{text: html.encoded})
	if number != 7 || hash != 0xabc || flag != answeredFailed || !ok {
		t.Errorf("read back: line %d, hash %x, flag %d, %v", number, hash, flag, ok)
	}
}

func TestSorterSortsMoreThanItHolds(t *testing.T) {
	seed := rand.Uint64()
	random := rand.New(rand.NewPCG(seed, 1))
	for _, count := range []int{0, 1, 7, 8, 9, 100, 1000} {
		s := newSorter(t.TempDir())
		s.memoryMax = 8
		var want []record
		for range count {
			r := record{pair(random.Uint64N(20), random.Uint64N(3)), random.Uint64N(5)}
			want = append(want, r)
			if err := s.add(r); err != nil {
				t.Fatal(err)
			}
			if len(s.records) > s.memoryMax {
				t.Fatalf("%d records in memory; want at most %d", len(s.records), s.memoryMax)
			}
		}
		slices.SortFunc(want, compareRecords)
		for range 2 { // it can be read again
			m, err := s.sorted()
			if err != nil {
				t.Fatal(err)
			}
			var got []record
			for r := m.peek(); r != nil; r = m.peek() {
				got = append(got, *r)
				if err := m.drop(); err != nil {
					t.Fatal(err)
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("seed %d: %d records are not sorted", seed, count)
			}
		}
		s.close()
	}
}
