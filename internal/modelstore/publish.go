package modelstore

import (
	"errors"
	"io/fs"
	"path"
	"path/filepath"
	"strings"

	"github.com/troupe-engine/troupe/internal/safetensors"
	"github.com/troupe-engine/troupe/schemas"
)

// publish puts the complete files in the model's place. At every moment there is the old model, none, or the new one.
func (p *puller) publish() error {
	for _, f := range p.plan.Files {
		if err := checkTensors(p.stagedFS(), f.Path); err != nil {
			return schemas.Errorf(schemas.KindInvalid, "pull", "%v", err).
				WithHint("the file is as the server has it, so the model itself is damaged; pull another revision, or leave it out with --exclude")
		}
	}
	if err := p.plan.write(p.root, p.filesDir+"/"+manifestName); err != nil {
		return storeError(err)
	}
	if err := p.syncStaged(); err != nil {
		return storeError(err)
	}
	if parent := path.Dir(p.target); parent != "." {
		if err := p.root.MkdirAll(parent, 0o755); err != nil {
			return storeError(err)
		}
	}
	if p.old != nil {
		if err := p.root.Rename(p.target, p.oldDir); err != nil {
			return storeError(err)
		}
	}
	if err := p.root.Rename(p.filesDir, p.target); err != nil {
		if p.old != nil {
			err = errors.Join(err, p.root.Rename(p.oldDir, p.target))
		}
		return storeError(err)
	}
	if err := syncDir(filepath.Join(p.o.Store, filepath.FromSlash(path.Dir(p.target)))); err != nil {
		return storeError(err)
	}
	if err := p.root.RemoveAll(p.work); err != nil {
		return storeError(err)
	}
	return nil
}

func (p *puller) stagedFS() fs.FS {
	sub, err := fs.Sub(p.root.FS(), p.filesDir)
	if err != nil {
		panic(err) // the name is ours, and valid
	}
	return sub
}

// removeStrays deletes files of a plan that is no more.
func (p *puller) removeStrays() error {
	wanted := map[string]bool{}
	for _, f := range p.plan.Files {
		wanted[p.filesDir+"/"+f.Path] = true
		wanted[p.partName(f)], wanted[p.partName(f)+".etag"] = true, true
	}
	var strays []string
	for _, dir := range []string{p.filesDir, p.partsDir} {
		err := fs.WalkDir(p.root.FS(), dir, func(name string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && !wanted[name] {
				strays = append(strays, name)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	for _, name := range strays {
		if err := p.root.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// syncStaged makes the names of the staged files durable.
func (p *puller) syncStaged() error {
	return fs.WalkDir(p.root.FS(), p.filesDir, func(name string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return syncDir(filepath.Join(p.o.Store, filepath.FromSlash(name)))
	})
}

// checkTensors opens a safetensors file, which checks all of its header; other files pass.
func checkTensors(files fs.FS, name string) error {
	if !strings.HasSuffix(name, ".safetensors") {
		return nil
	}
	f, err := safetensors.OpenFS(files, name)
	if err != nil {
		return err
	}
	return f.Close()
}
