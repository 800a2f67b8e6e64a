package bus

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/schemas"
)

const (
	// JournalQueueMax bounds the entries that wait to be published. Beyond it entries are dropped, which the gap in
	// their numbers shows; the actors never wait.
	JournalQueueMax = 64 << 10
	// JournalLinger is how long entries wait for others to travel with: a message wakes half a dozen goroutines, and one for
	// each entry would cost more than the actors' own work.
	JournalLinger = 20 * time.Millisecond
	// journalPackEvery is how often entries are encoded meanwhile: all at once would keep a processor from the actors for
	// longer than a step hides.
	journalPackEvery = 5 * time.Millisecond
	// journalBatchMax is how many entries travel together at most, and journalBatchBytes after how many bytes, before they are
	// compressed, a batch is full.
	journalBatchMax   = 256
	journalBatchBytes = 1 << 20
	// journalKeepMax is how many entries a buffer may have had room for to be used again.
	journalKeepMax = 4 << 10
)

// journal publishes what a node's actors were told and decided, while somebody listens. Messages are immutable once sent,
// so encoding waits for a goroutine of its own.
type journal struct {
	node       schemas.NodeID
	subject    string
	conn       *nats.Conn
	interested func(subject string) bool
	log        zerolog.Logger
	start      time.Time

	sent atomic.Int64 // bytes

	// unheard: something happened while nobody listened, so the next entry does not follow the last one.
	unheard atomic.Bool

	mu      sync.Mutex
	waiting []journaled
	spare   []journaled // those before, for reuse
	next    uint64      // number of the next entry
	full    bool        // entries were dropped since the last were taken

	wake    chan struct{}
	stop    chan struct{}
	stopped sync.WaitGroup

	// Owned by the goroutine that publishes.
	packer journalPacker
	first  uint64 // number of the first entry that is packed …
	packed int    // … of so many, which follow each other
	body   []byte // of a delivery
}

// journaled is an entry before it is encoded.
type journaled struct {
	number  uint64
	entry   schemas.JournalEntry
	message any // of a Delivery
}

func newJournal(node schemas.NodeID, conn *nats.Conn, interested func(string) bool, log zerolog.Logger) *journal {
	j := &journal{node: node, subject: schemas.JournalPrefix + string(node), conn: conn, interested: interested, log: log,
		start: time.Now(), next: 1, wake: make(chan struct{}, 1), stop: make(chan struct{})}
	j.stopped.Add(1)
	go j.publish()
	return j
}

// Journaling says whether somebody listens to the node's journal. Ask for every event: only then are entries worth making,
// and what happens meanwhile is missed.
func (n *Node) Journaling() bool { return n.journal.heard() }

// Journal adds an entry and sets its clocks. Like every message, what it points to does not change afterwards.
func (n *Node) Journal(e schemas.JournalEntry) { n.journal.add(journaled{entry: e}) }

// JournalBytes counts what was published of the node's journal, compressed.
func (n *Node) JournalBytes() int64 { return n.journal.sent.Load() }

func (j *journal) heard() bool {
	if j.interested(j.subject) {
		return true
	}
	if !j.unheard.Load() {
		j.unheard.Store(true)
	}
	return false
}

func (j *journal) add(x journaled) {
	now := time.Now()
	x.entry.UnixNs, x.entry.MonoNs = now.UnixNano(), now.Sub(j.start).Nanoseconds()
	j.mu.Lock()
	if j.unheard.Load() && j.unheard.Swap(false) && j.next > 1 {
		j.next++
	}
	x.number = j.next
	j.next++
	warn := false
	if len(j.waiting) < JournalQueueMax {
		j.waiting = append(j.waiting, x)
	} else {
		warn, j.full = !j.full, true
	}
	j.mu.Unlock()
	if warn {
		j.log.Warn().Int("queue_max", JournalQueueMax).Msg("the journal falls behind: entries are dropped (their numbers are skipped)")
	}
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// deliver adds what an actor got, or its reply.
func (j *journal) deliver(to *Actor, subject string, message any) {
	if j.heard() {
		j.add(journaled{entry: schemas.JournalEntry{Actor: to.Name(), Delivery: &schemas.Delivery{Subject: subject}}, message: message})
	}
}

func (j *journal) publish() {
	defer j.stopped.Done()
	var due <-chan time.Time // when what is packed is published
	for stopping := false; !stopping; {
		select {
		case <-j.wake:
			select {
			case <-time.After(journalPackEvery):
			case <-j.stop:
				stopping = true
			}
			j.packAll()
			if due == nil {
				due = time.After(JournalLinger - journalPackEvery)
			}
		case <-due:
			j.send()
			due = nil
		case <-j.stop:
			stopping = true
			j.packAll()
		}
	}
	j.send()
	_ = j.conn.FlushTimeout(drainTimeout)
}

// packAll encodes the entries that wait, and publishes batches that are full or end at a gap.
func (j *journal) packAll() {
	j.mu.Lock()
	entries := j.waiting
	j.waiting, j.full = j.spare[:0], false
	j.spare = nil
	j.mu.Unlock()
	for i := range entries {
		x := &entries[i]
		if x.number != j.first+uint64(j.packed) || j.packed == journalBatchMax || j.packer.bytes() >= journalBatchBytes {
			j.send()
		}
		if err := j.pack(x); err != nil { // its number is skipped
			j.log.Error().Err(err).Str("actor", x.entry.Actor).Msg("cannot journal an entry")
			continue
		}
		if j.packed++; j.packed == 1 {
			j.first = x.number
		}
	}
	clear(entries)
	if cap(entries) <= journalKeepMax {
		j.mu.Lock()
		j.spare = entries
		j.mu.Unlock()
	}
}

// pack adds an entry to the batch.
func (j *journal) pack(x *journaled) (err error) {
	if x.message != nil {
		if j.body, err = schemas.Append(j.body[:0], x.message); err != nil {
			return err
		}
		x.entry.Delivery.Message = j.body
	}
	return j.packer.add(&x.entry)
}

// send publishes what is packed.
func (j *journal) send() {
	if j.packed == 0 {
		return
	}
	head := schemas.JournalBatch{Version: schemas.JournalVersion, Node: j.node, Build: BuildVersion, Number: j.first, Started: j.start.UnixNano()}
	err := j.packer.send(head, j.packed, j.conn.MaxPayload(), func(wire []byte) error {
		j.sent.Add(int64(len(wire)))
		return j.conn.Publish(j.subject, wire)
	})
	if err != nil {
		j.log.Warn().Err(err).Uint64("number", j.first).Int("entries", j.packed).Msg("journal entries are lost")
	}
	j.packed = 0
}

func (j *journal) close() {
	close(j.stop)
	j.stopped.Wait()
}
