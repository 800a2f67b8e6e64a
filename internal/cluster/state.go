package cluster

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// StateBucket holds what operators decide for all nodes. Three servers keep it where they form a NATS cluster: one that is
// lost changes nothing, and when two are, nothing can be decided anew while all goes on as it was decided last.
const StateBucket = "troupe-cluster"

// Keys of StateBucket. Values are text.
const (
	KeyRouting      = "config.routing" // how gateways choose between replicas, instead of their --routing
	PlacementPrefix = "placement."     // + node: the model that it serves when it starts without --model
)

// stateWaitMax is how long the bucket may take to answer.
const stateWaitMax = 5 * time.Second

// State is the bucket.
type State struct{ kv jetstream.KeyValue }

// OpenState finds the bucket, or makes it if create says so.
func OpenState(ctx context.Context, conn *nats.Conn, create bool) (*State, error) {
	ctx, cancel := context.WithTimeout(ctx, stateWaitMax)
	defer cancel()
	kv, err := bus.OpenBucket(ctx, conn, StateBucket, "what operators decide for all of troupe's nodes", create)
	if err != nil {
		return nil, err
	}
	return &State{kv}, nil
}

// CheckKey refuses what nobody would read.
func CheckKey(key string) error {
	if node, is := strings.CutPrefix(key, PlacementPrefix); key == KeyRouting || is && node != "" && !strings.ContainsAny(node, ".*> ") {
		return nil
	}
	return schemas.Errorf(schemas.KindInvalid, "cluster", "the key is %.80q; expected %s or %sNODE", key, KeyRouting, PlacementPrefix).WithParam("key")
}

// Get returns a decision, "" if there is none.
func (s *State) Get(ctx context.Context, key string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stateWaitMax)
	defer cancel()
	entry, err := s.kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return "", nil
	}
	if err != nil {
		return "", bus.BucketError(StateBucket, err)
	}
	return string(entry.Value()), nil
}

// Set decides; "" takes a decision back. It returns when a majority of the servers that keep the bucket has it.
func (s *State) Set(ctx context.Context, key, value string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stateWaitMax)
	defer cancel()
	var err error
	if value == "" {
		err = s.kv.Delete(ctx, key)
	} else {
		_, err = s.kv.PutString(ctx, key, value)
	}
	return bus.BucketError(StateBucket, err)
}

// All lists the decisions, and on how many servers they lie.
func (s *State) All(ctx context.Context) (decisions map[string]string, replicas int, err error) {
	ctx, cancel := context.WithTimeout(ctx, stateWaitMax)
	defer cancel()
	status, err := s.kv.Status(ctx)
	if err != nil {
		return nil, 0, bus.BucketError(StateBucket, err)
	}
	if b, ok := status.(*jetstream.KeyValueBucketStatus); ok {
		replicas = b.StreamInfo().Config.Replicas
	}
	decisions = map[string]string{}
	watch, err := s.kv.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, 0, bus.BucketError(StateBucket, err)
	}
	defer func() { _ = watch.Stop() }() // an error means that it has ended
	for {
		select {
		case entry := <-watch.Updates():
			if entry == nil { // that is all
				return decisions, replicas, nil
			}
			decisions[entry.Key()] = string(entry.Value())
		case <-ctx.Done():
			return nil, 0, bus.BucketError(StateBucket, ctx.Err())
		}
	}
}

// Follow has decide called with every decision, "" for those that are taken back, until ctx ends or the bucket is gone.
func (s *State) Follow(ctx context.Context, decide func(key, value string)) error {
	watch, err := s.kv.WatchAll(ctx)
	if err != nil {
		return bus.BucketError(StateBucket, err)
	}
	defer func() { _ = watch.Stop() }() // an error means that it has ended
	for {
		select {
		case entry, open := <-watch.Updates():
			if !open {
				return schemas.Errorf(schemas.KindUnavailable, "bucket "+StateBucket, "the watch ended")
			}
			switch {
			case entry == nil: // all that there was
			case entry.Operation() == jetstream.KeyValuePut:
				decide(entry.Key(), string(entry.Value()))
			default:
				decide(entry.Key(), "")
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Nodes lists the nodes of decisions on placement.
func Nodes(decisions map[string]string) (nodes []string) {
	for _, key := range slices.Sorted(maps.Keys(decisions)) {
		if node, is := strings.CutPrefix(key, PlacementPrefix); is {
			nodes = append(nodes, node)
		}
	}
	return nodes
}
