// Package hubtest is a server that looks like the Hugging Face Hub to a client, for tests. It can be told to
// misbehave.
package hubtest

import (
	"bytes"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Commit is what every revision resolves to until Server.Commit is changed.
const Commit = "0123456789abcdef0123456789abcdef01234567"

// Entry is one line of the tree that the server lists.
type Entry struct {
	Type string `json:"type"`
	Path string `json:"path"`
	Size any    `json:"size"`
	OID  string `json:"oid,omitempty"`
	LFS  *LFS   `json:"lfs,omitempty"`
}

// LFS is the part of an entry that files in large file storage have.
type LFS struct {
	OID         string `json:"oid"`
	Size        int64  `json:"size"`
	PointerSize int64  `json:"pointerSize"`
}

// Server serves one model. Change its fields before requests come, or from Intercept.
type Server struct {
	*httptest.Server
	ID       string
	Commit   string
	Files    map[string][]byte
	PageSize int     // entries in a page of the tree; 0 is all
	Extra    []Entry // listed besides Files
	// Intercept, if it returns true, has answered. path is that of a file, or "revision" or "tree"; n counts the
	// requests for it from 1.
	Intercept func(w http.ResponseWriter, r *http.Request, path string, n int) bool
	// Listed changes an entry before it is sent.
	Listed func(*Entry)
	// Rate is how many bytes per second of one file are sent; 0 is no limit. It may be changed at any time.
	Rate atomic.Int64

	mu       sync.Mutex
	served   map[string]int64
	requests map[string]int
	headers  []http.Header
	active   int // requests that are being answered
}

// New starts a server with a model.
func New(id string, files map[string][]byte) *Server {
	s := &Server{ID: id, Commit: Commit, Files: files, served: map[string]int64{}, requests: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.handle))
	return s
}

// Served is how many bytes of a file's content went out; of all files if path is "".
func (s *Server) Served(path string) (total int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, n := range s.served {
		if path == "" || p == path {
			total += n
		}
	}
	return total
}

// Requests is how often a path was asked for.
func (s *Server) Requests(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[path]
}

// Headers are those of all requests.
func (s *Server) Headers() []http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.headers)
}

// Settle waits until all requests are answered, or their clients' absence is noticed.
func (s *Server) Settle() {
	for s.begin(0) > 0 {
		time.Sleep(5 * time.Millisecond)
	}
}

// begin changes the number of requests that are being answered, and returns it.
func (s *Server) begin(change int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active += change
	return s.active
}

func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	s.begin(1)
	defer s.begin(-1)
	path := r.URL.Path
	api := "/api/models/" + s.ID
	switch {
	case strings.HasPrefix(path, api+"/revision/"):
		path = "revision"
	case strings.HasPrefix(path, api+"/tree/"):
		path = "tree"
	default:
		path = strings.TrimPrefix(path, "/"+s.ID+"/resolve/"+s.Commit+"/")
	}
	s.mu.Lock()
	s.requests[path]++
	n := s.requests[path]
	s.headers = append(s.headers, r.Header.Clone())
	s.mu.Unlock()
	if s.Intercept != nil && s.Intercept(w, r, path, n) {
		return
	}
	switch path {
	case "revision":
		_ = json.NewEncoder(w).Encode(map[string]any{"id": s.ID, "sha": s.Commit})
	case "tree":
		s.tree(w, r)
	default:
		s.SendFile(w, r, path)
	}
}

// SendFile sends a file as an honest server does.
func (s *Server) SendFile(w http.ResponseWriter, r *http.Request, path string) {
	data, ok := s.Files[path]
	if !ok {
		w.Header().Set("X-Error-Code", "EntryNotFound")
		http.Error(w, "Entry not found", http.StatusNotFound)
		return
	}
	w.Header().Set("X-Repo-Commit", s.Commit)
	w.Header().Set("Content-Type", "application/octet-stream")
	if w.Header().Get("ETag") == "" {
		sum := sha256.Sum256(data)
		w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:])+`"`)
	}
	http.ServeContent(&counting{w, s, path, time.Now(), 0}, r, "", time.Time{}, bytes.NewReader(data))
}

// counting counts a file's bytes and holds them back to the rate.
type counting struct {
	http.ResponseWriter
	s     *Server
	path  string
	begun time.Time
	sent  int64
}

func (c *counting) Write(p []byte) (total int, err error) {
	for len(p) > 0 && err == nil {
		n := min(len(p), 4<<10)
		rate := c.s.Rate.Load()
		if rate > 0 {
			time.Sleep(time.Until(c.begun.Add(time.Duration(c.sent) * time.Second / time.Duration(rate))))
		}
		n, err = c.ResponseWriter.Write(p[:n])
		if f, ok := c.ResponseWriter.(http.Flusher); ok && rate > 0 {
			f.Flush()
		}
		c.s.mu.Lock()
		c.s.served[c.path] += int64(n)
		c.s.mu.Unlock()
		c.sent += int64(n)
		total, p = total+n, p[n:]
	}
	return total, err
}

func (s *Server) tree(w http.ResponseWriter, r *http.Request) {
	var names []string
	for name := range s.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	entries := slices.Clone(s.Extra)
	for _, name := range names {
		e := EntryOf(name, s.Files[name])
		if s.Listed != nil {
			s.Listed(&e)
		}
		entries = append(entries, e)
	}
	from := 0
	_, _ = fmt.Sscan(r.URL.Query().Get("cursor"), &from)
	to := len(entries)
	if s.PageSize > 0 && from+s.PageSize < to {
		to = from + s.PageSize
		w.Header().Set("Link", fmt.Sprintf(`<%s%s?recursive=true&cursor=%d>; rel="next"`, s.URL, r.URL.Path, to))
	}
	_ = json.NewEncoder(w).Encode(entries[from:to])
}

// EntryOf is the honest entry of a file: weights are in LFS, everything else is a git blob.
func EntryOf(path string, data []byte) Entry {
	blob := sha1.New()
	fmt.Fprintf(blob, "blob %d\x00", len(data))
	blob.Write(data)
	e := Entry{Type: "file", Path: path, Size: len(data), OID: hex.EncodeToString(blob.Sum(nil))}
	if strings.HasSuffix(path, ".safetensors") || strings.HasSuffix(path, ".gguf") {
		sum := sha256.Sum256(data)
		e.OID = strings.Repeat("ab", sha1.Size) // the pointer's, of no use to anybody
		e.LFS = &LFS{hex.EncodeToString(sum[:]), int64(len(data)), 130}
	}
	return e
}

// Tensors is a valid safetensors file with size bytes of data that depend on seed.
func Tensors(size int, seed uint32) []byte {
	header := fmt.Sprintf(`{"weight":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}`, size, size)
	for len(header)%8 != 0 {
		header += " "
	}
	data := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	data = append(data, header...)
	for x := seed | 1; len(data) < 8+len(header)+size; {
		x ^= x << 13 // xorshift32
		x ^= x >> 17
		x ^= x << 5
		data = append(data, byte(x))
	}
	return data
}

// Model is a small model: a config, a tokenizer, two shards of size bytes with their index, and files that an engine
// does not need.
func Model(size int) map[string][]byte {
	return map[string][]byte{
		"config.json":                      []byte(`{"model_type":"llama"}`),
		"tokenizer.json":                   []byte(`{"model":{"type":"BPE","vocab":{},"merges":[]}}`),
		"chat_template.jinja":              []byte(`{{ messages }}`),
		"model-00001-of-00002.safetensors": Tensors(size, 1),
		"model-00002-of-00002.safetensors": bytes.Replace(Tensors(size, 2), []byte("weight"), []byte("second"), 1),
		"model.safetensors.index.json":     []byte(`{"weight_map":{"weight":"model-00001-of-00002.safetensors","second":"model-00002-of-00002.safetensors"}}`),
		"README.md":                        []byte("# A model"),
		".gitattributes":                   []byte("*.safetensors filter=lfs"),
		"pytorch_model.bin":                []byte("pickle"),
		"pytorch_model.bin.index.json":     []byte("{}"),
		"consolidated.safetensors":         Tensors(64, 3),
		"original/params.json":             []byte("{}"),
		"model.Q4_K_M.gguf":                []byte("GGUF"),
	}
}
