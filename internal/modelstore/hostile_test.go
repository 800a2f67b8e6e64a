package modelstore

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/internal/modelstore/hub"
	"github.com/troupe-engine/troupe/internal/modelstore/hubtest"
	"github.com/troupe-engine/troupe/schemas"
)

// outside fails if anything but the store's own folders was written beside or in the store.
func outside(t *testing.T, o PullOptions) {
	t.Helper()
	for dir, allowed := range map[string]string{filepath.Dir(o.Store): filepath.Base(o.Store), o.Store: locksDir + " " + pullDir} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if !strings.Contains(allowed, e.Name()) {
				t.Errorf("%s was written in %s", e.Name(), dir)
			}
		}
	}
}

func TestHostilePathsAreRefused(t *testing.T) {
	long := strings.Repeat("a", elementBytesMax+1) + ".json"
	deep := strings.Repeat("ab/", pathBytesMax/3) + "x.json"
	for _, c := range []struct{ path, want string }{
		{"../evil.json", `"../evil.json"`},
		{"a/../../evil.json", "plain relative path"},
		{"/etc/evil.json", `"/etc/evil.json"`},
		{"a//b.json", "plain relative path"},
		{"./a.json", "plain relative path"},
		{"", "plain relative path"},
		{".", "plain relative path"},
		{"nul\x00.json", `"nul\x00.json"`},
		{"escape\x1b[2J.json", `"escape\x1b[2J.json"`},
		{`..\evil.json`, "backslash"},
		{"c:evil.json", "colon"},
		{long, "longer than 255 bytes"},
		{deep, "the limit is 1024"},
		{"CONFIG.json", "one name on some file systems"},
		{"config.json", "one name on some file systems"},
		{"config.json/evil.json", "one name on some file systems"},
		{"tokenizer.jsoN/x.json", "one name on some file systems"},
		{"e\u0301.json", "one name on some file systems"}, // beside é.json
		{manifestName, "manifest"},
	} {
		files := hubtest.Model(64)
		files["\u00e9.json"] = []byte("{}")
		s, o := serve(t, files)
		o.Include = []string{"*"}
		o.Exclude = []string{"*.bin"}
		s.Extra = []hubtest.Entry{hubtest.EntryOf(c.path, []byte("{}"))}
		_, err := pull(t, o)
		failed(t, err, schemas.KindInvalid, c.want)
		absent(t, o)
		outside(t, o)
	}
}

// TestTraversalIsRefusedThoughNotSelected: an honest listing never has such names.
func TestTraversalIsRefusedThoughNotSelected(t *testing.T) {
	s, o := serve(t, hubtest.Model(64))
	s.Extra = []hubtest.Entry{hubtest.EntryOf("../../evil.bin", nil)}
	_, err := pull(t, o)
	failed(t, err, schemas.KindInvalid, `"../../evil.bin"`)
}

func TestHostileEntriesAreRefused(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(e *hubtest.Entry)
		kind   schemas.Kind
		want   string
	}{
		{"negative size", func(e *hubtest.Entry) { e.Size = -1 }, schemas.KindInvalid, `"config.json": the server says its size is -1`},
		{"gigantic size", func(e *hubtest.Entry) { e.Size = int64(math.MaxInt64) }, schemas.KindTooLarge, `"config.json": the server says it has 9223372036854775807`},
		{"size no integer", func(e *hubtest.Entry) { e.Size = 1e300 }, schemas.KindUnavailable, "not the JSON"},
		{"size no number", func(e *hubtest.Entry) { e.Size = "many" }, schemas.KindUnavailable, "not the JSON"},
		{"symlink", func(e *hubtest.Entry) { e.Type = "symlink" }, schemas.KindUnsupported, `"config.json" is a "symlink"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, o := serve(t, hubtest.Model(64))
			s.Listed = func(e *hubtest.Entry) {
				if e.Path == "config.json" {
					c.change(e)
				}
			}
			_, err := pull(t, o)
			failed(t, err, c.kind, c.want)
			absent(t, o)
		})
	}
	s, o := serve(t, hubtest.Model(64))
	s.Listed = func(e *hubtest.Entry) { // each is possible, the sum is not
		if e.LFS != nil {
			e.LFS.Size = fileBytesMax
		}
	}
	_, err := pull(t, o)
	failed(t, err, schemas.KindTooLarge, "the limit is")
}

func TestEndlessListingsEnd(t *testing.T) {
	s, o := serve(t, hubtest.Model(64))
	s.Intercept = func(w http.ResponseWriter, r *http.Request, path string, n int) bool {
		if path != "tree" {
			return false
		}
		w.Header().Set("Link", fmt.Sprintf(`<http://elsewhere.invalid/?cursor=%d>; rel="next"`, n)) // only its query is used
		_ = json.NewEncoder(w).Encode([]hubtest.Entry{hubtest.EntryOf(fmt.Sprintf("%d.json", n), nil)})
		return true
	}
	_, err := pull(t, o)
	failed(t, err, schemas.KindTooLarge, "more than 200 pages")
	if n := s.Requests("tree"); n != hub.PagesMax {
		t.Errorf("%d pages were asked for", n)
	}
	s.Intercept = func(w http.ResponseWriter, _ *http.Request, path string, _ int) bool {
		if path != "tree" {
			return false
		}
		_, _ = io.WriteString(w, `["`)
		for chunk := bytes.Repeat([]byte{'x'}, 1<<20); ; {
			if _, err := w.Write(chunk); err != nil {
				return true
			}
		}
	}
	_, err = pull(t, o)
	failed(t, err, schemas.KindTooLarge, "exceeds 16 MiB")
}

// tamper answers requests for one shard.
func tamper(s *hubtest.Server, answer func(w http.ResponseWriter, r *http.Request, n int) bool) {
	s.Intercept = func(w http.ResponseWriter, r *http.Request, path string, n int) bool {
		return path == "model-00002-of-00002.safetensors" && answer(w, r, n)
	}
}

func TestWrongBytesAreRefused(t *testing.T) {
	s, o := serve(t, hubtest.Model(shardBytes))
	bad := bytes.Clone(s.Files["model-00002-of-00002.safetensors"])
	bad[len(bad)/2] ^= 1
	wrong := true
	tamper(s, func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		if wrong {
			_, _ = w.Write(bad)
		}
		return wrong
	})
	_, err := pull(t, o)
	failed(t, err, schemas.KindUnavailable, `"model-00002-of-00002.safetensors" has the wrong content: expected sha256:`, "found sha256:")
	absent(t, o)
	if n := s.Requests("model-00002-of-00002.safetensors"); n != 2 {
		t.Errorf("asked %d times; want one more from the beginning, and no more", n)
	}
	wrong = false
	mustPull(t, o) // the wrong bytes do not stay
	stored(t, o, s, defaultChoice...)
}

func TestSmallFilesAreCheckedByTheirGitHash(t *testing.T) {
	s, o := serve(t, hubtest.Model(64))
	s.Intercept = func(w http.ResponseWriter, _ *http.Request, path string, _ int) bool {
		if path == "config.json" {
			_, _ = w.Write(bytes.Replace(s.Files[path], []byte("llama"), []byte("qwen3"), 1))
		}
		return path == "config.json"
	}
	_, err := pull(t, o)
	failed(t, err, schemas.KindUnavailable, `"config.json" has the wrong content: expected git-sha1:`)
}

// TestChecksumsFromHeaders: where the tree has no hash, the file's own answer does.
func TestChecksumsFromHeaders(t *testing.T) {
	s, o := serve(t, hubtest.Model(64))
	hashes := map[string]hubtest.Entry{}
	s.Listed = func(e *hubtest.Entry) {
		hashes[e.Path] = *e
		e.OID, e.LFS = "", nil
	}
	s.Intercept = func(w http.ResponseWriter, r *http.Request, path string, _ int) bool {
		if e := hashes[path]; r.Method == http.MethodHead && e.LFS != nil {
			w.Header().Set("X-Linked-Etag", `"`+e.LFS.OID+`"`)
			w.Header().Set("X-Linked-Size", fmt.Sprint(e.LFS.Size))
		} else if r.Method == http.MethodHead {
			w.Header().Set("ETag", `W/"`+e.OID+`"`)
		}
		return r.Method == http.MethodHead && path != "tokenizer.json"
	}
	mustPull(t, o) // the server's own ETag is a SHA-256
	stored(t, o, s, defaultChoice...)
	m, err := readManifest(os.DirFS(filepath.Join(o.Store, testID)), manifestName)
	if err != nil || !strings.HasPrefix(string(m.Files[1].Digest), prefixGitSHA1) || !strings.HasPrefix(string(m.Files[2].Digest), prefixSHA256) {
		t.Errorf("%+v, %v", m, err)
	}

	_, o = serve(t, hubtest.Model(64))
	o.Hub.Endpoint = s.URL
	s.Intercept = func(_ http.ResponseWriter, r *http.Request, _ string, _ int) bool { return r.Method == http.MethodHead }
	_, err = pull(t, o)
	failed(t, err, schemas.KindUnsupported, `"chat_template.jinja": the server gives no checksum`)
}

func TestLyingAnswers(t *testing.T) {
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	_, _ = z.Write(make([]byte, 16<<20))
	_ = z.Close()
	files := hubtest.Model(shardBytes)
	for _, c := range []struct {
		name   string
		answer func(w http.ResponseWriter)
		want   string
	}{
		{"too short", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "5"); _, _ = io.WriteString(w, "short") }, "announces 5 bytes, the list of files 3145"},
		{"too long", func(w http.ResponseWriter) { w.Header().Set("Content-Length", "99999999"); w.WriteHeader(200) }, "announces 99999999 bytes"},
		{"ends early", func(w http.ResponseWriter) { w.(http.Flusher).Flush(); _, _ = io.WriteString(w, "short") }, "ends after 5 of 3145"},
		{"web page", func(w http.ResponseWriter) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = io.WriteString(w, "<html>Log in</html>")
		}, "answers with a web page instead"},
		{"gzip bomb", func(w http.ResponseWriter) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(bomb.Bytes())
		}, "sends it compressed (gzip)"},
		{"nonsense range", func(w http.ResponseWriter) {
			w.Header().Set("Content-Range", "bytes 7-8/9")
			w.WriteHeader(http.StatusPartialContent)
		}, "cannot be continued"},
		{"range not satisfiable", func(w http.ResponseWriter) { w.WriteHeader(http.StatusRequestedRangeNotSatisfiable) }, "cannot be continued"},
		{"redirect in a circle", func(w http.ResponseWriter) { w.Header().Set("Location", "?"); w.WriteHeader(http.StatusFound) }, "more than 10 redirects"},
		{"redirect to a file", func(w http.ResponseWriter) {
			w.Header().Set("Location", "file:///etc/passwd")
			w.WriteHeader(http.StatusFound)
		}, "redirects to an address that is not followed"},
		{"redirect to nowhere", func(w http.ResponseWriter) { w.WriteHeader(http.StatusFound) }, "redirects to an address that is not followed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, o := serve(t, files)
			tamper(s, func(w http.ResponseWriter, _ *http.Request, _ int) bool { c.answer(w); return true })
			_, err := pull(t, o)
			failed(t, err, schemas.KindUnavailable, "model-00002-of-00002.safetensors", c.want)
			absent(t, o)
		})
	}
}

// TestMoreThanListedIsNotTaken: bytes after the listed ones are not even read.
func TestMoreThanListedIsNotTaken(t *testing.T) {
	s, o := serve(t, hubtest.Model(shardBytes))
	tamper(s, func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		w.(http.Flusher).Flush() // chunked: no length
		_, _ = w.Write(s.Files["model-00002-of-00002.safetensors"])
		for junk := make([]byte, 1<<20); ; {
			if _, err := w.Write(junk); err != nil {
				return true
			}
		}
	})
	mustPull(t, o)
	stored(t, o, s, defaultChoice...)
}

func TestStalledBodiesAreGivenUp(t *testing.T) {
	s, o := serve(t, hubtest.Model(shardBytes))
	o.Hub.StallTimeMax = 100 * time.Millisecond
	done := make(chan struct{})
	defer close(done)
	tamper(s, func(w http.ResponseWriter, r *http.Request, _ int) bool {
		for { // a drop now and then is as good as none
			_, _ = io.WriteString(w, "x")
			w.(http.Flusher).Flush()
			select {
			case <-time.After(20 * time.Millisecond):
			case <-r.Context().Done():
				return true
			case <-done:
				return true
			}
		}
	})
	began := time.Now()
	_, err := pull(t, o)
	failed(t, err, schemas.KindTimeout, "model-00002-of-00002.safetensors: fewer than 1024 bytes arrived in 100ms", "gave up after 4 tries")
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}

func TestDamagedWeightsAreNotPublished(t *testing.T) {
	files := hubtest.Model(64)
	files["model-00002-of-00002.safetensors"] = []byte("version https://git-lfs.github.com/spec/v1") // a pointer that was committed as a file
	_, o := serve(t, files)
	_, err := pull(t, o)
	failed(t, err, schemas.KindInvalid, "model-00002-of-00002.safetensors", "header length")
	absent(t, o)
}

func TestStatusesAreExplained(t *testing.T) {
	for _, c := range []struct {
		status int
		code   string
		token  string
		kind   schemas.Kind
		want   []string
		tries  int
	}{
		{401, "RepoNotFound", "", schemas.KindUnauthorized, []string{"401", "check the name", "HF_TOKEN"}, 1},
		{401, "", "hf_x", schemas.KindUnauthorized, []string{"the token in HF_TOKEN may not read this"}, 1},
		{403, "GatedRepo", "hf_x", schemas.KindUnauthorized, []string{"accept the conditions at http://", testID}, 1},
		{404, "RevisionNotFound", "", schemas.KindNotFound, []string{"branches, tags and commits are at"}, 1},
		{404, "", "", schemas.KindNotFound, []string{"check the name and revision"}, 1},
		{418, "", "", schemas.KindInvalid, []string{"418"}, 1},
		{429, "", "", schemas.KindOverloaded, []string{"429", "gave up after 4 tries"}, 4},
		{503, "", "", schemas.KindUnavailable, []string{"503 Service Unavailable", "gave up after 4 tries"}, 4},
	} {
		s, o := serve(t, hubtest.Model(64))
		o.Hub.Token = c.token
		s.Intercept = func(w http.ResponseWriter, _ *http.Request, _ string, _ int) bool {
			w.Header().Set("X-Error-Code", c.code)
			w.WriteHeader(c.status)
			return true
		}
		retries := 0
		o.Notify = func(e Event) {
			if e.Kind == EventRetry && e.Err != nil {
				retries++
			}
		}
		_, err := pull(t, o)
		failed(t, err, c.kind, c.want...)
		if n := s.Requests("revision"); n != c.tries {
			t.Errorf("%d: %d tries, want %d", c.status, n, c.tries)
		}
		if retries != c.tries-1 {
			t.Errorf("%d: told of %d retries, want %d", c.status, retries, c.tries-1)
		}
	}
}

func TestRetryAfterIsHonoured(t *testing.T) {
	s, o := serve(t, hubtest.Model(64))
	var waits []time.Duration
	o.Notify = func(e Event) {
		if e.Kind == EventRetry {
			waits = append(waits, e.Wait)
		}
	}
	tamper(s, func(w http.ResponseWriter, _ *http.Request, n int) bool {
		w.Header().Set("Retry-After", "1")
		if n == 1 {
			w.WriteHeader(http.StatusTooManyRequests)
		}
		return n == 1
	})
	began := time.Now()
	mustPull(t, o)
	if len(waits) != 1 || waits[0] != time.Second || time.Since(began) < time.Second {
		t.Errorf("waited %v; the server asked for 1s", waits)
	}
	s, o = serve(t, hubtest.Model(64))
	tamper(s, func(w http.ResponseWriter, _ *http.Request, _ int) bool {
		w.Header().Set("Retry-After", time.Now().Add(time.Hour).UTC().Format(http.TimeFormat))
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	_, err := pull(t, o)
	failed(t, err, schemas.KindUnavailable, "it asks to wait", "59m")
}

// TestTheTokenStaysAtTheEndpoint: not even another port of the same host gets it.
func TestTheTokenStaysAtTheEndpoint(t *testing.T) {
	s, o := serve(t, hubtest.Model(shardBytes))
	o.Hub.Token = "hf_secret"
	leaked, served := make(chan string, 100), 0
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served++
		for name, values := range r.Header {
			if strings.Contains(strings.Join(values, " "), "hf_secret") {
				leaked <- name
			}
		}
		s.SendFile(w, r, "model-00002-of-00002.safetensors")
	}))
	defer elsewhere.Close()
	tamper(s, func(w http.ResponseWriter, r *http.Request, _ int) bool {
		http.Redirect(w, r, elsewhere.URL+"/blob?X-Signature=sesame", http.StatusFound)
		return true
	})
	mustPull(t, o)
	stored(t, o, s, defaultChoice...)
	if served != 1 || len(leaked) > 0 {
		t.Errorf("the other host was asked %d times, and got the token in %d headers", served, len(leaked))
	}
	for _, h := range s.Headers() {
		if h.Get("Authorization") != "Bearer hf_secret" {
			t.Errorf("the endpoint got the authorization %q", h.Get("Authorization"))
		}
	}
	elsewhere.Close()
	if _, err := Remove(context.Background(), testID); err != nil {
		t.Fatal(err)
	}
	if _, err := pull(t, o); err == nil || strings.Contains(err.Error(), "sesame") || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v; want an error without the token and the signature", err)
	}
}
