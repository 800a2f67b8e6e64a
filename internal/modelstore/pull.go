package modelstore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/troupe-engine/troupe/internal/modelstore/hub"
	"github.com/troupe-engine/troupe/schemas"
)

// Limits and defaults of a pull.
const (
	WorkersDefault = 4
	WorkersMax     = 32
	notifyTime     = 200 * time.Millisecond // between two EventProgress
)

// PullOptions say what to pull from where. Zero values are the defaults.
type PullOptions struct {
	Store    string   // Dir()
	Include  []string // patterns that replace the default choice of files
	Exclude  []string // patterns of files to leave out
	Workers  int      // files at once; WorkersDefault
	Hub      hub.Options
	Notify   func(Event) // hears of progress, one call at a time; may be nil
	freeDisk func(dir string) (int64, error)
}

// EventKind says what happened.
type EventKind int

// Events of a pull.
const (
	EventProgress EventKind = iota // time passed
	EventFile                      // File is complete and checked
	EventRetry                     // File, or looking up what there is, failed with Err and is tried again after Wait
	EventLocked                    // process Holder pulls the same model; this pull waits for it
)

// Event tells how a pull goes.
type Event struct {
	Kind   EventKind
	Stats  Stats
	File   File
	Err    error
	Wait   time.Duration
	Holder string
}

// Stats count a pull's files and bytes.
type Stats struct {
	Files, FilesDone int
	Bytes            int64 // of all files
	BytesDone        int64 // in the store, old or new; becomes less when bytes turn out wrong
	BytesReceived    int64 // from the server
}

// Result is what a pull has put into the store.
type Result struct {
	Name          string `json:"name"`
	Revision      string `json:"revision"`
	Commit        string `json:"commit"`
	Path          string `json:"path"`
	Files         int    `json:"files"`
	Bytes         int64  `json:"bytes"`
	BytesReceived int64  `json:"bytes_received"`
	UpToDate      bool   `json:"up_to_date"` // everything was there already
}

// puller is one pull. Its paths are relative to root, the store, and cannot leave it.
type puller struct {
	o      PullOptions
	ref    Ref
	client *hub.Client
	root   *os.Root
	work   string            // .pull/<key>
	target string            // where the model appears
	plan   *Manifest         // what shall be there
	old    *Manifest         // what is there; nil if nothing is
	have   map[Digest]string // old's files by content

	notify                         sync.Mutex
	filesDone, bytesDone, received atomic.Int64
	fetched                        atomic.Bool // some file was not in the target
	filesDir, partsDir, oldDir     string
}

// Pull makes the store's copy of a model the server's: it downloads what is missing or damaged, checks every
// file's checksum, and only then puts the model in its place. Interrupted, it goes on where it was. It waits for
// another pull of the same model. Errors are *schemas.Error and name the file.
func Pull(ctx context.Context, ref Ref, o PullOptions) (*Result, error) {
	p, err := newPuller(ref, o)
	if err != nil {
		return nil, err
	}
	defer p.client.Close()
	defer p.root.Close()
	unlock, err := lock(ctx, p.o.Store, p.ref, func(holder string) { p.tell(Event{Kind: EventLocked, Holder: holder}) })
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := p.inspect(); err != nil {
		return nil, err
	}
	if p.plan, err = makePlan(ctx, p.client, p.ref, p.o); err != nil {
		return nil, err
	}
	if err := p.prepare(); err != nil {
		return nil, err
	}
	if err := p.fetchAll(ctx); err != nil {
		return nil, err
	}
	upToDate := p.old != nil && !p.fetched.Load() && p.old.Commit == p.plan.Commit && slices.Equal(p.old.Files, p.plan.Files)
	if upToDate {
		err = p.root.RemoveAll(p.work)
	} else {
		err = p.publish()
	}
	if err != nil {
		return nil, schemas.AsError(err, "pull")
	}
	return &Result{Name: ref.ID, Revision: p.plan.Revision, Commit: p.plan.Commit, Path: filepath.Join(p.o.Store, filepath.FromSlash(p.target)),
		Files: len(p.plan.Files), Bytes: p.plan.Bytes(), BytesReceived: p.received.Load(), UpToDate: upToDate}, nil
}

func newPuller(ref Ref, o PullOptions) (*puller, error) {
	if ref.Revision == "" {
		ref.Revision = "main"
	}
	if o.Store == "" {
		o.Store = Dir()
	}
	if o.Store == "" {
		return nil, schemas.Errorf(schemas.KindInvalid, "pull", "there is no folder for models").WithHint("name one with TROUPE_MODELS")
	}
	if o.Workers == 0 {
		o.Workers = WorkersDefault
	}
	if o.Workers < 1 || o.Workers > WorkersMax {
		return nil, schemas.Errorf(schemas.KindInvalid, "pull", "workers is %d; it must be 1 to %d", o.Workers, WorkersMax).WithParam("workers")
	}
	if o.freeDisk == nil {
		o.freeDisk = freeBytes
	}
	if err := errors.Join(checkGlobs("include", o.Include), checkGlobs("exclude", o.Exclude)); err != nil {
		return nil, err
	}
	var p *puller
	o.Hub.Note = func(err error, wait time.Duration) { p.tell(Event{Kind: EventRetry, Err: err, Wait: wait}) }
	client, err := hub.New(o.Hub)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Store, 0o755); err != nil {
		return nil, storeError(err)
	}
	root, err := os.OpenRoot(o.Store)
	if err != nil {
		return nil, storeError(err)
	}
	work := pullDir + "/" + ref.key()
	p = &puller{o: o, ref: ref, client: client, root: root, work: work, target: ref.ID, have: map[Digest]string{},
		filesDir: work + "/files", partsDir: work + "/parts", oldDir: work + "/old"}
	return p, nil
}

// inspect looks at what has the model's name already, and mends what a crash left.
func (p *puller) inspect() error {
	if parent := path.Dir(p.target); parent != "." {
		for _, name := range []string{manifestName, "config.json"} {
			if _, err := p.root.Lstat(parent + "/" + name); err == nil {
				return occupied(p.target, filepath.Join(p.o.Store, parent)+" is a model itself")
			}
		}
	}
	_, err := p.root.Lstat(p.target)
	if _, oldErr := p.root.Lstat(p.oldDir); oldErr == nil {
		if err != nil { // stopped between the two renames of publish
			err = p.root.Rename(p.oldDir, p.target)
		} else if removeErr := p.root.RemoveAll(p.oldDir); removeErr != nil {
			return storeError(removeErr)
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return storeError(err)
	}
	where := filepath.Join(p.o.Store, filepath.FromSlash(p.target))
	switch m, err := readManifest(p.root.FS(), p.target+"/"+manifestName); {
	case errors.Is(err, fs.ErrNotExist):
		return occupied(p.target, where+" was put there by other means")
	case err != nil:
		return occupied(p.target, where+" is damaged: "+err.Error())
	case m.Name != p.ref.ID:
		return occupied(p.target, where+" holds "+clip(m.Name))
	default:
		p.old = m
		for _, f := range m.Files {
			p.have[f.Digest] = f.Path
		}
		return nil
	}
}

func occupied(target, why string) error {
	return schemas.Errorf(schemas.KindInvalid, "pull", "%s cannot be stored: %s", target, why).
		WithHint("move or delete that folder, or name another store with TROUPE_MODELS")
}

// prepare makes the folder to work in and checks that the disk has room.
func (p *puller) prepare() error {
	for _, dir := range []string{p.filesDir, p.partsDir} {
		if err := p.root.MkdirAll(dir, 0o755); err != nil {
			return storeError(err)
		}
	}
	if err := p.plan.write(p.root, p.work+"/plan.json"); err != nil {
		return storeError(err)
	}
	if err := p.removeStrays(); err != nil {
		return storeError(err)
	}
	missing := int64(0)
	for _, f := range p.plan.Files {
		missing += p.missing(f)
	}
	free, err := p.o.freeDisk(p.o.Store)
	if err != nil {
		return storeError(err)
	}
	if missing > free {
		return schemas.Errorf(schemas.KindTooLarge, "pull", "%s needs %s more (%s in all), but %s has %s free",
			p.ref.ID, sizes(missing), sizes(p.plan.Bytes()), p.o.Store, sizes(free)).
			WithHint("free %s, name a folder on another disk with TROUPE_MODELS, or leave files out with --exclude", sizes(missing-free))
	}
	return nil
}

// missing is how many of a file's bytes must come from the server, judged by sizes alone.
func (p *puller) missing(f File) int64 {
	candidates := []string{p.filesDir + "/" + f.Path}
	if at, ok := p.have[f.Digest]; ok {
		candidates = append(candidates, p.target+"/"+at)
	}
	for _, name := range candidates {
		if info, err := p.root.Lstat(name); err == nil && info.Mode().IsRegular() && info.Size() == f.Size {
			return 0
		}
	}
	if info, err := p.root.Lstat(p.partName(f)); err == nil && info.Size() <= f.Size {
		return f.Size - info.Size()
	}
	return f.Size
}

// fetchAll obtains all files, some at once. The first failure stops the others, which keep what they have.
func (p *puller) fetchAll(ctx context.Context) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	queue := make(chan File)
	var workers sync.WaitGroup
	for range min(p.o.Workers, len(p.plan.Files)) {
		workers.Go(func() {
			for f := range queue {
				if err := p.obtain(ctx, f); err != nil {
					fail(err)
					return
				}
				p.filesDone.Add(1)
				p.tell(Event{Kind: EventFile, File: f})
			}
		})
	}
	ticking := make(chan struct{})
	var ticker sync.WaitGroup
	ticker.Go(func() { p.tick(ticking) })
feed:
	for _, f := range p.plan.Files {
		select {
		case queue <- f:
		case <-ctx.Done():
			break feed
		}
	}
	close(queue)
	workers.Wait()
	close(ticking)
	ticker.Wait()
	if ctx.Err() == nil {
		return nil
	}
	err := schemas.AsError(context.Cause(ctx), "pull")
	if err.Kind == schemas.KindCanceled {
		return schemas.Errorf(schemas.KindCanceled, "pull", "%s: stopped at %s of %s", p.ref.ID, sizes(p.bytesDone.Load()), sizes(p.plan.Bytes())).
			WithHint("the same command goes on from there")
	}
	return err
}

// tick tells of progress until done is closed.
func (p *puller) tick(done <-chan struct{}) {
	t := time.NewTicker(notifyTime)
	defer t.Stop()
	for {
		p.tell(Event{Kind: EventProgress})
		select {
		case <-done:
			return
		case <-t.C:
		}
	}
}

func (p *puller) tell(e Event) {
	if p.o.Notify == nil {
		return
	}
	p.notify.Lock()
	defer p.notify.Unlock()
	e.Stats = Stats{FilesDone: int(p.filesDone.Load()), BytesDone: p.bytesDone.Load(), BytesReceived: p.received.Load()}
	if p.plan != nil {
		e.Stats.Files, e.Stats.Bytes = len(p.plan.Files), p.plan.Bytes()
	}
	p.o.Notify(e)
}
