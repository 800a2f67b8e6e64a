package modelstore

import (
	"fmt"
	"io/fs"
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"

	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/schemas"
)

// Limits on names, in bytes. A path's element and its length are what common file systems take.
const (
	idBytesMax       = 96 // as the Hub has it
	revisionBytesMax = 250
	elementBytesMax  = 255
	pathBytesMax     = 1024
)

const manifestName = ".troupe-manifest.json"

// Ref names a model on a server.
type Ref struct {
	ID       string // org/name, or name
	Revision string // a branch, tag or commit; "" is the default branch
}

// ParseRef reads org/name[@revision], by the rules of the Hub for names.
func ParseRef(s string) (Ref, error) {
	id, revision, pinned := strings.Cut(s, "@")
	invalid := func(format string, args ...any) error {
		return schemas.Errorf(schemas.KindInvalid, "model name", "%q cannot be in the store: %s", clip(s), fmt.Sprintf(format, args...)).
			WithParam("model").WithHint("a name is org/name or org/name@revision, as on the model's page")
	}
	if id == defaultmodel.Name {
		return Ref{}, invalid("it is in the binary")
	}
	parts := strings.Split(id, "/")
	if len(parts) > 2 || len(id) > idBytesMax {
		return Ref{}, invalid("a name has one or two parts and at most %d characters", idBytesMax)
	}
	for _, p := range parts {
		if err := checkIDPart(p); err != nil {
			return Ref{}, invalid("%v", err)
		}
	}
	if pinned && (revision == "" || len(revision) > revisionBytesMax || strings.ContainsFunc(revision, unicode.IsControl) || strings.Contains(revision, "..")) {
		return Ref{}, invalid("what follows the @ is no revision")
	}
	return Ref{id, revision}, nil
}

func checkIDPart(p string) error {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	switch {
	case p == "":
		return fmt.Errorf("a part of it is empty")
	case strings.Trim(p, allowed) != "" || strings.Trim(p, "-.") != p || strings.Contains(p, "--") || strings.Contains(p, ".."):
		return fmt.Errorf("%q is not made of letters, digits, - _ and ., beginning and ending with none of - and .", clip(p))
	}
	return nil
}

// key is a ref's folder name beside other refs'. It is unique: no part holds "--" or ends in "-".
func (r Ref) key() string { return strings.ReplaceAll(r.ID, "/", "--") }

// checkListed refuses what no honest list of files holds, selected or not.
func checkListed(path string) error {
	if !fs.ValidPath(path) || path == "." || strings.ContainsFunc(path, unicode.IsControl) || len(path) > 16*pathBytesMax {
		return hostile(path, "it is not a plain relative path")
	}
	return nil
}

// checkPaths refuses files that cannot be stored side by side on every file system. Paths have passed checkListed.
func checkPaths(files []File) error {
	taken := map[string]string{} // folded path, of a file or a folder, to the path itself
	folder := map[string]bool{}
	fold := cases.Fold()
	for _, f := range files {
		if err := checkPath(f.Path); err != nil {
			return err
		}
		for i, r := range f.Path + "/" {
			if r != '/' {
				continue
			}
			part := f.Path[:i]
			key := fold.String(norm.NFKC.String(part))
			isFolder := i < len(f.Path)
			other, seen := taken[key]
			if seen && (other != part || !isFolder || !folder[key]) {
				return hostile(f.Path, fmt.Sprintf("it and %q are one name on some file systems; leave one out with --exclude", clip(other)))
			}
			taken[key], folder[key] = part, isFolder
		}
	}
	return nil
}

// checkPath refuses paths that some file system does not take, or that are the store's own.
func checkPath(path string) error {
	if len(path) > pathBytesMax {
		return hostile(path, fmt.Sprintf("it has %d bytes, the limit is %d; leave it out with --exclude", len(path), pathBytesMax))
	}
	for _, e := range strings.Split(path, "/") {
		if len(e) > elementBytesMax || strings.ContainsAny(e, "\\:") {
			return hostile(path, fmt.Sprintf("an element of it is longer than %d bytes or holds a backslash or colon; leave it out with --exclude", elementBytesMax))
		}
	}
	if strings.EqualFold(path, manifestName) {
		return hostile(path, "the store keeps its manifest there; leave it out with --exclude")
	}
	return nil
}

func hostile(path, why string) error {
	return schemas.Errorf(schemas.KindInvalid, "pull", "the server lists a file %q that is not stored: %s", clip(path), why).
		WithHint("check the model's name and --endpoint; nothing was written under that name")
}

// clip shortens foreign text for a message.
func clip(s string) string {
	const runesMax = 120
	if r := []rune(s); len(r) > runesMax {
		return string(r[:runesMax]) + "…"
	}
	return s
}
