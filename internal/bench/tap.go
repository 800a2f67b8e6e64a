package bench

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// tap is a subscriber to everything, connected over TCP like a recorder on another machine. It checks
// that it gets every message once. Actors number their mirrors at the same time, so a few come out of order.
type tap struct {
	conn *nats.Conn

	mu      sync.Mutex
	got     uint64
	through uint64              // every number up to this one has come
	ahead   map[uint64]struct{} // numbers after it that have come
	strange uint64              // repeated or without a number
	last    bool                // the message after which no more is expected has come
}

const (
	tapWait         = 10 * time.Second // for the last message of a run
	tapPoll         = time.Millisecond
	tapPendingBytes = 256 << 20
)

// lastSubject is where the final reply of a run is mirrored.
var lastSubject = schemas.TapPrefix + schemas.SchedulerInfo.Subject(replicaName) + schemas.ReplySuffix

func openTap(node *bus.Node) (*tap, error) {
	conn, err := nats.Connect(node.URL(), nats.Name("bench/tap"))
	if err != nil {
		return nil, fmt.Errorf("bench: tap: %w", err)
	}
	t := &tap{conn: conn, ahead: map[uint64]struct{}{}}
	sub, err := conn.Subscribe(schemas.TapPrefix+">", t.take)
	if err == nil {
		err = sub.SetPendingLimits(-1, tapPendingBytes)
	}
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("bench: tap: %w", err)
	}
	return t, nil
}

func (t *tap) take(m *nats.Msg) {
	number, err := strconv.ParseUint(m.Header.Get(bus.HeaderTapSequence), 10, 64)
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, repeated := t.ahead[number]; err != nil || repeated || number <= t.through {
		t.strange++
		return
	}
	t.got++
	t.ahead[number] = struct{}{}
	for {
		if _, came := t.ahead[t.through+1]; !came {
			break
		}
		t.through++
		delete(t.ahead, t.through)
	}
	t.last = t.last || m.Subject == lastSubject
}

// finish sends one last message through the actors, waits for its mirror and for all before it, and
// returns how many messages came and how many did not.
func (t *tap) finish(node *bus.Node) (got, missing uint64, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), tapWait)
	defer cancel()
	if _, err := bus.NewRef(node, schemas.SchedulerInfo, replicaName).Call(ctx, &schemas.InfoRequest{}); err != nil {
		return 0, 0, err
	}
	for {
		t.mu.Lock()
		got, missing = t.got, 0
		for number := range t.ahead {
			missing = max(missing, number)
		}
		if missing > 0 {
			missing -= t.got // the highest number, less those that came
		}
		last, strange := t.last, t.strange
		t.mu.Unlock()
		switch {
		case strange > 0:
			return got, missing, fmt.Errorf("bench: tap: %d messages came twice or without a number", strange)
		case last && missing == 0, ctx.Err() != nil && last:
			return got, missing, nil
		case ctx.Err() != nil:
			return got, missing, fmt.Errorf("bench: tap: the last message did not arrive within %s", tapWait)
		}
		time.Sleep(tapPoll)
	}
}

func (t *tap) close() { t.conn.Close() }
