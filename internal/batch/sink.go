package batch

import (
	"os"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// sink appends results to the output.
type sink struct {
	file   *os.File
	name   string
	order  bool
	next   int64              // position to write next, in order
	held   map[int64]*outcome // what waits for its turn
	dirty  bool               // written, but not yet synced
	synced time.Time
}

func newSink(f *os.File, cfg *Config) *sink {
	return &sink{file: f, name: cfg.Output, order: cfg.Ordered, held: map[int64]*outcome{}, synced: time.Now()}
}

// put writes what can be written, and calls written for each.
func (s *sink) put(o *outcome, written func(*outcome)) error {
	if !s.order {
		return s.write(o, written)
	}
	s.held[o.position] = o
	for o := s.held[s.next]; o != nil; o = s.held[s.next] {
		delete(s.held, s.next)
		s.next++
		if err := s.write(o, written); err != nil {
			return err
		}
	}
	return nil
}

// write appends one line in one call, so that a killed process leaves whole lines.
func (s *sink) write(o *outcome, written func(*outcome)) error {
	if _, err := s.file.Write(o.encoded); err != nil {
		return schemas.AsError(err, "write "+s.name).WithHint("the same command goes on once there is room")
	}
	s.dirty = true
	written(o)
	return nil
}

// sync forces the output to the disk, if SyncEvery has passed or now is set.
func (s *sink) sync(now bool) error {
	if !s.dirty || !now && time.Since(s.synced) < SyncEvery {
		return nil
	}
	if err := s.file.Sync(); err != nil {
		return schemas.AsError(err, "sync "+s.name)
	}
	s.dirty, s.synced = false, time.Now()
	return nil
}
