package bus

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/schemas"
)

// A node with a role reads and follows what is decided for all, over its leaf connection, and changes nothing.
func TestNodesReadTheBucketAndDoNotWriteIt(t *testing.T) {
	_, dir := secured(t, 0)
	conf, err := os.ReadFile(dir + "/hub.conf")
	if err != nil {
		t.Fatal(err)
	}
	hub, err := Start(Options{ID: "store", Config: string(conf), Listen: "none", LeafListen: "127.0.0.1:-1", StoreDir: t.TempDir(), Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hub.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	kv, err := OpenBucket(ctx, hub.Conn(), "troupe-cluster", "test", true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.PutString(ctx, "config.routing", "prefix"); err != nil {
		t.Fatal(err)
	}
	for _, role := range []string{"gateway", "replica", "tokenizer"} {
		leaf, err := Start(Options{ID: schemas.NodeID("leaf-" + role), Listen: "none", Leafs: []string{hub.LeafURL()}, Security: security(dir, role), Log: zerolog.Nop()})
		if err != nil {
			t.Fatal(err)
		}
		defer leaf.Close()
		mine, err := OpenBucket(ctx, leaf.Conn(), "troupe-cluster", "", false)
		if err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		if e, err := mine.Get(ctx, "config.routing"); err != nil || string(e.Value()) != "prefix" {
			t.Errorf("%s reads %v, %v", role, e, err)
		}
		watch, err := mine.WatchAll(ctx)
		if err != nil {
			t.Fatalf("%s: %v", role, err)
		}
		select {
		case e := <-watch.Updates():
			if e == nil || string(e.Value()) != "prefix" {
				t.Errorf("%s hears %v", role, e)
			}
		case <-ctx.Done():
			t.Errorf("%s hears nothing", role)
		}
		if err := watch.Stop(); err != nil {
			t.Errorf("%s: %v", role, err)
		}
		short, end := context.WithTimeout(ctx, 300*time.Millisecond)
		if _, err := mine.PutString(short, "config.routing", role); err == nil {
			t.Errorf("%s decides for all", role)
		}
		end()
	}
	if e, err := kv.Get(ctx, "config.routing"); err != nil || string(e.Value()) != "prefix" {
		t.Errorf("it has become %v, %v", e, err)
	}
	if _, err := OpenBucket(ctx, hub.Conn(), "nosuch", "", false); schemas.AsError(err, "").Kind != schemas.KindNotFound {
		t.Errorf("a bucket that is not there: %v", err)
	}
}
