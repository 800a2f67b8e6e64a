package bus

import (
	"bytes"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

func packedBatch(t testing.TB, number uint64, payloadMax int64, bodies ...string) (parts [][]byte) {
	t.Helper()
	var p journalPacker
	for _, body := range bodies {
		if err := p.add(&schemas.JournalEntry{Actor: "gateway.a", Request: &schemas.ClientRequest{Body: body}}); err != nil {
			t.Fatal(err)
		}
	}
	err := p.send(schemas.JournalBatch{Version: schemas.JournalVersion, Node: "a", Number: number}, len(bodies), payloadMax, func(wire []byte) error {
		parts = append(parts, bytes.Clone(wire))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return parts
}

// incompressible is text that S2 leaves as long as it is.
func incompressible(n int) string {
	b := make([]byte, n)
	x := uint64(1)
	for i := range b {
		x = x*6364136223846793005 + 1442695040888963407
		b[i] = ' ' + byte(x>>33)%95
	}
	return string(b)
}

// TestJournalInParts: what is larger than a message travels in parts, each of which fits, and comes out whole; a batch that
// lacks a part is left out, whichever it is.
func TestJournalInParts(t *testing.T) {
	long := incompressible(100_000)
	const payloadMax = 16 << 10
	parts := packedBatch(t, 7, payloadMax, "short", long)
	if len(parts) < 7 {
		t.Fatalf("%d parts", len(parts))
	}
	for lost := -1; lost < len(parts); lost++ {
		var d JournalDecoder
		var got *schemas.JournalBatch
		for i, wire := range parts {
			if len(wire) > payloadMax {
				t.Fatalf("part %d has %d bytes", i, len(wire))
			}
			if i == lost {
				continue
			}
			b, err := d.Decode(wire)
			if err != nil {
				t.Fatal(err)
			}
			if b != nil {
				got = b
			}
		}
		if lost < 0 {
			if got == nil || got.Number != 7 || len(got.Entries) != 2 || got.Entries[1].Request.Body != long {
				t.Fatal("the parts do not make the batch")
			}
		} else if got != nil {
			t.Fatalf("without part %d there is a batch of %d entries", lost, len(got.Entries))
		}
		next, err := d.Decode(packedBatch(t, 9, payloadMax, "next")[0])
		if err != nil || next == nil || next.Number != 9 || len(next.Entries) != 1 {
			t.Fatalf("the batch after it: %+v, %v", next, err)
		}
	}
}

// TestPackJournal: a batch packed again says the same, and an empty one stays empty.
func TestPackJournal(t *testing.T) {
	for _, bodies := range [][]string{nil, {"a"}, {"a", "b"}} {
		b := schemas.JournalBatch{Version: schemas.JournalVersion, Node: "a", Number: 3, Left: 2}
		for _, body := range bodies {
			b.Entries = append(b.Entries, schemas.JournalEntry{Actor: "x", Request: &schemas.ClientRequest{Body: body}})
		}
		wire, err := PackJournal(&b)
		if err != nil {
			t.Fatal(err)
		}
		got, err := new(JournalDecoder).Decode(wire)
		if err != nil || got.Number != 3 || got.Left != 2 || len(got.Entries) != len(bodies) {
			t.Fatalf("%+v, %v", got, err)
		}
		for i, body := range bodies {
			if got.Entries[i].Request.Body != body {
				t.Errorf("entry %d is %+v", i, got.Entries[i])
			}
		}
	}
}

func TestJournalDecoderRefuses(t *testing.T) {
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0} // an S2 block that says it has 4 GiB
	for name, c := range map[string]struct {
		batch schemas.JournalBatch
		want  string
	}{
		"a future version": {schemas.JournalBatch{Version: schemas.JournalVersion + 1, Node: "a", Number: 1}, "journal version"},
		"no node":          {schemas.JournalBatch{Number: 1}, "without node"},
		"a huge block":     {schemas.JournalBatch{Node: "a", Number: 1, Count: 1, Packed: huge}, "at most"},
		"a wrong count":    {schemas.JournalBatch{Node: "a", Number: 1, Count: 2, Packed: packed(t)}, "where the batch says 2"},
		"both":             {schemas.JournalBatch{Node: "a", Number: 1, Count: 1, Packed: packed(t), Entries: make([]schemas.JournalEntry, 1)}, "both"},
	} {
		wire, err := Marshal(&c.batch)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := new(JournalDecoder).Decode(wire); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want it to say %q", name, err, c.want)
		}
	}
}

// packed is the packed form of one entry.
func packed(t testing.TB) schemas.U8 {
	t.Helper()
	var b schemas.JournalBatch
	if err := Unmarshal(packedBatch(t, 1, 1<<20, "x")[0], &b); err != nil {
		t.Fatal(err)
	}
	return b.Packed
}

func FuzzJournalDecoder(f *testing.F) {
	parts := packedBatch(f, 1, 8<<10, "short", incompressible(10_000))
	f.Add(parts[0], parts[1])
	f.Add(packedBatch(f, 1, 1<<20, "x")[0], []byte{0x90})
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var d JournalDecoder
		for _, wire := range [][]byte{first, second} {
			if b, err := d.Decode(wire); err == nil && b != nil && (b.Node == "" || b.Number == 0 || len(b.Packed) > 0 && len(b.Entries) > 0) {
				t.Errorf("%+v", b)
			}
		}
	})
}
