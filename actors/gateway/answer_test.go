package gateway

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"github.com/troupe-engine/troupe/schemas"
)

// The stories in testdata/answer.txt show what every kind of answer consists of. The rows of a step are:
// choice, text, output tokens so far, cached prompt tokens, and how the choice ends, if it does.
func TestAnswerStories(t *testing.T) {
	var a *answer
	datadriven.RunTest(t, "testdata/answer.txt", func(t *testing.T, d *datadriven.TestData) string {
		var out strings.Builder
		show := func(v any) {
			b, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "%s\n", b)
		}
		switch d.Cmd {
		case "new":
			j := &job{model: "m", n: 1, chat: d.HasArg("chat"), stream: d.HasArg("stream"), usage: d.HasArg("usage")}
			if d.HasArg("n") {
				d.ScanArgs(t, "n", &j.n)
			}
			prompts := []int{}
			for _, arg := range d.CmdArgs {
				if arg.Key == "prompts" {
					for i := range arg.Vals {
						var tokens int
						arg.Scan(t, i, &tokens)
						prompts = append(prompts, tokens)
					}
				}
			}
			j.prompts = make([]schemas.EncodeRequest, len(prompts))
			a = newAnswer("id", 7, j)
			for i, n := range prompts {
				a.prompts[i] = int32(n)
			}
			for _, e := range a.opening() {
				show(e)
			}
		case "step":
			events, err := a.step(rowsOf(t, d.Input))
			for _, e := range events {
				show(e)
			}
			if err != nil {
				fmt.Fprintf(&out, "error: %v\n", err)
			}
			fmt.Fprintf(&out, "open: %d\n", a.open)
		case "close":
			for _, e := range a.closing() {
				show(e)
			}
			if !a.stream {
				show(a.whole())
			}
		default:
			t.Fatalf("no command %s", d.Cmd)
		}
		return out.String()
	})
}

func rowsOf(t *testing.T, input string) []row {
	var rows []row
	for _, line := range strings.Split(input, "\n") {
		var r row
		var finish string
		n, _ := fmt.Sscanf(line, "%d %q %d %d %s", &r.choice, &r.text, &r.tokens, &r.cached, &finish)
		if n < 3 {
			t.Fatalf("%q: want choice, quoted text, tokens, cached, finish", line)
		}
		switch finish {
		case "stop":
			r.finish = schemas.FinishStop
		case "length":
			r.finish = schemas.FinishLength
		case "cancel":
			r.finish = schemas.FinishCancel
		case "error":
			r.finish, r.err = schemas.FinishError, schemas.Errorf(schemas.KindNoMemory, "reserve", "no blocks")
		case "broken":
			r.finish = schemas.FinishError
		}
		rows = append(rows, r)
	}
	return rows
}
