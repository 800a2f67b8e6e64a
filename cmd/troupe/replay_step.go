package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/internal/replay"
	"github.com/troupe-engine/troupe/schemas"
)

// errQuit ends stepping.
var errQuit = errors.New("quit")

const stepHelp = `n [COUNT]  go on to the next event, or by COUNT events
s [STEP]   go on to the next step that is planned, or to this one
d          go on to the next decision that differs
b          the batch: rows of the last step that was planned
t          block tables
q          the queue
?          this help
x          leave
`

// stepper walks through a replay at the terminal.
type stepper struct {
	in     *bufio.Scanner
	out    io.Writer
	memory *replay.Memory

	events int            // to pass by
	step   schemas.StepID // to go on to; 0: none
	plans  bool           // go on to the next plan
	differ bool           // go on to the next divergence
	plan   *schemas.StepPlan
}

func (c *replayCommand) stepThrough(in io.Reader, out io.Writer, path, name string) error {
	names, err := schedulersOf(path)
	if err != nil {
		return err
	}
	s := c.scheduler(name)
	w := &stepper{in: bufio.NewScanner(in), out: out, memory: &replay.Memory{Scheduler: name, Eviction: c.eviction}}
	s.Look = w.look
	fmt.Fprintf(out, "%s of %s (the recording has %s); ? is help\n", name, shorten(path, 30), strings.Join(names, ", "))
	err = c.feed(io.Discard, path, &replayReport{}, []func(*recording.Entry) error{w.memory.Take, s.Take})
	if errors.Is(err, errQuit) {
		return nil
	}
	if err == nil {
		fmt.Fprintln(out, "the recording ends here")
	}
	return err
}

// look shows an event if that is what was waited for, and asks how to go on.
func (w *stepper) look(e *recording.Entry, core *scheduler.Core, fx *scheduler.Effects, d *replay.Divergence) error {
	if fx.Execute != nil {
		w.plan = fx.Execute
	}
	switch {
	case d != nil:
	case w.differ, w.plans && fx.Execute == nil, w.step != 0 && (fx.Execute == nil || fx.Execute.Step < w.step):
		return nil
	case w.events > 1:
		w.events--
		return nil
	}
	w.show(e, fx)
	if d != nil {
		printDivergences(w.out, e.Actor, []replay.Divergence{*d})
	}
	w.events, w.step, w.plans, w.differ = 0, 0, false, false
	for {
		fmt.Fprint(w.out, "> ")
		if !w.in.Scan() {
			return errQuit
		}
		goOn, err := w.command(strings.Fields(w.in.Text()), core, e.Scheduler.NowNs)
		if err != nil || goOn {
			return err
		}
	}
}

// command carries out a command; goOn ends the waiting for another.
func (w *stepper) command(words []string, core *scheduler.Core, nowNs int64) (goOn bool, err error) {
	if len(words) == 0 {
		words = []string{"n"}
	}
	number := uint64(0)
	if len(words) > 1 {
		var isNumber bool
		if number, isNumber = parseNumber(words[1]); !isNumber {
			fmt.Fprintf(w.out, "%.20q is no number\n", words[1])
			return false, nil
		}
	}
	switch words[0] {
	case "n":
		w.events = int(number)
	case "s":
		w.step, w.plans = schemas.StepID(number), number == 0
	case "d":
		w.differ = true
	case "b":
		w.batch()
		return false, nil
	case "t":
		return false, w.tables()
	case "q":
		return false, w.queue(core, nowNs)
	case "x":
		return false, errQuit
	default:
		fmt.Fprint(w.out, stepHelp)
		return false, nil
	}
	return true, nil
}

func parseNumber(word string) (uint64, bool) {
	n, err := strconv.ParseUint(word, 10, 32)
	return n, err == nil
}

func (w *stepper) show(e *recording.Entry, fx *scheduler.Effects) {
	story := recording.Story{}
	lines := story.Tell(e)
	fmt.Fprintf(w.out, "entry %d, event %q\n", e.Number, e.Scheduler.Event)
	for _, l := range lines {
		for i, text := range wrap(oneLine(l.Text), columnsMax-4) {
			indent := "  "
			if i > 0 {
				indent = "    "
			}
			fmt.Fprintln(w.out, indent+text)
		}
	}
	if r := fx.Reserve; r != nil {
		fmt.Fprintf(w.out, "  asks memory for step %d: %d rows, %d admitted, %d released\n", r.Step, len(r.Seq), len(r.Admit), len(r.Release))
	}
}

func (w *stepper) batch() {
	if w.plan == nil {
		fmt.Fprintln(w.out, "no step was planned yet")
		return
	}
	rows := [][]string{{"SEQUENCE", "SLOT", "START", "TOKENS", "SAMPLES", "NEW BLOCKS"}}
	for i := range w.plan.Seq {
		samples := "yes"
		if w.plan.Sample[i] == schemas.SampleNone {
			samples = "no"
		}
		rows = append(rows, []string{schemas.SeqID(w.plan.Seq[i]).String(), fmt.Sprint(w.plan.Slot[i]), fmt.Sprint(w.plan.Start[i]),
			fmt.Sprint(w.plan.Count[i]), samples, fmt.Sprint(w.plan.BlockCount[i])})
	}
	fmt.Fprintf(w.out, "step %d, epoch %d\n", w.plan.Step, w.plan.Epoch)
	_ = table(w.out, rows)
}

func (w *stepper) tables() error {
	st := w.memory.State()
	if st == nil {
		fmt.Fprintln(w.out, "memory cannot be told from here on: it was asked something else")
		return nil
	}
	fmt.Fprintf(w.out, "%d of %d blocks free, %d cached, %d used, %d shared\n", st.Free, st.Total, st.Cached, st.Used, st.Shared)
	rows := [][]string{{"SEQUENCE", "TOKENS", "BLOCKS"}}
	for _, t := range st.Tables {
		rows = append(rows, []string{t.Seq.String(), fmt.Sprint(t.Placed), shorten(fmt.Sprint([]int32(t.Blocks)), 50)})
	}
	return table(w.out, rows)
}

func (w *stepper) queue(core *scheduler.Core, nowNs int64) error {
	st := core.State(nowNs)
	fmt.Fprintf(w.out, "%d running, %d waiting, %d steps in flight, policy %s\n", st.Running, st.Waiting, st.InFlight, st.Policy)
	rows := [][]string{{"SEQUENCE", "PHASE", "PROMPT", "OUTPUT", "COMPUTED", "CACHED", "AGE MS"}}
	for _, s := range st.Seqs {
		rows = append(rows, []string{s.Seq.String(), s.Phase, fmt.Sprint(s.Prompt), fmt.Sprint(s.Output), fmt.Sprint(s.Computed), fmt.Sprint(s.Cached), fmt.Sprint(s.AgeMs)})
	}
	return table(w.out, rows)
}
