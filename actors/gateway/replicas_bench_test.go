package gateway

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// BenchmarkHear1000Replicas is what one report costs a gateway that knows 1,000 replicas, from its bytes on: the replica's
// load, and 16 prefixes that came and 16 that went. Five of them come each second from each.
func BenchmarkHear1000Replicas(b *testing.B) {
	e := startEngine(b, nil)
	g, err := New(e.node, Config{Instance: "gateway0", Scheduler: "replica0", Tokenizer: "tokenizer0", ModelName: "fake", Cluster: &Cluster{}, Log: zerolog.Nop()})
	if err != nil {
		b.Fatal(err)
	}
	rs := g.replicas
	const replicas, held = 1000, 1000
	now := time.Now()
	message := func(i int, serial uint64) []byte {
		r := report(schemas.Instance(fmt.Sprintf("replica%03d", i)))
		r.Since, r.Serial, r.Progress = serial-1, serial, serial
		for k := range uint64(16) {
			r.Added = append(r.Added, uint64(i)<<32+serial*16+k+held)
			r.Removed = append(r.Removed, uint64(i)<<32+serial*16+k)
		}
		raw, err := bus.Marshal(r)
		if err != nil {
			b.Fatal(err)
		}
		return raw
	}
	for i := range replicas {
		m := report(schemas.Instance(fmt.Sprintf("replica%03d", i)))
		r := newReplica(e.node, m.Replica)
		r.numerics, r.incarnation, r.info, r.report, r.heard, r.serial = m.Numerics, m.Incarnation, e.info, m, now, 10
		r.gone, r.giveUp = context.WithCancelCause(context.Background())
		defer r.giveUp(context.Canceled)
		rs.known[m.Replica] = r
		rs.note(r)
		var keys []uint64
		for k := range uint64(held) {
			keys = append(keys, uint64(i)<<32+11*16+k)
		}
		rs.router.Reset(m.Replica, keys)
	}
	const rounds = 16
	messages := make([][]byte, 0, rounds*replicas)
	for serial := range uint64(rounds) {
		for i := range replicas {
			messages = append(messages, message(i, 11+serial))
		}
	}
	b.ResetTimer()
	for n := range b.N {
		m := &schemas.ReplicaReport{}
		if err := bus.Unmarshal(messages[n%len(messages)], m); err != nil {
			b.Fatal(err)
		}
		if err := rs.hear(m.Replica, m, now); err != nil {
			b.Fatal(err)
		}
	}
}
