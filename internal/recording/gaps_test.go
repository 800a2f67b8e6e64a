package recording

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// answersWire is a packed batch of answers, one to each request.
func answersWire(t testing.TB, number uint64, requests ...uint32) []byte {
	t.Helper()
	b := schemas.JournalBatch{Version: schemas.JournalVersion, Node: "a", Number: number, Started: 5}
	for _, n := range requests {
		b.Entries = append(b.Entries, schemas.JournalEntry{Actor: "gateway.a", Answer: &schemas.ClientAnswer{Request: schemas.NewRequestID(1, n)}})
	}
	wire, err := bus.PackJournal(&b)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// TestFilteredGaps: what a filter leaves out is no gap, and what was lost between is one, to the number.
func TestFilteredGaps(t *testing.T) {
	for name, c := range map[string]struct {
		batches func(t *testing.T) [][]byte
		want    []string
	}{
		"nothing lost": {func(t *testing.T) [][]byte {
			return [][]byte{answersWire(t, 1, 1, 2, 2), answersWire(t, 4, 2, 2), answersWire(t, 6, 2, 1, 2, 1), answersWire(t, 10, 2)}
		}, nil},
		"lost after kept ones":    {func(t *testing.T) [][]byte { return [][]byte{answersWire(t, 1, 1), answersWire(t, 5, 1)} }, []string{"entries 2 to 4 of a"}},
		"lost between those left": {func(t *testing.T) [][]byte { return [][]byte{answersWire(t, 1, 1, 2), answersWire(t, 5, 2, 1)} }, []string{"entries 3 to 4 of a"}},
		"lost before those left":  {func(t *testing.T) [][]byte { return [][]byte{answersWire(t, 1, 1), answersWire(t, 3, 2, 2, 1)} }, []string{"entries 2 to 2 of a"}},
		"lost after those left":   {func(t *testing.T) [][]byte { return [][]byte{answersWire(t, 1, 1, 2, 2), answersWire(t, 5, 1)} }, []string{"entries 4 to 4 of a"}},
		"lost twice, nothing kept": {func(t *testing.T) [][]byte {
			return [][]byte{answersWire(t, 1, 1, 2), answersWire(t, 4, 2), answersWire(t, 6, 2, 1)}
		}, []string{"entries 3 to 3 of a", "entries 5 to 5 of a"}},
	} {
		t.Run(name, func(t *testing.T) {
			edit := newEditor(Options{Filter: Filter{Requests: []schemas.RequestID{schemas.NewRequestID(1, 1)}}}, nil)
			path := filepath.Join(t.TempDir(), "r.troupe")
			w, _, err := Create(path, &Manifest{Partial: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, wire := range c.batches(t) {
				batches, err := edit.batch(wire)
				if err != nil {
					t.Fatal(err)
				}
				for _, b := range batches {
					if err := w.Add(b); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			numbers, r, err := readAll(t, path, false)
			if err != nil || len(numbers) == 0 || len(r.Gaps()) != len(c.want) {
				t.Fatalf("entries %v, gaps %v, %v; want %q", numbers, r.Gaps(), err, c.want)
			}
			for i, want := range c.want {
				if got := r.Gaps()[i].String(); !strings.HasPrefix(got, want) {
					t.Errorf("gap %d: %s; want %s", i, got, want)
				}
			}
		})
	}
}

// TestFollowerCountsWhatIsMissing: batches, nodes that start again, and batches that lack a part.
func TestFollowerCountsWhatIsMissing(t *testing.T) {
	for name, c := range map[string]struct {
		heads []batchHead
		lost  uint64
	}{
		"in order":               {[]batchHead{{number: 5, entries: 3}, {number: 8, entries: 1}}, 0},
		"one lost":               {[]batchHead{{number: 5, entries: 3}, {number: 12, entries: 1}}, 4},
		"started again":          {[]batchHead{{number: 5, entries: 3, started: 1}, {number: 50, entries: 1, started: 2}}, 0},
		"in parts":               {[]batchHead{{number: 1, entries: 1}, {number: 2, parts: 2}, {number: 2, part: 1, parts: 2, entries: 4}, {number: 6, entries: 1}}, 0},
		"first part lost":        {[]batchHead{{number: 1, entries: 1}, {number: 2, part: 1, parts: 2, entries: 4}, {number: 6, entries: 1}}, 4},
		"middle part lost":       {[]batchHead{{number: 1, entries: 1}, {number: 2, parts: 3}, {number: 2, part: 2, parts: 3, entries: 4}, {number: 6, entries: 1}}, 4},
		"last part lost":         {[]batchHead{{number: 1, entries: 1}, {number: 2, parts: 2}, {number: 6, entries: 1}}, 4},
		"end and beginning lost": {[]batchHead{{number: 1, entries: 1}, {number: 2, parts: 2}, {number: 6, part: 1, parts: 2, entries: 3}, {number: 9, entries: 1}}, 7},
		"lost before parts":      {[]batchHead{{number: 1, entries: 1}, {number: 3, parts: 2}, {number: 3, part: 1, parts: 2, entries: 4}}, 1},
	} {
		var f follower
		lost := uint64(0)
		for _, h := range c.heads {
			lost += f.take(h)
		}
		if lost != c.lost {
			t.Errorf("%s: %d are lost, want %d", name, lost, c.lost)
		}
	}
}

// TestHeadOf reads the same of a batch of version 1, a packed one and a part of one.
func TestHeadOf(t *testing.T) {
	for name, c := range map[string]struct {
		batch schemas.JournalBatch
		want  batchHead
	}{
		"version 1": {schemas.JournalBatch{Version: 1, Node: "n", Number: 4, Started: 9, Entries: make([]schemas.JournalEntry, 2)}, batchHead{node: "n", number: 4, entries: 2}},
		"packed":    {schemas.JournalBatch{Version: 2, Node: "n", Number: 4, Started: 9, Count: 3, Packed: schemas.U8{1}}, batchHead{node: "n", number: 4, entries: 3, started: 9}},
		"a part":    {schemas.JournalBatch{Version: 2, Node: "n", Number: 4, Started: 9, Packed: schemas.U8{1}, Part: 1, Parts: 3}, batchHead{node: "n", number: 4, started: 9, part: 1, parts: 3}},
	} {
		wire, err := bus.Marshal(&c.batch)
		if err != nil {
			t.Fatal(err)
		}
		got, err := headOf(wire)
		if err != nil || got != c.want {
			t.Errorf("%s: %+v, %v; want %+v", name, got, err, c.want)
		}
	}
	if _, err := headOf([]byte{0x9b, 1, 0xa1, 'n', 0xa0, 4, 0x90, 1, 0xff}); err == nil {
		t.Error("a negative count is taken")
	}
}

// TestABatchThatLacksAPart is a gap, not damage, and what follows is read.
func TestABatchThatLacksAPart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.troupe")
	w, _, err := Create(path, &Manifest{})
	if err != nil {
		t.Fatal(err)
	}
	part, err := bus.Marshal(&schemas.JournalBatch{Version: 2, Node: "a", Number: 2, Started: 5, Packed: schemas.U8{1}, Parts: 2})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{answersWire(t, 1, 1), part, answersWire(t, 4, 1)} {
		if err := w.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	numbers, r, err := readAll(t, path, false)
	if err != nil || fmt.Sprint(numbers) != "[1 4]" || len(r.Gaps()) != 1 || !strings.HasPrefix(r.Gaps()[0].String(), "entries 2 to 3") {
		t.Errorf("entries %v, gaps %v, %v", numbers, r.Gaps(), err)
	}
}
