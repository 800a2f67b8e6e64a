package bus

import "sync"

// Outbox sends rows to one receiver in batches, one batch at a time: what is put while a batch is under
// way goes into the next. A slow receiver thus gets fewer, larger batches, and the putter never waits.
type Outbox[Row any] struct {
	rowsMax int
	send    func([]Row)

	mu     sync.Mutex
	rows   []Row
	spare  []Row // the batch before, for reuse
	busy   bool  // a batch is under way
	wake   chan struct{}
	closed bool
	done   chan struct{}
}

// NewOutbox starts the sender. send gets the rows in order and must not keep the slice. At most rowsMax
// rows wait.
func NewOutbox[Row any](rowsMax int, send func([]Row)) *Outbox[Row] {
	o := &Outbox[Row]{rowsMax: rowsMax, send: send, wake: make(chan struct{}, 1), done: make(chan struct{})}
	go o.serve()
	return o
}

// Put queues rows, all or none; false means that the outbox is full or closed.
func (o *Outbox[Row]) Put(rows ...Row) bool {
	o.mu.Lock()
	if o.closed || len(o.rows)+len(rows) > o.rowsMax {
		o.mu.Unlock()
		return false
	}
	o.rows = append(o.rows, rows...)
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
	return true
}

func (o *Outbox[Row]) serve() {
	defer close(o.done)
	for range o.wake {
		for {
			o.mu.Lock()
			batch := o.rows
			closed := o.closed
			o.busy = len(batch) > 0
			o.rows, o.spare = o.spare[:0], nil
			o.mu.Unlock()
			if len(batch) > 0 {
				o.send(batch)
				clear(batch)
				o.mu.Lock()
				o.spare = batch
				o.mu.Unlock()
				continue
			}
			if closed {
				return
			}
			break
		}
	}
}

// idle reports whether there is nothing to send.
func (o *Outbox[Row]) idle() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return !o.busy && len(o.rows) == 0
}

// Close sends what is queued and stops the sender.
func (o *Outbox[Row]) Close() {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		<-o.done
		return
	}
	o.closed = true
	o.mu.Unlock()
	select {
	case o.wake <- struct{}{}:
	default:
	}
	<-o.done
}
