package recording

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// StreamLimits bound a stream; 0 is no bound. The oldest batches go first.
type StreamLimits struct {
	Bytes int64
	Age   time.Duration
}

const exportIdleMax = 10 * time.Second // for the next batch of a stream that has more

// RecordStream makes the JetStream stream of the name take the journals of all nodes from now on, on the server's disk, whoever
// comes or goes. Batches are not acknowledged: an engine never waits for a disk, and a gap is seen by its numbers.
func RecordStream(ctx context.Context, conn *nats.Conn, name string, limits StreamLimits, warn func(error)) error {
	js, err := jetstream.New(conn)
	if err != nil {
		return fmt.Errorf("recording: %w", err)
	}
	_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{Name: name, Description: streamDescription, Subjects: []string{schemas.JournalPrefix + ">"},
		Storage: jetstream.FileStorage, NoAck: true, MaxBytes: limits.Bytes, MaxAge: limits.Age, Discard: jetstream.DiscardOld})
	if err != nil {
		return streamError(name, err)
	}
	r := &Recorder{conn: conn, opts: Options{Warn: warn}}
	r.checkpoint(ctx, checkpointsFor(limits))
	return nil
}

const streamDescription = "journals of troupe's actors"

// checkpointsFor asks for as many checkpoints that what the limits leave always has one from which it can be run.
func checkpointsFor(limits StreamLimits) *schemas.CheckpointRequest {
	return &schemas.CheckpointRequest{EveryMs: (limits.Age / 2).Milliseconds(), EveryBytes: max(limits.Bytes, 0) / 4}
}

// ResumeStreams asks schedulers that started again for the checkpoints that streams with limits need. Without JetStream
// there is nothing to do.
func ResumeStreams(ctx context.Context, conn *nats.Conn, warn func(error)) {
	js, err := jetstream.New(conn)
	if err != nil {
		return
	}
	list := js.ListStreams(ctx, jetstream.WithStreamListSubject(schemas.JournalPrefix+">"))
	for info := range list.Info() {
		limits := StreamLimits{Bytes: info.Config.MaxBytes, Age: info.Config.MaxAge}
		if info.Config.Description == streamDescription && (limits.Bytes > 0 || limits.Age > 0) {
			r := &Recorder{conn: conn, opts: Options{Warn: warn}}
			r.checkpoint(ctx, checkpointsFor(limits))
		}
	}
}

// Export writes what a stream holds to a recording, which it begins or continues, and counts the entries.
func Export(ctx context.Context, conn *nats.Conn, name, path string, warn func(error), progress func(done, total uint64)) (entries uint64, err error) {
	js, err := jetstream.New(conn)
	if err != nil {
		return 0, fmt.Errorf("recording: %w", err)
	}
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return 0, streamError(name, err)
	}
	info, err := stream.Info(ctx)
	if err != nil {
		return 0, streamError(name, err)
	}
	if info.State.Msgs == 0 {
		return 0, schemas.Errorf(schemas.KindNotFound, "recording", "stream %.60q holds nothing", name)
	}
	sources, err := findSchedulers(ctx, conn, warn)
	if err != nil {
		return 0, err
	}
	consumer, err := stream.OrderedConsumer(ctx, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverAllPolicy})
	if err != nil {
		return 0, streamError(name, err)
	}
	w, _, err := Create(path, &Manifest{Created: time.Now().UTC(), Build: bus.BuildVersion, Source: "stream " + name, Schedulers: sources})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	for last := info.State.LastSeq; ; {
		if err := ctx.Err(); err != nil {
			return entries, err
		}
		m, err := consumer.Next(jetstream.FetchMaxWait(exportIdleMax))
		if err != nil {
			return entries, streamError(name, err)
		}
		meta, err := m.Metadata()
		if err != nil {
			return entries, streamError(name, err)
		}
		if h, err := headOf(m.Data()); err == nil {
			entries += uint64(h.entries)
			if err := w.Add(m.Data()); err != nil {
				return entries, err
			}
		}
		if progress != nil {
			progress(meta.Sequence.Stream-info.State.FirstSeq+1, last-info.State.FirstSeq+1)
		}
		if meta.Sequence.Stream >= last {
			return entries, nil
		}
	}
}

// RemoveStream deletes a stream with what it holds.
func RemoveStream(ctx context.Context, conn *nats.Conn, name string) error {
	js, err := jetstream.New(conn)
	if err == nil {
		err = js.DeleteStream(ctx, name)
	}
	if err != nil {
		return streamError(name, err)
	}
	return nil
}

func streamError(name string, err error) error {
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) || errors.Is(err, nats.ErrNoResponders) {
		return schemas.Errorf(schemas.KindUnavailable, "recording", "the NATS server has no JetStream").
			WithHint("start the engine with --store DIR, or record to a file with --to")
	}
	return fmt.Errorf("recording: stream %.60q: %w", name, err)
}
