package modelstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/internal/modelstore/hub"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	bufferBytes      = 256 << 10
	progressBytesMin = 1 << 20 // getting this much further than ever before starts the count of failed tries anew
	etagBytesMax     = 1 << 10
)

// obtain puts one file into filesDir: from there, from the installed model, or from the server.
func (p *puller) obtain(ctx context.Context, f File) error {
	staged := p.filesDir + "/" + f.Path
	if p.holds(ctx, staged, f) {
		p.fetched.Store(true)
		return nil
	}
	if err := p.root.RemoveAll(staged); err != nil {
		return storeError(err)
	}
	if err := p.root.MkdirAll(path.Dir(staged), 0o755); err != nil {
		return storeError(err)
	}
	if at, ok := p.have[f.Digest]; ok {
		if installed := p.target + "/" + at; p.holds(ctx, installed, f) {
			if err := p.root.Link(installed, staged); err == nil {
				return nil
			}
			p.bytesDone.Add(-f.Size) // a file system without links: download it
		}
	}
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	p.fetched.Store(true)
	return p.download(ctx, f, staged)
}

// holds says whether name is the file f, which it reads; if so, its bytes count as done.
func (p *puller) holds(ctx context.Context, name string, f File) bool {
	if info, err := p.root.Lstat(name); err != nil || !info.Mode().IsRegular() || info.Size() != f.Size {
		return false
	}
	file, err := p.root.Open(name)
	if err != nil {
		return false
	}
	defer file.Close()
	h := f.Digest.newHash(f.Size)
	n, err := hashFrom(ctx, h, file, f.Size, func(n int64) { p.bytesDone.Add(n) })
	if err == nil && n == f.Size && f.Digest.of(h) == f.Digest {
		return true
	}
	p.bytesDone.Add(-n)
	return false
}

// hashFrom feeds at most limit bytes of r to h and tells of each buffer.
func hashFrom(ctx context.Context, h hash.Hash, r io.Reader, limit int64, tell func(int64)) (total int64, err error) {
	buffer := make([]byte, bufferBytes)
	for total < limit {
		if ctx.Err() != nil {
			return total, context.Cause(ctx)
		}
		n, err := r.Read(buffer[:min(int64(len(buffer)), limit-total)])
		h.Write(buffer[:n])
		total += int64(n)
		tell(int64(n))
		if err == io.EOF {
			break
		} else if err != nil {
			return total, err
		}
	}
	return total, nil
}

// partName is where a file grows. The name holds no part of the server's, and its digest, so that what was begun
// of another revision is never continued.
func (p *puller) partName(f File) string {
	sum := sha256.Sum256([]byte(f.Path + "\x00" + string(f.Digest)))
	return p.partsDir + "/" + hex.EncodeToString(sum[:16])
}

// transfer is a file on its way. It keeps its state from one try to the next.
type transfer struct {
	p        *puller
	f        File
	name     string // the part's
	file     *os.File
	hash     hash.Hash // of the n bytes in file
	n        int64
	furthest int64 // largest n so far
	etag     string
	wrong    bool // the whole file has had the wrong checksum once
}

// download gets a file from the server, going on where an earlier run stopped.
func (p *puller) download(ctx context.Context, f File, staged string) error {
	t := &transfer{p: p, f: f, name: p.partName(f), hash: f.Digest.newHash(f.Size)}
	file, err := p.root.OpenFile(t.name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return storeError(err)
	}
	t.file = file
	defer file.Close()
	if err := t.load(ctx); err != nil {
		return err
	}
	note := func(err error, wait time.Duration) { p.tell(Event{Kind: EventRetry, File: f, Err: err, Wait: wait}) }
	if err := p.client.Do(ctx, note, func() (bool, error) { return t.attempt(ctx) }); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return storeError(err)
	}
	if err := p.root.Rename(t.name, staged); err != nil {
		return storeError(err)
	}
	if err := p.root.Remove(t.name + ".etag"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return storeError(err)
	}
	return nil
}

// load takes over what an earlier run left.
func (t *transfer) load(ctx context.Context) error {
	info, err := t.file.Stat()
	if err != nil {
		return storeError(err)
	}
	if info.Size() > t.f.Size {
		return t.restart()
	}
	t.n, err = hashFrom(ctx, t.hash, t.file, info.Size(), func(n int64) { t.p.bytesDone.Add(n) })
	if err != nil {
		return storeError(err)
	}
	t.furthest = t.n
	if file, err := t.p.root.Open(t.name + ".etag"); err == nil {
		defer file.Close()
		etag, err := io.ReadAll(io.LimitReader(file, etagBytesMax+1))
		if err == nil && usableETag(string(etag)) {
			t.etag = string(etag)
		}
	}
	return nil
}

// restart forgets what there is.
func (t *transfer) restart() error {
	t.p.bytesDone.Add(-t.n)
	t.n, t.hash = 0, t.f.Digest.newHash(t.f.Size)
	if err := t.file.Truncate(0); err != nil {
		return storeError(err)
	}
	return nil
}

// attempt gets as far as one connection carries. It says whether that is further than ever.
func (t *transfer) attempt(ctx context.Context) (progress bool, err error) {
	if t.n < t.f.Size {
		if err = t.receive(ctx); t.n >= t.furthest+progressBytesMin {
			progress = true
		}
		t.furthest = max(t.furthest, t.n)
		if err != nil {
			return progress, err
		}
	}
	found := t.f.Digest.of(t.hash)
	if found == t.f.Digest {
		return true, nil
	}
	if err := t.restart(); err != nil {
		return false, err
	}
	wrong := schemas.Errorf(schemas.KindUnavailable, "pull", "%q has the wrong content: expected %s, found %s", clip(t.f.Path), t.f.Digest, found).
		WithHint("the server or a proxy on the way sends other bytes; try again later, or check --endpoint")
	if t.wrong {
		return false, wrong
	}
	t.wrong = true // the first part may be to blame; once more, from the beginning
	return false, hub.Transient(wrong)
}

// receive asks for the rest of the file and writes what comes.
func (t *transfer) receive(ctx context.Context) error {
	body, err := t.p.client.Open(ctx, t.p.ref.ID, t.p.plan.Commit, t.f.Path, t.n, t.f.Size, t.etag)
	if errors.Is(err, hub.ErrRestart) {
		t.etag = ""
		if err := t.restart(); err != nil {
			return err
		}
		return hub.Transient(schemas.Errorf(schemas.KindUnavailable, "pull", "%q cannot be continued: the server has another file now, or another length", clip(t.f.Path)).
			WithHint("try again; if it persists, check --endpoint"))
	}
	if err != nil {
		return err
	}
	defer body.Close()
	if body.Offset != t.n { // the server sends all of it
		if err := t.restart(); err != nil {
			return err
		}
	}
	if err := t.remember(body.ETag); err != nil {
		return err
	}
	return t.write(body)
}

// write appends what body has, up to the file's size. What comes after that is not wanted: the checksum decides.
func (t *transfer) write(body *hub.Body) error {
	buffer := make([]byte, bufferBytes)
	for t.n < t.f.Size {
		n, err := body.Read(buffer[:min(int64(len(buffer)), t.f.Size-t.n)])
		if n > 0 {
			if _, err := t.file.WriteAt(buffer[:n], t.n); err != nil {
				return storeError(err)
			}
			t.hash.Write(buffer[:n])
			t.n += int64(n)
			t.p.bytesDone.Add(int64(n))
			t.p.received.Add(int64(n))
		}
		if err == io.EOF && t.n < t.f.Size {
			return hub.Transient(schemas.Errorf(schemas.KindUnavailable, "pull", "%q ends after %d of %d bytes", clip(t.f.Path), t.n, t.f.Size).
				WithHint("try again; what was downloaded is kept"))
		} else if err != nil && err != io.EOF {
			return err
		}
	}
	return nil
}

// remember keeps the ETag that the part's bytes came with, for the next run.
func (t *transfer) remember(etag string) error {
	if etag == t.etag || !usableETag(etag) {
		return nil
	}
	t.etag = etag
	if err := writeDurably(t.p.root, t.name+".etag", []byte(etag)); err != nil {
		return storeError(err)
	}
	return nil
}

// usableETag says whether a tag can be sent back in a header.
func usableETag(s string) bool {
	return s != "" && len(s) <= etagBytesMax && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// sizes writes bytes for people.
func sizes(n int64) string {
	if n < 1<<10 {
		return fmt.Sprintf("%d B", n)
	}
	value, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB"}
	for value >= 1<<10 && len(units) > 1 {
		value, units = value/(1<<10), units[1:]
	}
	return fmt.Sprintf("%.1f %s", value, units[0])
}
