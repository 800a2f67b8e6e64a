package recording

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// batchWire is n entries of a node, the first with the number.
func batchWire(t testing.TB, node schemas.NodeID, number uint64, n int) []byte {
	t.Helper()
	b := schemas.JournalBatch{Version: schemas.JournalVersion, Node: node, Build: "test", Number: number}
	for i := range n {
		b.Entries = append(b.Entries, schemas.JournalEntry{Actor: "scheduler.replica0", UnixNs: int64(number) + int64(i),
			Scheduler: &schemas.SchedulerStep{Event: schemas.EventTick, NowNs: int64(number) + int64(i)}})
	}
	wire, err := bus.Marshal(&b)
	if err != nil {
		t.Fatal(err)
	}
	return wire
}

// record writes frames of 10 entries each: every batch gets its own.
func record(t testing.TB, path string, frames int) {
	t.Helper()
	w, _, err := Create(path, &Manifest{Created: time.Unix(1, 0).UTC(), Build: "test"})
	if err != nil {
		t.Fatal(err)
	}
	for i := range frames {
		if err := w.Add(batchWire(t, "a", uint64(1+10*i), 10)); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		w.flush()
		w.mu.Unlock()
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
}

// readAll returns the numbers of the entries that can be read, and why it ended if not at the end.
func readAll(t testing.TB, path string, repair bool) (numbers []uint64, r *Reader, err error) {
	t.Helper()
	if r, err = Open(path, repair); err != nil {
		return nil, nil, err
	}
	defer r.Close()
	for {
		e, err := r.Next()
		if err == io.EOF {
			return numbers, r, nil
		}
		if err != nil {
			return numbers, r, err
		}
		numbers = append(numbers, e.Number)
	}
}

func consecutive(numbers []uint64) bool {
	for i, n := range numbers {
		if n != uint64(i+1) {
			return false
		}
	}
	return true
}

func TestRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.troupe")
	record(t, path, 5)
	numbers, r, err := readAll(t, path, false)
	if err != nil || len(numbers) != 50 || !consecutive(numbers) || len(r.Gaps()) != 0 || len(r.Damage()) != 0 || !r.Ended() {
		t.Errorf("%d entries, gaps %v, damage %v, ended %v: %v", len(numbers), r.Gaps(), r.Damage(), r.Ended(), err)
	}
	if m := r.Manifests(); len(m) != 1 || m[0].Build != "test" {
		t.Errorf("manifests %+v", m)
	}
}

// TestCutAnywhere: wherever a killed recorder stopped, what was written before can be read, and the recording continued.
func TestCutAnywhere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.troupe")
	record(t, path, 3)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	full := 0
	for size := headerBytes; size < len(whole); size++ {
		if err := os.WriteFile(path, whole[:size], 0o600); err != nil {
			t.Fatal(err)
		}
		numbers, r, err := readAll(t, path, false)
		if r == nil { // not even the manifest is whole
			if err == nil || !strings.Contains(err.Error(), "nothing was recorded") {
				t.Fatalf("cut at %d: %v", size, err)
			}
		} else if err != nil || len(numbers)%10 != 0 || !consecutive(numbers) || r.Ended() {
			t.Fatalf("cut at %d of %d: %d entries, ended %v: %v", size, len(whole), len(numbers), r.Ended(), err)
		}
		full = max(full, len(numbers))
		if size%7 != 0 {
			continue
		}
		w, _, err := Create(path, &Manifest{Build: "second"})
		if err != nil {
			t.Fatalf("cut at %d: %v", size, err)
		}
		if err := errors.Join(w.Add(batchWire(t, "a", 900, 10)), w.Close()); err != nil {
			t.Fatal(err)
		}
		more, r, err := readAll(t, path, false)
		if err != nil || len(more) != len(numbers)+10 || more[len(more)-1] != 909 || !r.Ended() || len(r.Gaps()) != 0 {
			t.Fatalf("cut at %d and continued: %d entries after %d, gaps %v: %v", size, len(more), len(numbers), r.Gaps(), err)
		}
	}
	if full != 30 {
		t.Errorf("at most %d entries were read", full)
	}
}

// TestFlippedBits: a changed bit is an error that says where; with repair, what is lost is a named gap, and nothing is read
// that was not written.
func TestFlippedBits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.troupe")
	record(t, path, 4)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	gaps := 0
	for at := range whole {
		bad := append([]byte(nil), whole...)
		bad[at] ^= 1 << (at % 8)
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		numbers, r, err := readAll(t, path, false)
		if err == nil && len(r.Damage()) == 0 {
			t.Fatalf("bit %d of byte %d of %d: nothing noticed", at%8, at, len(whole))
		}
		if !consecutive(numbers) {
			t.Fatalf("byte %d: entries %v before the damage", at, numbers)
		}
		numbers, r, err = readAll(t, path, true)
		if at < headerBytes {
			if err == nil {
				t.Fatalf("byte %d: another format is read", at)
			}
			continue
		}
		if r == nil {
			continue // the only manifest
		}
		if err != nil || len(numbers) < 30 || len(r.Damage()) == 0 {
			t.Fatalf("byte %d, repaired: %d entries, damage %v: %v", at, len(numbers), r.Damage(), err)
		}
		if len(numbers) < 40 && numbers[len(numbers)-1] == 40 {
			if len(r.Gaps()) != 1 && numbers[0] == 1 {
				t.Fatalf("byte %d: %d of 40 entries, but gaps %v", at, len(numbers), r.Gaps())
			}
			gaps++
		}
	}
	if gaps == 0 {
		t.Error("no gap was ever seen")
	}
}

func TestRefuses(t *testing.T) {
	dir := t.TempDir()
	future := header()
	future[len(magic)]++
	good := filepath.Join(dir, "good")
	record(t, good, 1)
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	future = append(future, whole[headerBytes:]...)
	laterBatch := batchWire(t, "a", 1, 1)
	laterBatch[1] = schemas.JournalVersion + 1 // fixarray, then the version
	for name, c := range map[string]struct {
		content []byte
		want    string
	}{
		"empty":         {nil, "not a recording"},
		"something":     {[]byte(`{"some": "json"}`), "not a recording"},
		"future":        {future, "format version 2"},
		"header only":   {header(), "nothing was recorded"},
		"future batch":  {fileOf(t, kindBatches, framed(laterBatch)), "journal version 3"},
		"unknown frame": {fileOf(t, 'z', nil), "kind 'z'"},
		"nonsense":      {fileOf(t, kindBatches, []byte{200, 1, 2, 3}), "longer than its frame"},
		"not msgpack":   {fileOf(t, kindBatches, framed([]byte{0xdd, 0xff, 0xff, 0xff, 0xff})), "not understood"},
	} {
		path := filepath.Join(dir, "bad")
		if err := os.WriteFile(path, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readAll(t, path, false); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want it to say %q", name, err, c.want)
		}
	}
	if _, _, err := Create(dir, &Manifest{}); err == nil {
		t.Error("a directory is recorded into")
	}
	if err := os.WriteFile(filepath.Join(dir, "text"), []byte("my only copy"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Create(filepath.Join(dir, "text"), &Manifest{}); err == nil {
		t.Error("another file is overwritten")
	}
}

func framed(wire []byte) []byte { return append([]byte{byte(len(wire))}, wire...) }

// fileOf is a file with a manifest and one more frame.
func fileOf(t testing.TB, kind byte, payload []byte) []byte {
	t.Helper()
	return appendFrame(appendFrame(header(), kindManifest, []byte(`{}`)), kind, payload)
}

// TestGaps: numbers that are skipped are named, of every node for itself.
func TestGaps(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.troupe")
	w, _, err := Create(path, &Manifest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{batchWire(t, "a", 5, 3), batchWire(t, "b", 1, 1), batchWire(t, "a", 8, 1), batchWire(t, "b", 4, 1), batchWire(t, "a", 9, 1)} {
		if err := w.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	_, r, err := readAll(t, path, false)
	if err != nil || len(r.Gaps()) != 1 || !strings.HasPrefix(r.Gaps()[0].String(), "entries 2 to 3 of b are missing") {
		t.Errorf("gaps %v, %v", r.Gaps(), err)
	}
}

func FuzzReader(f *testing.F) {
	path := filepath.Join(f.TempDir(), "seed")
	record(f, path, 2)
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole, true)
	f.Add(whole[:len(whole)/2], false)
	f.Add(fileOf(f, kindBatches, []byte{200, 1, 2, 3}), true)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, content []byte, repair bool) {
		path := filepath.Join(dir, fmt.Sprint(os.Getpid()))
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		numbers, r, err := readAll(t, path, repair)
		if err == nil && r == nil || len(numbers) > len(content)*200 {
			t.Errorf("%d entries of %d bytes, %v", len(numbers), len(content), err)
		}
	})
}

// TestMalformedEntries: columns that do not fit each other are damage, not something for readers to fall over.
func TestMalformedEntries(t *testing.T) {
	plan := func() *schemas.StepPlan { return (*schemas.StepPlan)(nil).Example() }
	for name, step := range map[string]*schemas.SchedulerStep{
		"plan without slots":  {Event: schemas.EventMore, Execute: func() *schemas.StepPlan { p := plan(); p.Slot = nil; return p }()},
		"blocks not counted":  {Event: schemas.EventMore, Execute: func() *schemas.StepPlan { p := plan(); p.Blocks = nil; return p }()},
		"a negative count":    {Event: schemas.EventMore, Execute: func() *schemas.StepPlan { p := plan(); p.BlockCount[0] = -1; return p }()},
		"grant without cache": {Event: schemas.EventGrant, Grant: &schemas.ReserveReply{Granted: schemas.I32{1}}},
		"rows without tokens": {Event: schemas.EventDone, Done: &schemas.StepResult{Row: schemas.I32{1}}},
		"emit without finish": {Event: schemas.EventDone, Emit: &schemas.Emissions{Seq: schemas.U64{1}}},
		"want without rows":   {Event: schemas.EventTick, Reserve: &schemas.ReserveRequest{WantMax: schemas.I32{1}}},
		"learn too much":      {Event: schemas.EventTick, Reserve: &schemas.ReserveRequest{LearnSeq: schemas.U64{1}, LearnCount: schemas.I32{2}}},
	} {
		path := filepath.Join(t.TempDir(), "r.troupe")
		w, _, err := Create(path, &Manifest{})
		if err != nil {
			t.Fatal(err)
		}
		wire, err := bus.Marshal(&schemas.JournalBatch{Version: 1, Node: "a", Number: 1, Entries: []schemas.JournalEntry{{Actor: "scheduler.replica0", Scheduler: step}}})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Add(wire), w.Close()); err != nil {
			t.Fatal(err)
		}
		if _, _, err := readAll(t, path, false); err == nil || !strings.Contains(err.Error(), "scheduler.replica0") {
			t.Errorf("%s: %v", name, err)
		}
		if numbers, r, err := readAll(t, path, true); err != nil || len(numbers) != 0 || len(r.Damage()) != 1 {
			t.Errorf("%s, repaired: %v, %v", name, numbers, err)
		}
	}
}

// TestOneRecorder: a second one does not write into the same file.
func TestOneRecorder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.troupe")
	w, _, err := Create(path, &Manifest{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, _, err := Create(path, &Manifest{}); err == nil || !strings.Contains(err.Error(), "another recorder") {
		t.Error(err)
	}
}

// TestWrongLengthIsNotAnEnd: a frame whose length was changed is damage, and a recording is not continued over it.
func TestWrongLengthIsNotAnEnd(t *testing.T) {
	path := filepath.Join(t.TempDir(), "r.troupe")
	record(t, path, 4)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	second := bytes.Index(whole[headerBytes+1:], []byte(mark)) + headerBytes + 1
	whole[second+len(mark)+1+2] ^= 1 // 64 KiB more
	if err := os.WriteFile(path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := readAll(t, path, false); err == nil {
		t.Error("read as if it ended there")
	}
	if _, _, err := Create(path, &Manifest{}); err == nil {
		t.Error("continued, over what follows")
	}
	if after, err := os.ReadFile(path); err != nil || !bytes.Equal(after, whole) {
		t.Errorf("the file was changed: %d bytes of %d, %v", len(after), len(whole), err)
	}
}
