package bus

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/schemas"
)

// journalBatches collects a node's journal.
type journalBatches struct {
	mu   sync.Mutex
	list []schemas.JournalBatch
	sub  *nats.Subscription
}

func hearJournal(t *testing.T, n *Node) *journalBatches {
	t.Helper()
	conn, err := n.Connection("listener")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	b := &journalBatches{}
	var decoder JournalDecoder
	b.sub, err = conn.Subscribe(schemas.JournalPrefix+">", func(m *nats.Msg) {
		batch, err := decoder.Decode(bytes.Clone(m.Data))
		if err != nil {
			t.Error(err)
		}
		if batch == nil {
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.list = append(b.list, *batch)
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	return b
}

// wait returns the numbers of n entries, once they have come.
func (b *journalBatches) wait(t *testing.T, n int) (numbers []uint64) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		numbers = nil
		b.mu.Lock()
		for _, batch := range b.list {
			for i := range batch.Entries {
				numbers = append(numbers, batch.Number+uint64(i))
			}
		}
		b.mu.Unlock()
		if len(numbers) >= n {
			return numbers
		}
	}
	t.Fatalf("%d entries came, not %d", len(numbers), n)
	return nil
}

func journalEvents(n *Node, events int) {
	for range events {
		if n.Journaling() {
			n.Journal(schemas.JournalEntry{Actor: "test", Answer: &schemas.ClientAnswer{}})
		}
	}
}

// TestJournalNumbers: entries are numbered without a gap, in batches, and what nobody heard leaves one.
func TestJournalNumbers(t *testing.T) {
	n := startNode(t, Options{})
	journalEvents(n, 7)
	first := hearJournal(t, n)
	journalEvents(n, 1000)
	numbers := first.wait(t, 1000)
	for i, number := range numbers {
		if number != uint64(i+1) {
			t.Fatalf("entry %d has number %d", i, number)
		}
	}
	first.mu.Lock()
	if len(first.list) > 500 {
		t.Errorf("%d batches for 1000 entries", len(first.list))
	}
	for _, b := range first.list {
		if b.Started == 0 || b.Node != n.ID() {
			t.Errorf("batch %+v", b)
		}
	}
	first.mu.Unlock()
	if err := first.sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	for n.Journaling() {
		time.Sleep(time.Millisecond)
	}
	journalEvents(n, 100)
	second := hearJournal(t, n)
	journalEvents(n, 3)
	if numbers := second.wait(t, 3); numbers[0] <= 1001 || numbers[2] != numbers[0]+2 {
		t.Errorf("after a while without a listener the numbers are %v: the gap cannot be seen", numbers)
	}
}

// TestJournalFallsBehind: what is too much is dropped, and its numbers are skipped.
func TestJournalFallsBehind(t *testing.T) {
	n := startNode(t, Options{})
	l := hearJournal(t, n)
	n.journal.mu.Lock()
	n.journal.waiting = make([]journaled, JournalQueueMax-2)
	for i := range n.journal.waiting {
		n.journal.waiting[i].number = uint64(i + 1)
	}
	n.journal.next = JournalQueueMax - 1
	n.journal.mu.Unlock()
	journalEvents(n, 10)
	l.wait(t, JournalQueueMax)
	journalEvents(n, 1)
	numbers := l.wait(t, JournalQueueMax+1)
	if last := numbers[len(numbers)-1]; last <= JournalQueueMax+1 {
		t.Errorf("the entry after the dropped ones has number %d", last)
	}
}
