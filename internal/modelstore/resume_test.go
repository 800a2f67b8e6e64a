package modelstore

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/internal/modelstore/hub"
	"github.com/troupe-engine/troupe/internal/modelstore/hubtest"
	"github.com/troupe-engine/troupe/schemas"
)

const shard = "model-00002-of-00002.safetensors"

// cutting sends at most limit bytes of a file's content and then breaks the connection.
type cutting struct {
	http.ResponseWriter
	limit int
}

func (c *cutting) Write(p []byte) (int, error) {
	if len(p) > c.limit {
		_, _ = c.ResponseWriter.Write(p[:c.limit])
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	c.limit -= len(p)
	return c.ResponseWriter.Write(p)
}

func TestDroppedConnectionsAreContinued(t *testing.T) {
	s, o := serve(t, hubtest.Model(shardBytes))
	tamper(s, func(w http.ResponseWriter, r *http.Request, n int) bool {
		if n <= 2 {
			s.SendFile(&cutting{w, shardBytes / 4}, r, shard)
		}
		return false
	})
	r := mustPull(t, o)
	stored(t, o, s, defaultChoice...)
	if r.BytesReceived != r.Bytes || s.Requests(shard) != 3 {
		t.Errorf("received %d bytes for %d in %d requests", r.BytesReceived, r.Bytes, s.Requests(shard))
	}
	ifRange := 0
	for _, h := range s.Headers() {
		if h.Get("Range") != "" && h.Get("If-Range") != "" {
			ifRange++
		}
	}
	if ifRange != 2 {
		t.Errorf("%d requests had Range and If-Range, want 2", ifRange)
	}
}

// TestServersThatIgnoreRange send all again, which ends well, or not at all if they never get to the end.
func TestServersThatIgnoreRange(t *testing.T) {
	s, o := serve(t, hubtest.Model(shardBytes))
	always := false
	tamper(s, func(w http.ResponseWriter, r *http.Request, n int) bool {
		r.Header.Del("Range")
		if always || n <= 2 {
			s.SendFile(&cutting{w, shardBytes - 4096*n}, r, shard)
		}
		return false
	})
	mustPull(t, o)
	stored(t, o, s, defaultChoice...)
	if _, err := Remove(context.Background(), testID); err != nil {
		t.Fatal(err)
	}
	always = true
	_, err := pull(t, o)
	failed(t, err, schemas.KindUnavailable, shard, "gave up after")
}

// TestChangedETagStartsAgain: what was begun of another representation is not continued.
func TestChangedETagStartsAgain(t *testing.T) {
	for _, tags := range [][2]string{{`"old"`, `"new"`}, {`W/"old"`, `W/"new"`}} {
		s, o := serve(t, hubtest.Model(shardBytes))
		old := bytes.Repeat([]byte{'o'}, len(s.Files[shard]))
		files := s.Files
		tamper(s, func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n == 1 {
				w.Header().Set("ETag", tags[0])
				w.Header().Set("Content-Length", "3145808")
				_, _ = (&cutting{w, shardBytes / 2}).Write(old[:len(files[shard])])
			}
			w.Header().Set("ETag", tags[1])
			return false
		})
		o.Notify = func(e Event) {
			if e.Kind == EventRetry && strings.Contains(e.Err.Error(), "wrong content") {
				t.Errorf("%v: only the checksum noticed: %v", tags, e.Err)
			}
		}
		mustPull(t, o)
		stored(t, o, s, defaultChoice...)
		if got := s.Served(shard); got < int64(len(files[shard])) {
			t.Errorf("%v: %d bytes of the new file were sent, it has %d", tags, got, len(files[shard]))
		}
	}
}

// TestCancelledPullsGoOn also in another process: nothing but the files is kept.
func TestCancelledPullsGoOn(t *testing.T) {
	s, o := serve(t, hubtest.Model(shardBytes))
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	s.Rate.Store(4 << 20)
	o.Notify = func(e Event) {
		if e.Stats.BytesDone > shardBytes {
			cancel()
		}
	}
	_, err := Pull(ctx, Ref{ID: testID}, o)
	failed(t, err, schemas.KindCanceled, "stopped at", "goes on from there")
	absent(t, o)
	partial := Unfinished()
	if len(partial) != 1 || partial[0].State != StatePartial || partial[0].Bytes < shardBytes {
		t.Fatalf("%+v", partial)
	}
	_, err = Find(testID)
	failed(t, err, schemas.KindNotFound, "not complete", "troupe pull org/name")
	s.Rate.Store(0)
	o.Notify = nil
	r := mustPull(t, o)
	if r.BytesReceived > r.Bytes-shardBytes {
		t.Errorf("received %d of %d bytes; %d were there", r.BytesReceived, r.Bytes, partial[0].Bytes)
	}
	stored(t, o, s, defaultChoice...)
}

// TestPartsThatWentBadAreNoticed: a crash may leave anything in a part.
func TestPartsThatWentBadAreNoticed(t *testing.T) {
	s, o := serve(t, hubtest.Model(shardBytes))
	tamper(s, func(w http.ResponseWriter, r *http.Request, n int) bool {
		if n <= 4 {
			s.SendFile(&cutting{w, 4096}, r, shard)
		}
		return false
	})
	_, err := pull(t, o)
	failed(t, err, schemas.KindUnavailable, shard)
	parts, _ := filepath.Glob(filepath.Join(o.Store, pullDir, "*", "parts", "*"))
	damaged := 0
	for _, name := range parts {
		if !strings.HasSuffix(name, ".etag") {
			damaged++
			if err := os.WriteFile(name, make([]byte, shardBytes/2), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	if damaged == 0 {
		t.Fatal("no part is left")
	}
	mustPull(t, o)
	stored(t, o, s, defaultChoice...)
}

// TestANewRevisionReplacesTheOld, of which only what changed is downloaded, and repairs what went bad.
func TestANewRevisionReplacesTheOld(t *testing.T) {
	s, o := serve(t, hubtest.Model(shardBytes))
	mustPull(t, o)
	before := s.Served("")
	s.Commit = strings.Repeat("f", 40)
	s.Files["config.json"] = []byte(`{"model_type":"qwen3"}`)
	r := mustPull(t, o)
	stored(t, o, s, defaultChoice...)
	if n := int64(len(s.Files["config.json"])); r.UpToDate || r.BytesReceived != n || s.Served("")-before != n || r.Commit != s.Commit {
		t.Errorf("%+v; %d bytes were served, config.json has %d", r, s.Served("")-before, n)
	}
	name := filepath.Join(o.Store, testID, shard)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)-1] ^= 1
	if err := os.WriteFile(name, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if r = mustPull(t, o); r.UpToDate || r.BytesReceived != int64(len(data)) {
		t.Errorf("%+v; want the damaged file again", r)
	}
	stored(t, o, s, defaultChoice...)
}

// TestAFailedUpdateLeavesTheOldModel in its place.
func TestAFailedUpdateLeavesTheOldModel(t *testing.T) {
	s, o := serve(t, hubtest.Model(64))
	mustPull(t, o)
	old := s.Files["config.json"]
	s.Commit = strings.Repeat("f", 40)
	s.Files["config.json"] = []byte(`{"model_type":"qwen3"}`)
	s.Intercept = func(w http.ResponseWriter, _ *http.Request, path string, _ int) bool {
		if path == "config.json" {
			w.WriteHeader(http.StatusNotFound)
		}
		return path == "config.json"
	}
	_, err := pull(t, o)
	failed(t, err, schemas.KindNotFound, "config.json: ")
	m, err := Find(testID)
	if err != nil || m.State != StatePulled || m.Commit != hubtest.Commit {
		t.Fatalf("%+v, %v", m, err)
	}
	if got, _ := os.ReadFile(filepath.Join(m.Path, "config.json")); !bytes.Equal(got, old) {
		t.Errorf("config.json is %s", got)
	}
}

// TestACrashBetweenTheRenamesIsMended: the old model comes back before anything else happens.
func TestACrashBetweenTheRenamesIsMended(t *testing.T) {
	s, o := serve(t, hubtest.Model(64))
	mustPull(t, o)
	work := filepath.Join(o.Store, pullDir, Ref{ID: testID}.key())
	if err := os.MkdirAll(work, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(o.Store, testID), filepath.Join(work, "old")); err != nil {
		t.Fatal(err)
	}
	before := s.Served("")
	if r := mustPull(t, o); !r.UpToDate || s.Served("") != before {
		t.Errorf("%+v, %d bytes served", r, s.Served("")-before)
	}
	stored(t, o, s, defaultChoice...)
}

func TestTwoPullsOfOneModelTakeTurns(t *testing.T) {
	s, o := serve(t, hubtest.Model(shardBytes))
	s.Rate.Store(8 << 20)
	var waited atomic.Int32
	o.Notify = func(e Event) {
		if e.Kind == EventLocked {
			waited.Add(1)
		}
	}
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() { mustPull(t, o) })
	}
	for !locks(o) {
		time.Sleep(time.Millisecond)
	}
	_, err := Remove(context.Background(), testID)
	if err == nil {
		t.Error("a model that is being pulled was removed")
	}
	both.Wait()
	stored(t, o, s, defaultChoice...)
	if got, want := s.Served(shard), int64(len(s.Files[shard])); got != want || waited.Load() != 1 {
		t.Errorf("%d bytes of the shard were served, it has %d; %d waited", got, want, waited.Load())
	}
}

func locks(o PullOptions) bool {
	_, err := os.Stat(filepath.Join(o.Store, pullDir, Ref{ID: testID}.key(), "plan.json"))
	return err == nil
}

func TestTheDiskIsCheckedFirst(t *testing.T) {
	s, o := serve(t, hubtest.Model(shardBytes))
	o.freeDisk = func(string) (int64, error) { return shardBytes, nil }
	_, err := pull(t, o)
	failed(t, err, schemas.KindTooLarge, "needs 6.0 MiB more (6.0 MiB in all)", "has 3.0 MiB free", "TROUPE_MODELS")
	if s.Served("") != 0 {
		t.Errorf("%d bytes were downloaded", s.Served(""))
	}
	o.freeDisk = nil
	mustPull(t, o)
	o.freeDisk = func(string) (int64, error) { return 0, nil }
	mustPull(t, o) // what is there needs no room
}

func TestWhatIsInTheWayStays(t *testing.T) {
	_, o := serve(t, hubtest.Model(64))
	put(t, filepath.Join(o.Store, testID))
	_, err := pull(t, o)
	failed(t, err, schemas.KindInvalid, "by other means", "move or delete")
	_, err = Remove(context.Background(), testID)
	failed(t, err, schemas.KindInvalid, "was not pulled")
	if err := os.RemoveAll(filepath.Join(o.Store, "org")); err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(o.Store, "org"))
	_, err = pull(t, o)
	failed(t, err, schemas.KindInvalid, "is a model itself")
	if err := os.RemoveAll(filepath.Join(o.Store, "org")); err != nil {
		t.Fatal(err)
	}
	elsewhere := t.TempDir()
	if err := os.Symlink(elsewhere, filepath.Join(o.Store, "org")); err != nil {
		t.Fatal(err)
	}
	_, err = pull(t, o)
	if err == nil {
		t.Error("a model was stored behind a link that leaves the store")
	}
	if entries, _ := os.ReadDir(elsewhere); len(entries) > 0 {
		t.Errorf("%v was written outside the store", entries)
	}
}

func TestNames(t *testing.T) {
	for _, bad := range []string{"", "/", "org/", "/name", "a/b/c", "..", "../x", "org/..", "org/.x", "org/x.", "-org/x", "org--x/y", "org/a b",
		"org/a\x00", "org/é", "org/x@", "org/x@a..b", "org/x@\n", strings.Repeat("a", 97), "troupe-tiny"} {
		if ref, err := ParseRef(bad); err == nil {
			t.Errorf("%q is taken for %+v", bad, ref)
		}
	}
	ref, err := ParseRef("Qwen/Qwen3-0.6B@refs/pr/1")
	if want := (Ref{"Qwen/Qwen3-0.6B", "refs/pr/1"}); err != nil || ref != want {
		t.Errorf("%+v, %v", ref, err)
	}
	for _, bad := range []string{"ftp://x", "https://", "//x", "https://u:p@x", "x", "https://x?y"} {
		if _, err := hub.New(hub.Options{Endpoint: bad}); err == nil {
			t.Errorf("endpoint %q is taken", bad)
		}
	}
	if _, err := hub.New(hub.Options{Token: "hf\nx"}); err == nil || strings.Contains(err.Error(), "hf\nx") {
		t.Errorf("%v; want an error that does not quote the token", err)
	}
}
