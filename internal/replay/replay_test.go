package replay

import (
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/internal/traces"
	"github.com/troupe-engine/troupe/schemas"
)

// tiny is a recording of an engine with 24 blocks of 8 tokens and 3 slots that served five completions (n=2, log-probabilities),
// a chat with a guided answer and an embedding at once. Where the scheduler or memory is to decide differently, record it again.
const tiny = "testdata/tiny.troupe"

const replica = "scheduler.replica0"

// feed gives a recording's entries to the takers and returns why that ended, nil at its end.
func feed(path string, takers ...func(*recording.Entry) error) error {
	r, err := recording.Open(path, false)
	if err != nil {
		return err
	}
	defer r.Close()
	for {
		e, err := r.Next()
		if err == io.EOF {
			return nil
		}
		for i := 0; err == nil && i < len(takers); i++ {
			err = takers[i](e)
		}
		if err != nil {
			return err
		}
	}
}

func schedulerReplay(change func(*scheduler.Config)) *Scheduler {
	s := &Scheduler{Change: change}
	s.Report.Actor = replica
	return s
}

func TestNothingChanged(t *testing.T) {
	s, m := schedulerReplay(nil), &Memory{Scheduler: replica}
	if err := feed(tiny, s.Take, m.Take); err != nil {
		t.Fatal(err)
	}
	if s.Report.Runs != 1 || s.Report.Steps < 40 || m.Report.Events < 40 || len(s.Report.Divergences)+len(m.Report.Divergences) != 0 {
		t.Errorf("%+v\n%+v", s.Report, m.Report)
	}
}

// TestChanges: what is changed is found, and explained.
func TestChanges(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*scheduler.Config)
		why    string
	}{
		"fewer slots":      {func(c *scheduler.Config) { c.SequencesMax = 2 }, "row 2 is missing"},
		"a small budget":   {func(c *scheduler.Config) { c.TokensStepMax = 8 }, "budget"},
		"another policy":   {func(c *scheduler.Config) { c.Policy = "shortest" }, "row"},
		"no deep pipeline": {func(c *scheduler.Config) { c.PipelineDepth = 1 }, ""},
	} {
		s := schedulerReplay(c.change)
		if err := feed(tiny, s.Take); err != nil {
			t.Fatal(err)
		}
		if len(s.Report.Divergences) != 1 || !strings.Contains(s.Report.Divergences[0].Why, c.why) {
			t.Errorf("%s: %+v", name, s.Report.Divergences)
		}
	}
}

// TestAGapEndsARun: what follows missing entries is not compared with anything.
func TestAGapEndsARun(t *testing.T) {
	s, m, n := schedulerReplay(nil), &Memory{Scheduler: replica}, 0
	drop := func(take func(*recording.Entry) error) func(*recording.Entry) error {
		return func(e *recording.Entry) error {
			if n++; n/2 == 100 {
				return nil
			}
			return take(e)
		}
	}
	if err := feed(tiny, drop(s.Take), drop(m.Take)); err != nil {
		t.Fatal(err)
	}
	if s.Report.Gaps != 1 || m.Report.Gaps != 1 || s.Report.Skipped == 0 || len(s.Report.Divergences)+len(m.Report.Divergences) != 0 {
		t.Errorf("%+v\n%+v", s.Report, m.Report)
	}
}

// TestPartsAreApart: numbers that go on from part to part do not make one run of two.
func TestPartsAreApart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "two.troupe")
	for part, checkpoints := range []bool{true, false} { // the second part begins in the middle
		w, _, err := recording.Create(path, &recording.Manifest{})
		if err != nil {
			t.Fatal(err)
		}
		err = feed(tiny, func(e *recording.Entry) error {
			if !checkpoints && e.Number < 150 || checkpoints && e.Number >= 120 {
				return nil
			}
			number := e.Number
			if part == 1 {
				number -= 30
			}
			wire, err := bus.Marshal(&schemas.JournalBatch{Version: 1, Node: e.Node, Number: number, Started: e.Started, Entries: []schemas.JournalEntry{e.JournalEntry}})
			return errors.Join(err, w.Add(wire))
		})
		if err := errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
	}
	s := schedulerReplay(nil)
	if err := feed(path, s.Take); err != nil {
		t.Fatal(err)
	}
	if len(s.Report.Divergences) != 0 || s.Report.Gaps != 1 || s.Report.Skipped == 0 {
		t.Errorf("%+v", s.Report)
	}
}

func TestRequests(t *testing.T) {
	r, err := recording.Open(tiny, false)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	list, err := Requests(r)
	if err != nil {
		t.Fatal(err)
	}
	apis := map[string]int{}
	for _, q := range list {
		apis[q.API]++
		if !q.Ended || q.Err != nil || q.Took <= 0 || q.Seed == nil {
			t.Errorf("%+v", q)
		}
		if q.API == "completion" && (len(q.Seqs) != 2 || q.Texts[q.Seqs[0]] == "" || q.Texts[q.Seqs[1]] == "" || q.TTFT <= 0) {
			t.Errorf("%+v", q)
		}
	}
	if apis["completion"] != 5 || apis["chat"] != 1 || apis["embedding"] != 1 {
		t.Errorf("%v", apis)
	}
}

// tinyWire is tiny's batches, each after its length.
func tinyWire(t testing.TB) (wire []byte) {
	t.Helper()
	err := feed(tiny, func(e *recording.Entry) error {
		b, err := bus.Marshal(&schemas.JournalBatch{Version: 1, Node: e.Node, Number: e.Number, Started: e.Started, Entries: []schemas.JournalEntry{e.JournalEntry}})
		wire = append(binary.AppendUvarint(wire, uint64(len(b))), b...)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// readEverything makes a recording of batches and lets everything read it that reads recordings.
func readEverything(t testing.TB, path string, wire []byte) {
	t.Helper()
	w, _, err := recording.Create(path, &recording.Manifest{})
	if err != nil {
		t.Fatal(err)
	}
	for len(wire) > 0 {
		n, size := binary.Uvarint(wire)
		if size <= 0 || n > uint64(len(wire)-size) {
			break
		}
		if err := w.Add(wire[size : size+int(n)]); err != nil {
			t.Fatal(err)
		}
		wire = wire[size+int(n):]
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(path)
	stories := []*recording.Story{{}, {Step: 30}, {Request: 1 << 8}}
	s, m := schedulerReplay(nil), &Memory{Scheduler: replica}
	for _, take := range []func(*recording.Entry) error{s.Take, m.Take, func(e *recording.Entry) error {
		for _, story := range stories {
			story.Tell(e)
		}
		recording.RequestsOf(&e.JournalEntry)
		return nil
	}} {
		_ = feed(path, take) // an error is fine
	}
	for _, read := range []func(*recording.Reader){func(r *recording.Reader) { _, _ = Requests(r) },
		func(r *recording.Reader) { _, _ = traces.FromRecording(r, "") }} {
		if r, err := recording.Open(path, true); err == nil {
			read(r)
			r.Close()
		}
	}
	_, _ = recordedSteps(path, replica)
}

// TestMutatedRecordings: whatever the entries of a recording say, their readers end with an error or a report.
func TestMutatedRecordings(t *testing.T) {
	wire, rng := tinyWire(t), rand.New(rand.NewPCG(1, 1))
	path := filepath.Join(t.TempDir(), "mutated.troupe")
	for range 150 {
		mutated := slices.Clone(wire)
		for range 1 + rng.IntN(4) {
			mutated[rng.IntN(len(mutated))] = byte(rng.Uint32())
		}
		readEverything(t, path, mutated)
	}
}

func FuzzReplay(f *testing.F) {
	wire := tinyWire(f)
	f.Add(wire[:8<<10])
	f.Add(wire[:1<<10])
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, wire []byte) { readEverything(t, filepath.Join(dir, "fuzz.troupe"), wire) })
}
