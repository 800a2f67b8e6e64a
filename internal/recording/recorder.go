package recording

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	findTime   = 300 * time.Millisecond // for actors on all nodes to say that they are there
	askTimeMax = 5 * time.Second
	// The weights' digest takes a second per gigabyte when it is computed.
	digestTimeMax = 30 * time.Second
	digestPause   = 20 * time.Millisecond
	pendingBytes  = 512 << 20 // of batches that the disk has yet to take
	// Between checkpoints that gaps make necessary; each costs the prefix cache, so the pause doubles.
	checkpointRest    = 5 * time.Second
	checkpointRestMax = 5 * time.Minute
)

// Options say what of the journals is recorded.
type Options struct {
	Source string // the bus, for the manifest
	Filter Filter
	Redact bool // no texts, token ids permuted
	// Warn hears of gaps and of schedulers that give no checkpoint; nil is nobody.
	Warn func(error)
}

// Recorder writes the journals of all nodes that a connection reaches.
type Recorder struct {
	conn *nats.Conn
	opts Options
	w    *Writer
	sub  *nats.Subscription
	edit *editor // nil: batches are written as they come

	mu     sync.Mutex
	next   map[schemas.NodeID]follower
	stats  Stats
	failed error
	asked  time.Time     // for checkpoints
	rest   time.Duration // until the next time
	closed bool

	busy sync.WaitGroup
	stop context.CancelFunc
}

// Stats count what a Recorder did.
type Stats struct {
	Batches uint64 `json:"batches"`
	Entries uint64 `json:"entries"` // that came
	Lost    uint64 `json:"lost"`    // that did not
	Gaps    uint64 `json:"gaps"`
	Bytes   int64  `json:"bytes"` // in the file
}

// Start begins to record at path, or continues the recording that is there; lost counts the bytes that a killed recorder
// left of its last frame. Every scheduler begins a new epoch, from which it can be run again.
func Start(ctx context.Context, conn *nats.Conn, path string, opts Options) (r *Recorder, lost int64, err error) {
	if opts.Warn == nil {
		opts.Warn = func(error) {}
	}
	sources, err := findSchedulers(ctx, conn, opts.Warn)
	if err != nil {
		return nil, 0, err
	}
	r = &Recorder{conn: conn, opts: opts, next: map[schemas.NodeID]follower{}, rest: checkpointRest}
	if opts.Redact || opts.Filter.Active() {
		r.edit = newEditor(opts, sources)
	}
	r.w, lost, err = Create(path, &Manifest{Created: time.Now().UTC(), Build: bus.BuildVersion, Source: opts.Source, Filter: opts.Filter.String(),
		Partial: opts.Filter.Active(), Redacted: opts.Redact, Schedulers: sources})
	if err != nil {
		return nil, 0, err
	}
	background, stop := context.WithCancel(context.Background())
	r.stop = stop
	if r.sub, err = conn.Subscribe(schemas.JournalPrefix+">", func(m *nats.Msg) { r.take(background, m.Data) }); err == nil {
		err = errors.Join(r.sub.SetPendingLimits(-1, pendingBytes), conn.FlushTimeout(askTimeMax))
	}
	if err != nil {
		stop()
		return nil, 0, errors.Join(fmt.Errorf("recording: subscribe: %w", err), r.w.Close())
	}
	r.checkpoint(ctx, &schemas.CheckpointRequest{})
	return r, lost, nil
}

// take writes a batch.
func (r *Recorder) take(ctx context.Context, wire []byte) {
	for _, err := range r.write(ctx, wire) {
		r.opts.Warn(fmt.Errorf("recording: %w", err))
	}
}

// write adds a batch to the file and says what is wrong, for who is to be warned.
func (r *Recorder) write(ctx context.Context, wire []byte) (wrong []error) {
	head, err := headOf(wire)
	if err != nil {
		return []error{fmt.Errorf("a batch is not understood: %w", err)}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	next := r.next[head.node]
	lost := next.take(head)
	r.next[head.node] = next
	r.stats.Batches++
	r.stats.Entries += uint64(head.entries)
	if lost > 0 {
		r.stats.Gaps++
		r.stats.Lost += lost
		wrong = append(wrong, errors.New(Gap{head.node, head.number - lost, head.number - 1, "the journal or this recorder fell behind, or was cut off from the other"}.String()))
		if time.Since(r.asked) > r.rest { // from there on, the recording is whole again
			r.asked, r.rest = time.Now(), min(2*r.rest, checkpointRestMax)
			r.busy.Go(func() { r.checkpoint(ctx, &schemas.CheckpointRequest{}) })
		}
	}
	batches := [][]byte{wire}
	if r.edit != nil {
		if batches, err = r.edit.batch(wire); err != nil {
			return append(wrong, fmt.Errorf("a batch is not understood: %w", err))
		}
	}
	for _, b := range batches {
		if err := r.w.Add(b); err != nil && r.failed == nil {
			r.failed = err // which Err tells
		}
	}
	return wrong
}

// batchHead is the beginning of a batch.
type batchHead struct {
	node        schemas.NodeID
	number      uint64 // of the first entry
	entries     int    // 0 in all parts but the last
	started     int64  // of the node; 0 if the batch is of version 1
	part, parts int32
}

// headOf reads the beginning of a batch, and nothing of its entries.
func headOf(wire []byte) (h batchHead, err error) {
	d := msgpack.NewDecoder(bytes.NewReader(wire))
	fields, err := d.DecodeArrayLen()
	if err == nil && fields < 5 {
		err = fmt.Errorf("%d fields", fields)
	}
	read := func(f func() error) {
		if err == nil {
			err = f()
		}
	}
	read(func() error { _, err := d.DecodeInt(); return err })
	read(func() error { s, err := d.DecodeString(); h.node = schemas.NodeID(s); return err })
	read(func() error { _, err := d.DecodeString(); return err })
	read(func() (err error) { h.number, err = d.DecodeUint64(); return err })
	read(func() (err error) { h.entries, err = d.DecodeArrayLen(); return err })
	if h.entries = max(h.entries, 0); h.entries == 0 && fields > 9 { // packed
		read(func() (err error) { h.started, err = d.DecodeInt64(); return err })
		read(func() (err error) { h.entries, err = d.DecodeInt(); return err })
		read(d.Skip) // the entries themselves
		read(func() (err error) { h.part, err = d.DecodeInt32(); return err })
		read(func() (err error) { h.parts, err = d.DecodeInt32(); return err })
	}
	if err == nil && (h.node == "" || h.number == 0 || h.entries < 0) {
		err = errors.New("no node, number or entries")
	}
	return h, err
}

// checkpoint asks every scheduler for a place from which a replay can start.
func (r *Recorder) checkpoint(ctx context.Context, req *schemas.CheckpointRequest) {
	instances, err := instancesOf(ctx, r.conn, "scheduler")
	if err != nil {
		r.opts.Warn(err)
	}
	for _, instance := range instances {
		if _, err := ask(ctx, r.conn, schemas.Checkpoint, instance, req); err != nil && ctx.Err() == nil {
			r.opts.Warn(fmt.Errorf("recording: scheduler.%s gives no checkpoint: it cannot be run from this recording: %w", instance, err))
		}
	}
}

// Stats are the counts so far.
func (r *Recorder) Stats() Stats {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stats
	s.Bytes = r.w.Bytes()
	return s
}

// Err is why nothing is written any more, or nil.
func (r *Recorder) Err() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failed
}

// Close takes what is on its way, ends the recording and closes the file. The connection stays.
func (r *Recorder) Close() error {
	// Nodes hold entries back for a moment, so that they travel together.
	time.Sleep(4 * bus.JournalLinger)
	err := r.conn.FlushTimeout(askTimeMax)
	for deadline := time.Now().Add(askTimeMax); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if n, _, e := r.sub.Pending(); e != nil || n == 0 {
			break
		}
	}
	_ = r.sub.Unsubscribe() // an error means that the connection is gone, and the subscription with it
	r.mu.Lock()
	r.closed = true // a batch may be on its way from the subscription still
	r.mu.Unlock()
	r.stop()
	r.busy.Wait()
	return errors.Join(err, r.w.Close())
}

// findSchedulers describes the replicas that the connection reaches.
func findSchedulers(ctx context.Context, conn *nats.Conn, warn func(error)) ([]SchedulerSource, error) {
	instances, err := instancesOf(ctx, conn, "scheduler")
	if err != nil {
		return nil, err
	}
	var sources []SchedulerSource
	for _, instance := range instances {
		info, err := ask(ctx, conn, schemas.Engine, instance, &schemas.InfoRequest{})
		if err != nil {
			warn(fmt.Errorf("recording: scheduler.%s does not answer: the recording will not say how it is configured: %w", instance, err))
			continue
		}
		s := SchedulerSource{Info: *info}
		if s.Memory, err = ask(ctx, conn, schemas.MemoryInfo, instance, &schemas.InfoRequest{}); err == nil {
			s.Memory.Tables, s.Memory.MoreTables = nil, 0
		}
		s.Compute = askCompute(ctx, conn, instance, warn)
		sources = append(sources, s)
	}
	return sources, nil
}

// askCompute describes what computes for a scheduler, with the weights' digest, which may take a while the first time. It is nil
// if it is elsewhere, or of another kind.
func askCompute(ctx context.Context, conn *nats.Conn, instance schemas.Instance, warn func(error)) *schemas.ComputeState {
	for end := time.Now().Add(digestTimeMax); ; {
		state, err := ask(ctx, conn, schemas.ComputeInfo, instance, &schemas.InfoRequest{})
		switch {
		case err != nil:
			return nil
		case !state.WeightsPending:
			return state
		case !time.Now().Before(end):
			warn(fmt.Errorf("recording: compute.%s still reads its weights: the recording does not have their digest; one that begins later will", instance))
			return state
		}
		select {
		case <-time.After(digestPause):
		case <-ctx.Done():
			return state
		}
	}
}

// instancesOf lists the actors of a service, sorted.
func instancesOf(ctx context.Context, conn *nats.Conn, service string) ([]schemas.Instance, error) {
	subject, err := micro.ControlSubject(micro.PingVerb, service, "")
	if err != nil {
		return nil, err
	}
	inbox := conn.NewInbox()
	sub, err := conn.SubscribeSync(inbox)
	if err == nil {
		defer func() { _ = sub.Unsubscribe() }()
		err = conn.PublishRequest(subject, inbox, nil)
	}
	if err != nil {
		return nil, fmt.Errorf("recording: look for actors: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, findTime)
	defer cancel()
	var list []schemas.Instance
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil { // no more in time, or nobody at all
			slices.Sort(list)
			return slices.Compact(list), nil
		}
		var ping micro.Ping
		if jsonErr := unmarshalJSON(m.Data, &ping); jsonErr == nil && ping.Metadata["instance"] != "" {
			list = append(list, schemas.Instance(ping.Metadata["instance"]))
		}
	}
}

// ask calls an endpoint from outside the company of actors.
func ask[Req, Resp any](ctx context.Context, conn *nats.Conn, e schemas.Endpoint[Req, Resp], instance schemas.Instance, req *Req) (*Resp, error) {
	body, err := bus.Marshal(req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeMax)
	defer cancel()
	m := nats.NewMsg(e.Subject(instance))
	m.Header.Set("Content-Type", "application/msgpack")
	m.Data = body
	answer, err := conn.RequestMsgWithContext(ctx, m)
	if err != nil {
		return nil, err
	}
	if text := answer.Header.Get(micro.ErrorHeader); text != "" {
		return nil, errors.New(text)
	}
	resp := new(Resp)
	return resp, bus.Unmarshal(answer.Data, resp)
}
