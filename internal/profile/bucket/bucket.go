// Package bucket keeps profiles in a JetStream key-value bucket, where all nodes of an engine find them: by device, model and
// the limits of a batch.
package bucket

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/schemas"
)

// Name is the bucket's.
const Name = "TROUPE_PROFILES"

const (
	keyPartMax  = 60 // characters
	historyKept = 5  // profiles of a key
)

// Key names a profile: DEVICE.MODEL.SHAPE, as "cpu_0_AMD_EPYC_2_threads_avx512.troupe-tiny.r64-t512-b16" for at most 64 rows and
// 512 tokens in a step, and blocks of 16 tokens.
func Key(o *profile.Origin) string {
	return fmt.Sprintf("%s.%s.r%d-t%d-b%d", part(o.Device), part(o.Model), o.SequencesMax, o.TokensStepMax, o.BlockSize)
}

// part is text in the characters of keys.
func part(text string) string {
	b := []byte(text)
	for i, c := range b {
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-') {
			b[i] = '_'
		}
	}
	for bytes.Contains(b, []byte("__")) {
		b = bytes.ReplaceAll(b, []byte("__"), []byte("_"))
	}
	return cmp.Or(strings.Trim(string(b[:min(len(b), keyPartMax)]), "_"), "none")
}

// Entry is a profile of the bucket.
type Entry struct {
	Key      string           `json:"key"`
	Revision uint64           `json:"revision"`
	Profile  *profile.Profile `json:"profile"`
}

// Publish puts a profile into the bucket, which it makes if it must, in place of any before it.
func Publish(ctx context.Context, conn *nats.Conn, p *profile.Profile) (*Entry, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, failed(err)
	}
	kv, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: Name, Description: "what steps cost on the devices of troupe's engines", History: historyKept})
	if err != nil {
		return nil, failed(err)
	}
	body, err := json.Marshal(p)
	if err != nil {
		return nil, failed(err)
	}
	key := Key(&p.Origin)
	revision, err := kv.Put(ctx, key, body)
	if err != nil {
		return nil, failed(err)
	}
	return &Entry{key, revision, p}, nil
}

// List returns what the bucket holds, by key. What cannot be read goes to warn and is left out.
func List(ctx context.Context, conn *nats.Conn, warn func(error)) ([]Entry, error) {
	kv, err := open(ctx, conn)
	if err != nil || kv == nil {
		return nil, err
	}
	keys, err := kv.Keys(ctx)
	if errors.Is(err, jetstream.ErrNoKeysFound) {
		return nil, nil
	}
	if err != nil {
		return nil, failed(err)
	}
	slices.Sort(keys)
	var list []Entry
	for _, key := range keys {
		e, err := get(ctx, kv, key)
		if err != nil {
			warn(err)
			continue
		}
		list = append(list, *e)
	}
	return list, nil
}

// Get returns the profile of a key.
func Get(ctx context.Context, conn *nats.Conn, key string) (*Entry, error) {
	kv, err := open(ctx, conn)
	if err != nil {
		return nil, err
	}
	if kv == nil {
		return nil, notFound(key)
	}
	return get(ctx, kv, key)
}

// Find returns the profile of a device and a model that fits best: the one for the same batches, or else the latest. The
// error's kind is not_found if there is none.
func Find(ctx context.Context, conn *nats.Conn, o profile.Origin) (*Entry, error) {
	list, err := List(ctx, conn, func(error) {})
	if err != nil {
		return nil, err
	}
	want := Key(&o)
	device := want[:strings.LastIndexByte(want, '.')+1]
	var best *Entry
	for i := range list {
		e := &list[i]
		switch {
		case e.Key == want:
			return e, nil
		case strings.HasPrefix(e.Key, device) && (best == nil || e.Revision > best.Revision):
			best = e
		}
	}
	if best == nil {
		return nil, notFound(want)
	}
	return best, nil
}

func open(ctx context.Context, conn *nats.Conn) (jetstream.KeyValue, error) {
	js, err := jetstream.New(conn)
	if err != nil {
		return nil, failed(err)
	}
	kv, err := js.KeyValue(ctx, Name)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, failed(err)
	}
	return kv, nil
}

func get(ctx context.Context, kv jetstream.KeyValue, key string) (*Entry, error) {
	v, err := kv.Get(ctx, key)
	if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrInvalidKey) {
		return nil, notFound(key)
	}
	if err != nil {
		return nil, failed(err)
	}
	p, err := profile.Parse(v.Value())
	if err != nil {
		e := schemas.AsError(err, "profile")
		e.Detail = fmt.Sprintf("%.80s in the bucket: %s", key, e.Detail)
		return nil, e
	}
	return &Entry{key, v.Revision(), p}, nil
}

func notFound(key string) error {
	return schemas.Errorf(schemas.KindNotFound, "profile", "the bucket holds no profile %.120q", key).WithParam("profile").
		WithHint("troupe profile list shows what it holds; troupe profile --publish adds one")
}

func failed(err error) error {
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) || errors.Is(err, nats.ErrNoResponders) {
		return schemas.Errorf(schemas.KindUnavailable, "profile", "the NATS server has no JetStream").WithHint("start the engine with --store DIR, or keep profiles in files with --out")
	}
	return fmt.Errorf("profile: the bucket: %w", err)
}
