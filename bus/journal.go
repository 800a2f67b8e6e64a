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
	// JournalLinger is how long entries wait for others to travel with: a message for each would cost more than the
	// actors' own work.
	JournalLinger = 5 * time.Millisecond
	// journalBatchMax is how many entries travel together at most.
	journalBatchMax = 256
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

	// unheard: something happened while nobody listened, so the next entry does not follow the last one.
	unheard atomic.Bool

	mu      sync.Mutex
	waiting []journaled
	next    uint64 // number of the next entry
	full    bool   // entries were dropped since the last were taken

	wake    chan struct{}
	stop    chan struct{}
	stopped sync.WaitGroup
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
	for stopping := false; !stopping; {
		select {
		case <-j.wake:
		case <-j.stop:
			stopping = true
		}
		if !stopping {
			select {
			case <-time.After(JournalLinger):
			case <-j.stop:
				stopping = true
			}
		}
		j.mu.Lock()
		entries := j.waiting
		j.waiting, j.full = nil, false
		j.mu.Unlock()
		j.send(entries)
	}
	_ = j.conn.FlushTimeout(drainTimeout)
}

// send publishes entries: those that follow each other in batches.
func (j *journal) send(entries []journaled) {
	for i := range entries {
		if x := &entries[i]; x.message != nil {
			body, err := msgpackEncoding.encode(x.message)
			if err != nil {
				j.log.Error().Err(err).Str("subject", x.entry.Delivery.Subject).Msg("cannot journal a delivery")
			}
			x.entry.Delivery.Message = body
		}
	}
	for len(entries) > 0 {
		n := 1
		for n < min(len(entries), journalBatchMax) && entries[n].number == entries[n-1].number+1 {
			n++
		}
		j.sendBatch(entries[:n])
		entries = entries[n:]
	}
}

func (j *journal) sendBatch(entries []journaled) {
	batch := schemas.JournalBatch{Version: schemas.JournalVersion, Node: j.node, Build: BuildVersion, Number: entries[0].number,
		Entries: make([]schemas.JournalEntry, len(entries)), Started: j.start.UnixNano()}
	for i := range entries {
		batch.Entries[i] = entries[i].entry
	}
	body, err := msgpackEncoding.encode(&batch)
	if err == nil && int64(len(body)) > j.conn.MaxPayload() {
		if half := len(entries) / 2; half > 0 {
			j.sendBatch(entries[:half])
			j.sendBatch(entries[half:])
			return
		}
		err = tooLarge("journal entry", len(body), j.conn.MaxPayload())
	}
	if err == nil {
		err = j.conn.Publish(j.subject, body)
	}
	if err != nil {
		j.log.Warn().Err(err).Uint64("number", entries[0].number).Int("entries", len(entries)).Msg("journal entries are lost")
	}
}

func (j *journal) close() {
	close(j.stop)
	j.stopped.Wait()
}
