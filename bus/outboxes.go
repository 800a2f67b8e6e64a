package bus

import (
	"sync"

	"github.com/troupe-engine/troupe/schemas"
)

// OutboxesMax bounds the receivers that one actor has outboxes for at a time.
const OutboxesMax = 256

// Outboxes are one actor's outboxes, one per receiver, made as receivers are named. Names come in messages:
// at most OutboxesMax are kept, and those that are idle give way to new ones. It is safe for concurrent use: an
// actor that stops does not wait for ever for the handler that puts.
type Outboxes[Row any] struct {
	rowsMax int
	open    func(to schemas.Instance) (send func([]Row))

	mu     sync.Mutex
	list   map[schemas.Instance]*Outbox[Row]
	closed bool
}

// NewOutboxes makes none yet. open returns what sends batches to a receiver; at most rowsMax rows wait for each.
func NewOutboxes[Row any](rowsMax int, open func(to schemas.Instance) (send func([]Row))) *Outboxes[Row] {
	return &Outboxes[Row]{rowsMax: rowsMax, open: open, list: map[schemas.Instance]*Outbox[Row]{}}
}

// Put queues a row for a receiver; false means that its outbox is full, that OutboxesMax others are busy, or
// that all are closed.
func (o *Outboxes[Row]) Put(to schemas.Instance, row Row) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false
	}
	box := o.list[to]
	if box == nil {
		if len(o.list) >= OutboxesMax && !o.evict() {
			return false
		}
		box = NewOutbox(o.rowsMax, o.open(to))
		o.list[to] = box
	}
	return box.Put(row)
}

// evict closes the outboxes that have nothing to send.
func (o *Outboxes[Row]) evict() (some bool) {
	for to, box := range o.list {
		if box.idle() {
			box.Close()
			delete(o.list, to)
			some = true
		}
	}
	return some
}

// Close sends what is queued and stops the senders.
func (o *Outboxes[Row]) Close() {
	o.mu.Lock()
	o.closed = true // from here on the list stays as it is
	o.mu.Unlock()
	for _, box := range o.list {
		box.Close()
	}
}
