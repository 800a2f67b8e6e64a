package cpu

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/gpu"
)

// TestShelfMakesRoom: beyond the bound, the file that was used longest ago goes, and with it what an interrupted process
// left; what is in use, and what is no file of packed weights, stays.
func TestShelfMakesRoom(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, size int, age time.Duration) string {
		path, at := filepath.Join(dir, name), time.Now().Add(-age)
		if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const n, k = 1024, 1024
	size := panelsHeader + n*k/32*34
	put("oldest"+panelsExtension, size, 3*time.Hour)
	revived := put("old"+panelsExtension, size, 2*time.Hour)
	put("recent"+panelsExtension, size, time.Hour)
	put("notes.txt", size, 9*time.Hour)
	put(".1"+partExtension, size, 2*partAgeMax)
	put(".2"+partExtension, size, 0)

	d := open(t, Options{Threads: 1, WeightsDir: dir, WeightsDirBytesMax: int64(2*size + size/2)})
	d.shelf.used(revived)
	names := func() (list []string) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if len(e.Name()) < 64 { // others are packed matrices
				list = append(list, e.Name())
			}
		}
		return list
	}
	pack := func(seed uint64) gpu.Tensor {
		w, err := d.PackMatrix("w", gpu.Q8_0, n, k, randomBlocks(rand.New(rand.NewPCG(seed, 1)), gpu.Q8_0, n, k))
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	first := pack(1)
	if got, want := names(), []string{".2" + partExtension, "notes.txt", "old" + panelsExtension}; !slices.Equal(got, want) {
		t.Errorf("the directory holds %q, want %q", got, want)
	}
	second, third := pack(2), pack(3) // larger than the bound, and in use
	if files, _ := filepath.Glob(filepath.Join(dir, "*"+panelsExtension)); len(files) != 4 {
		t.Errorf("%q: files in use are gone", files)
	}
	for _, w := range []gpu.Tensor{first, second, third} {
		d.Free(w)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	d = open(t, Options{Threads: 1, WeightsDir: dir, WeightsDirBytesMax: int64(size)})
	d.Free(pack(4))
	if files, _ := filepath.Glob(filepath.Join(dir, "*"+panelsExtension)); len(files) != 1 {
		t.Errorf("%q: one file has room", files)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Options{WeightsDir: dir, WeightsDirBytesMax: -1}); err == nil {
		t.Error("a negative bound is accepted")
	}
}
