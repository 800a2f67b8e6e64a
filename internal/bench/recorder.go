package bench

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/recording"
)

// recorder writes the journals of a node to a file, connected over TCP like one on another machine.
type recorder struct {
	conn *nats.Conn
	dir  string
	rec  *recording.Recorder
}

func openRecorder(ctx context.Context, node *bus.Node) (*recorder, error) {
	dir, err := os.MkdirTemp("", "troupe-bench")
	if err != nil {
		return nil, fmt.Errorf("bench: recorder: %w", err)
	}
	r := &recorder{dir: dir}
	if r.conn, err = nats.Connect(node.URL(), nats.Name("bench/recorder")); err == nil {
		r.rec, _, err = recording.Start(ctx, r.conn, filepath.Join(dir, "bench.troupe"), recording.Options{Source: "bench"})
	}
	if err != nil {
		r.discard()
		return nil, fmt.Errorf("bench: recorder: %w", err)
	}
	return r, nil
}

// finish counts the entries that were recorded, and those that were not.
func (r *recorder) finish() (got, missing uint64, err error) {
	err = r.rec.Close()
	s := r.rec.Stats()
	return s.Entries, s.Lost, err
}

// discard removes the recording.
func (r *recorder) discard() {
	if r.conn != nil {
		r.conn.Close()
	}
	_ = os.RemoveAll(r.dir)
}
