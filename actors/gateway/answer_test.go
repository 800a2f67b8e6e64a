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
// choice, text, output tokens so far, cached prompt tokens, and how the choice ends, if it does. A line "+ a=-1 b=-2"
// adds the log-probabilities of token a, and of the likeliest there, to the row above; "prompt" those of the prompt.
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
			j := &job{api: completionAPI, model: "m", n: 1, stream: d.HasArg("stream"), usage: d.HasArg("usage"), logprobs: d.HasArg("logprobs"),
				echo: d.HasArg("echo"), promptLogprobs: d.HasArg("prompt-logprobs"), logprobsTop: 20, promptTop: 20, discard: d.HasArg("discard")}
			if d.HasArg("chat") {
				j.api = chatAPI
			}
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
				a.prompts[i] = prompt{tokens: int32(n), text: "<Once", first: "<"}
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
			if !a.job.stream {
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
		if words := strings.Fields(line); words[0] == "+" || words[0] == "prompt" {
			last := &rows[len(rows)-1]
			if l := logprobOf(t, words[1:]); words[0] == "+" {
				last.logprobs = append(last.logprobs, l)
			} else {
				last.prompt = append(last.prompt, l)
			}
			continue
		}
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

// logprobOf reads a=-1 b=-2: token a, whose id is its first byte, and the likeliest. ~ is half a character.
func logprobOf(t *testing.T, words []string) logprob {
	var all []logprob
	for _, w := range words {
		text, value, _ := strings.Cut(w, "=")
		l := logprob{token: int32(text[0]), rank: 2, text: strings.NewReplacer("_", " ", "~", "\xe2\x82").Replace(text)}
		if _, err := fmt.Sscanf(value, "%g", &l.value); err != nil {
			t.Fatalf("%q: %v", w, err)
		}
		all = append(all, l)
	}
	all[0].top = all[1:]
	return all[0]
}
