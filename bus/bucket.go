package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/troupe-engine/troupe/schemas"
)

// JetStreamDomain names the JetStream of nodes with a store among leaf nodes, which only pass on what names it.
const JetStreamDomain = "troupe"

// bucketReplicas is on how many servers a bucket lies, where there are as many: one of them may be lost without
// a consequence.
const bucketReplicas = 3

// OpenBucket returns a key-value bucket of JetStream, which it makes if create says so: on three servers where they form a
// NATS cluster with JetStream, otherwise on one. The error is KindUnsupported if no server keeps any, KindNotFound if this
// one is not there.
func OpenBucket(ctx context.Context, conn *nats.Conn, name, description string, create bool) (jetstream.KeyValue, error) {
	js, err := jetstream.NewWithDomain(conn, JetStreamDomain)
	if err != nil {
		return nil, fmt.Errorf("bus: bucket %s: %w", name, err)
	}
	kv, err := js.KeyValue(ctx, name)
	if create && errors.Is(err, jetstream.ErrBucketNotFound) {
		for _, replicas := range []int{bucketReplicas, 1} {
			kv, err = js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: name, Description: description, Replicas: replicas, Storage: jetstream.FileStorage})
			if !tooFewServers(err) {
				break
			}
		}
	}
	if err != nil {
		return nil, BucketError(name, err)
	}
	return kv, nil
}

// tooFewServers reports whether there are not enough for the replicas that were asked for.
func tooFewServers(err error) bool {
	var api *jetstream.APIError
	// 10074: no cluster; 10005: no suitable peers (nats-server/server/errors.json).
	return errors.As(err, &api) && (api.ErrorCode == 10074 || api.ErrorCode == 10005)
}

// BucketError tells what an operation on a bucket came to.
func BucketError(name string, err error) error {
	op := "bucket " + name
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount), errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse):
		return schemas.Errorf(schemas.KindUnsupported, op, "no server keeps it: %v", err).WithHint("start the engine with --store DIR")
	case errors.Is(err, jetstream.ErrBucketNotFound), errors.Is(err, jetstream.ErrKeyNotFound):
		return schemas.Errorf(schemas.KindNotFound, op, "%v", err)
	case errors.Is(err, jetstream.ErrInvalidKey):
		return schemas.Errorf(schemas.KindInvalid, op, "%v: expected letters, digits and -/_=. in a key", err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, nats.ErrTimeout):
		return schemas.Errorf(schemas.KindTimeout, op, "no answer: %v", err).WithHint("of three servers that keep it, two must run")
	}
	return schemas.Errorf(schemas.KindUnavailable, op, "%v", err)
}
