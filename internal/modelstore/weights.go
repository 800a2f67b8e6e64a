package modelstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// WeightsDigest tells the model's weights from others of the same name and size: the SHA-256 of their file, or, of several, of
// their list as sha256sum prints it. Digests that the manifest of a pull has are taken from it; others are computed, which
// takes about a second per gigabyte, and remembered with the file's size and time in the user's cache.
func (m *Model) WeightsDigest(ctx context.Context) (string, error) {
	folder, names, err := m.weights()
	if err != nil {
		return "", fmt.Errorf("weights of %s: %w", m.Name, err)
	}
	known := map[string]Digest{}
	if m.State == StatePulled {
		if manifest, err := readManifest(folder, manifestName); err == nil {
			for _, f := range manifest.Files {
				known[f.Path] = f.Digest
			}
		}
	}
	var list strings.Builder
	digest := ""
	for _, name := range names {
		if digest, err = m.fileDigest(ctx, folder, name, known[name]); err != nil {
			return "", fmt.Errorf("weights of %s: %s: %w", m.Name, name, err)
		}
		fmt.Fprintf(&list, "%s  %s\n", digest, name)
	}
	if len(names) > 1 {
		sum := sha256.Sum256([]byte(list.String()))
		digest = hex.EncodeToString(sum[:])
	}
	return prefixSHA256 + digest, nil
}

// weights are the files that hold the tensors, sorted.
func (m *Model) weights() (folder fs.FS, names []string, err error) {
	folder = m.Files
	switch info, statErr := os.Stat(m.Path); {
	case m.Path == embeddedPath:
	case statErr != nil:
		return nil, nil, statErr
	case !info.IsDir():
		return os.DirFS(filepath.Dir(m.Path)), []string{filepath.Base(m.Path)}, nil
	default: // the files themselves, not what stands for a GGUF file
		folder = os.DirFS(m.Path)
	}
	for _, pattern := range []string{"*.safetensors", "*.gguf"} {
		if names, err = fs.Glob(folder, pattern); err != nil || len(names) > 0 {
			slices.Sort(names)
			return folder, names, err
		}
	}
	return nil, nil, fs.ErrNotExist
}

// rememberedDigest is what the cache holds of a file.
type rememberedDigest struct {
	Path     string `json:"path"`
	Bytes    int64  `json:"bytes"`
	Modified int64  `json:"modified_unix_ns"`
	SHA256   string `json:"sha256"`
}

// fileDigest is the SHA-256 of a file in hexadecimal digits.
func (m *Model) fileDigest(ctx context.Context, folder fs.FS, name string, known Digest) (string, error) {
	if digits, is := strings.CutPrefix(string(known), prefixSHA256); is {
		return digits, nil
	}
	file, err := folder.Open(name)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	now := rememberedDigest{Path: filepath.Join(m.Path, name), Bytes: info.Size(), Modified: info.ModTime().UnixNano()}
	cached := ""
	if cache, err := os.UserCacheDir(); err == nil && m.Path != embeddedPath {
		sum := sha256.Sum256([]byte(now.Path))
		cached = filepath.Join(cache, "troupe", "digests", hex.EncodeToString(sum[:16])+".json")
	}
	var before rememberedDigest
	if body, err := os.ReadFile(cached); err == nil && json.Unmarshal(body, &before) == nil {
		if now.SHA256 = before.SHA256; now == before && digestOf(before.SHA256) != "" {
			return before.SHA256, nil
		}
	}
	h := sha256.New()
	if _, err := io.Copy(h, &readerUntil{ctx, file}); err != nil {
		return "", err
	}
	now.SHA256 = hex.EncodeToString(h.Sum(nil))
	if cached != "" { // what cannot be remembered is computed again
		if body, err := json.Marshal(now); err == nil && os.MkdirAll(filepath.Dir(cached), 0o700) == nil {
			_ = os.WriteFile(cached, body, 0o600)
		}
	}
	return now.SHA256, nil
}

// readerUntil fails once its context ends.
type readerUntil struct {
	ctx context.Context
	r   io.Reader
}

func (r *readerUntil) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}
