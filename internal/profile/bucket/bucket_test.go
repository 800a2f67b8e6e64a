package bucket

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/schemas"
)

func connection(t *testing.T, store string) (*nats.Conn, context.Context) {
	t.Helper()
	n, err := bus.Start(bus.Options{StoreDir: store, Listen: "127.0.0.1:0", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	conn, err := n.Connection("test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return conn, ctx
}

func sample(device, model string, rows int) *profile.Profile {
	p := profile.Instant()
	p.Origin.Device, p.Origin.Model, p.Origin.SequencesMax, p.Origin.TokensStepMax, p.Origin.BlockSize = device, model, rows, 512, 16
	p.Terms.RowNs = float64(rows)
	return p
}

func TestProfilesInTheBucket(t *testing.T) {
	conn, ctx := connection(t, t.TempDir())
	fail := func(err error) { t.Error(err) }
	if list, err := List(ctx, conn, fail); err != nil || len(list) != 0 {
		t.Fatalf("before anything is published: %v, %v", list, err)
	}
	if _, err := Find(ctx, conn, sample("cpu:0: a", "tiny", 8).Origin); schemas.AsError(err, "").Kind != schemas.KindNotFound {
		t.Errorf("found in no bucket: %v", err)
	}
	for _, p := range []*profile.Profile{sample("cpu:0: a", "tiny", 8), sample("cpu:0: a", "tiny", 64), sample("cpu:0: a", "tiny", 16), sample("cuda:0: b", "org/tiny 2", 64)} {
		e, err := Publish(ctx, conn, p)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := Get(ctx, conn, e.Key); err != nil || again.Profile.Terms.RowNs != p.Terms.RowNs || again.Revision != e.Revision {
			t.Errorf("%s: %+v, %v", e.Key, again, err)
		}
	}
	list, err := List(ctx, conn, fail)
	if err != nil || len(list) != 4 || list[3].Key != "cuda_0_b.org_tiny_2.r64-t512-b16" {
		t.Fatalf("%d profiles, %v: %+v", len(list), err, list)
	}
	for rows, want := range map[int]float64{8: 8, 64: 64, 99: 16} { // the latest, if none is of the same batches
		if e, err := Find(ctx, conn, sample("cpu:0: a", "tiny", rows).Origin); err != nil || e.Profile.Terms.RowNs != want {
			t.Errorf("for %d rows: %+v, %v", rows, e, err)
		}
	}
	if _, err := Find(ctx, conn, sample("cpu:0: a", "other", 8).Origin); err == nil {
		t.Error("another model's profile is found")
	}
	if _, err := Get(ctx, conn, "no key ../"); schemas.AsError(err, "").Kind != schemas.KindNotFound {
		t.Error(err)
	}
}

// TestNonsenseInTheBucket is named and passed over.
func TestNonsenseInTheBucket(t *testing.T) {
	conn, ctx := connection(t, t.TempDir())
	if _, err := Publish(ctx, conn, sample("cpu", "tiny", 8)); err != nil {
		t.Fatal(err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	kv, err := js.KeyValue(ctx, Name)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(ctx, "bad", `{"version":1,"terms":{"row_ns":-5}}`); err != nil {
		t.Fatal(err)
	}
	var warned []error
	list, err := List(ctx, conn, func(err error) { warned = append(warned, err) })
	if err != nil || len(list) != 1 || len(warned) != 1 || !strings.Contains(warned[0].Error(), "row_ns") {
		t.Errorf("%d profiles, %v, warnings %v", len(list), err, warned)
	}
	wrong := sample("cpu", "tiny", 8)
	wrong.Version = 9
	if _, err := Publish(ctx, conn, wrong); err == nil {
		t.Error("a profile of another version is published")
	}
}

func TestWithoutJetStream(t *testing.T) {
	conn, ctx := connection(t, "")
	if _, err := Publish(ctx, conn, sample("cpu", "tiny", 8)); schemas.AsError(err, "").Kind != schemas.KindUnavailable {
		t.Error(err)
	}
}
