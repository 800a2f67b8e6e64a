package modelstore

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/troupe-engine/troupe/schemas"
)

// Remove deletes a pulled model and what is there of an unfinished pull of it, and returns the bytes that frees. It
// refuses folders that were put into the store by hand, and models that are being pulled.
func Remove(ctx context.Context, name string) (freed int64, err error) {
	ref, err := ParseRef(name)
	if err != nil {
		return 0, err
	}
	store := Dir()
	root, err := os.OpenRoot(store)
	if err != nil {
		return 0, notInStore(name)
	}
	defer root.Close()
	target, work := ref.ID, pullDir+"/"+ref.key()
	_, pulledErr := readManifest(root.FS(), target+"/"+manifestName)
	_, exists := root.Lstat(target)
	_, begun := root.Lstat(work)
	if exists == nil && errors.Is(pulledErr, fs.ErrNotExist) {
		return 0, schemas.Errorf(schemas.KindInvalid, "remove model", "%s was not pulled, so it is not removed", filepath.Join(store, filepath.FromSlash(target))).
			WithHint("delete the folder yourself if nothing else needs it")
	}
	if exists != nil && begun != nil {
		return 0, notInStore(name)
	}
	if busy, holder := locked(store, ref); busy {
		return 0, schemas.Errorf(schemas.KindUnavailable, "remove model", "process %s is pulling %s", holder, ref.ID).WithHint("stop it, or wait for its end")
	}
	unlock, err := lock(ctx, store, ref, nil)
	if err != nil {
		return 0, err
	}
	defer unlock()
	freed = treeBytes(root.FS(), target) + treeBytes(root.FS(), work)
	if err := remove(root, target, work, exists == nil); err != nil {
		return 0, storeError(err)
	}
	return freed, nil
}

// remove takes the model out of sight before it deletes it: half a model is never found.
func remove(root *os.Root, target, work string, exists bool) error {
	if err := root.RemoveAll(work); err != nil {
		return err
	}
	if exists {
		if err := root.MkdirAll(pullDir, 0o755); err != nil {
			return err
		}
		if err := root.Rename(target, work); err != nil {
			return err
		}
		if parent := path.Dir(target); parent != "." {
			_ = root.Remove(parent) // unless another model is in it
		}
	}
	return root.RemoveAll(work)
}

func notInStore(name string) error {
	return schemas.Errorf(schemas.KindNotFound, "remove model", "%q is not in the store", clip(name)).WithHint("`troupe models` lists the names")
}

// treeBytes is the size of all files beneath dir; what cannot be read counts nothing.
func treeBytes(files fs.FS, dir string) (total int64) {
	_ = fs.WalkDir(files, dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return fs.SkipDir
		}
		if info, err := d.Info(); err == nil && info.Mode().IsRegular() {
			total += info.Size()
		}
		return nil
	})
	return total
}
