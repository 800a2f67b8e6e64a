package modelstore

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/internal/modelstore/hub"
	"github.com/troupe-engine/troupe/schemas"
)

// makePlan asks the server what there is to pull. All names, sizes and digests in the plan are checked.
func makePlan(ctx context.Context, client *hub.Client, ref Ref, o PullOptions) (*Manifest, error) {
	commit, err := client.Commit(ctx, ref.ID, ref.Revision)
	if err != nil {
		return nil, err
	}
	entries, err := client.Tree(ctx, ref.ID, commit)
	if err != nil {
		return nil, err
	}
	entries, err = choose(ref.ID, entries, o.Include, o.Exclude)
	if err != nil {
		return nil, err
	}
	plan := &Manifest{Format: manifestFormat, Name: ref.ID, Endpoint: client.Endpoint(), Revision: ref.Revision, Commit: commit, Pulled: time.Now().UTC().Truncate(time.Second)}
	for _, e := range entries {
		f, err := planFile(ctx, client, ref, commit, e)
		if err != nil {
			return nil, err
		}
		plan.Files = append(plan.Files, f)
	}
	slices.SortFunc(plan.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	if err := checkPaths(plan.Files); err != nil {
		return nil, err
	}
	if total := plan.Bytes(); total > fileBytesMax {
		return nil, tooLarge(ref.ID, total)
	}
	return plan, nil
}

// planFile checks what the server says of one file, and asks for what it did not say.
func planFile(ctx context.Context, client *hub.Client, ref Ref, commit string, e hub.Entry) (File, error) {
	if e.Type != "file" {
		return File{}, schemas.Errorf(schemas.KindUnsupported, "pull", "%q is a %q, only files are pulled", clip(e.Path), clip(e.Type)).
			WithHint("leave it out with --exclude")
	}
	f := File{Path: e.Path, Size: e.Size}
	if e.LFS != nil {
		f.Size, f.Digest = e.LFS.Size, digestOf(e.LFS.OID)
	} else if len(e.OID) == gitSHA1Digits { // in a SHA-256 repository of git, it would be something else
		f.Digest = digestOf(e.OID)
	}
	if f.Digest == "" {
		size, hash, err := client.Head(ctx, ref.ID, commit, e.Path)
		if err != nil {
			return File{}, err
		}
		if f.Digest = digestOf(hash); f.Digest == "" {
			return File{}, schemas.Errorf(schemas.KindUnsupported, "pull", "%q: the server gives no checksum, so it cannot be checked", clip(e.Path)).
				WithHint("use an endpoint that gives lfs.oid, oid or X-Linked-Etag, or leave the file out with --exclude")
		}
		if size >= 0 {
			f.Size = size
		}
	}
	if f.Size < 0 {
		return File{}, schemas.Errorf(schemas.KindInvalid, "pull", "%q: the server says its size is %d bytes", clip(e.Path), f.Size).
			WithHint("check --endpoint; leave the file out with --exclude if it is not needed")
	}
	if f.Size > fileBytesMax {
		return File{}, tooLarge(clip(e.Path), f.Size)
	}
	return f, nil
}

func tooLarge(what string, bytes int64) error {
	return schemas.Errorf(schemas.KindTooLarge, "pull", "%q: the server says it has %d bytes, the limit is %d", what, bytes, int64(fileBytesMax)).
		WithHint("check --endpoint; leave files out with --exclude")
}
