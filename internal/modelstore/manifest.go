package modelstore

import (
	"crypto/sha1" // what git names its blobs by
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"
)

// Limits on a manifest, which is a file anybody may have changed.
const (
	manifestBytesMax = 16 << 20
	manifestFormat   = 1
	fileBytesMax     = 1 << 44 // 16 TiB
)

// Manifest says what a pulled model consists of.
type Manifest struct {
	Format   int       `json:"format"`
	Name     string    `json:"name"`
	Endpoint string    `json:"endpoint"`
	Revision string    `json:"revision"` // as asked for
	Commit   string    `json:"commit"`   // what it was
	Pulled   time.Time `json:"pulled"`
	Files    []File    `json:"files"` // by path
}

// File is one file of a model.
type File struct {
	Path   string `json:"path"` // slashes, relative to the model's folder
	Size   int64  `json:"size"` // bytes
	Digest Digest `json:"digest"`
}

// Bytes is the size of all files.
func (m *Manifest) Bytes() (total int64) {
	for _, f := range m.Files {
		total += f.Size
	}
	return total
}

// Digest is a checksum: "sha256:" or "git-sha1:" and its hex digits. The second is git's name of a blob, the SHA-1 of
// "blob <size>\0" and the content, which is all the Hub says of files outside LFS.
type Digest string

const (
	prefixSHA256  = "sha256:"
	prefixGitSHA1 = "git-sha1:"
	gitSHA1Digits = 2 * sha1.Size
)

// digestOf is the digest with these hex digits, or "" if they are none.
func digestOf(digits string) Digest {
	digits = strings.ToLower(digits)
	if _, err := hex.DecodeString(digits); err != nil {
		return ""
	}
	switch len(digits) {
	case 2 * sha256.Size:
		return Digest(prefixSHA256 + digits)
	case gitSHA1Digits:
		return Digest(prefixGitSHA1 + digits)
	}
	return ""
}

func (d Digest) valid() bool {
	_, digits, _ := strings.Cut(string(d), ":")
	return d != "" && digestOf(digits) == d
}

// newHash is the state before a file's first byte.
func (d Digest) newHash(size int64) hash.Hash {
	if strings.HasPrefix(string(d), prefixSHA256) {
		return sha256.New()
	}
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", size)
	return h
}

// of is the digest of what h has read, in the form of d.
func (d Digest) of(h hash.Hash) Digest { return digestOf(hex.EncodeToString(h.Sum(nil))) }

// readManifest reads and checks the manifest called name in dir. A missing one is fs.ErrNotExist.
func readManifest(dir fs.FS, name string) (*Manifest, error) {
	if info, err := fs.Stat(dir, name); err != nil {
		return nil, err
	} else if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	file, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, manifestBytesMax+1))
	if err != nil {
		return nil, err
	}
	if len(data) > manifestBytesMax {
		return nil, fmt.Errorf("%s exceeds %d MiB", name, manifestBytesMax>>20)
	}
	m := &Manifest{}
	if err := json.Unmarshal(data, m); err != nil {
		return nil, fmt.Errorf("%s does not parse: %s", name, clip(err.Error()))
	}
	if m.Format != manifestFormat {
		return nil, fmt.Errorf("%s has format %d; this version reads %d", name, m.Format, manifestFormat)
	}
	for _, f := range m.Files {
		if checkListed(f.Path) != nil || checkPath(f.Path) != nil || f.Size < 0 || f.Size > fileBytesMax || !f.Digest.valid() {
			return nil, fmt.Errorf("%s: the entry of %q has an impossible path, size or digest", name, clip(f.Path))
		}
	}
	return m, nil
}

// write puts the manifest at name in dir, durably.
func (m *Manifest) write(dir *os.Root, name string) error {
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return writeDurably(dir, name, append(data, '\n'))
}

// writeDurably replaces a small file by one rename.
func writeDurably(dir *os.Root, name string, data []byte) error {
	file, err := dir.OpenFile(name+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = dir.Rename(name+".new", name)
	}
	return err
}
