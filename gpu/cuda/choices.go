package cuda

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
)

// choices remembers the algorithm of each bucket of shapes in a file beside the kernels: measuring
// takes milliseconds each, at the first step of a size. The file is of one GPU and library version.
type choices struct {
	path  string // "" keeps nothing
	known map[string]algorithm
}

// open reads the file of what the choices depend on.
func (c *choices) open(key string) {
	c.known = map[string]algorithm{}
	dir := cacheDir()
	if dir == "" {
		return
	}
	sum := sha256.Sum256([]byte(key))
	c.path = filepath.Join(dir, "gemm-"+hex.EncodeToString(sum[:8])+".json")
	if raw, ok := readChecked(c.path); ok {
		if json.Unmarshal(raw, &c.known) != nil {
			c.known = map[string]algorithm{} // written by another version: measure again
		}
	}
}

func choiceKey(s gemmShape) string {
	return fmt.Sprintf("%d %d %d %d %d %v %v", s.n, s.k, s.stride, s.tokens, s.out, s.f32, s.dtype)
}

func (c *choices) get(s gemmShape) (algorithm, bool) {
	a, ok := c.known[choiceKey(s)]
	return a, ok
}

// put remembers a choice. Failing to write costs a measurement next time, so it is no error.
func (c *choices) put(s gemmShape, a algorithm) {
	c.known[choiceKey(s)] = a
	raw, err := json.Marshal(c.known)
	if err == nil && c.path != "" {
		writeChecked(c.path, raw)
	}
}
