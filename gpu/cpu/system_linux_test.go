package cpu

import (
	"os"
	"path/filepath"
	"testing"
)

func write(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestMeminfo(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "meminfo"), "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable: 600 kB\nJunk\nOdd: x kB\n")
	if total, free := meminfo(file); total != 1000<<10 || free != 600<<10 {
		t.Errorf("%d %d", total, free)
	}
	if total, free := meminfo(file + ".missing"); total != 0 || free != 0 {
		t.Errorf("%d %d without a file", total, free)
	}
}

// The tightest limit among a group and its ancestors counts, with that group's usage.
func TestCgroupMemory(t *testing.T) {
	root := t.TempDir()
	self := write(t, filepath.Join(root, "self"), "1:name=x:/other\n0::/a/b\n")
	if _, _, ok := cgroupMemory(self, root); ok {
		t.Error("a limit where none is set")
	}
	write(t, filepath.Join(root, "a/b/memory.max"), "max\n")
	write(t, filepath.Join(root, "a/memory.max"), "5000\n")
	write(t, filepath.Join(root, "a/memory.current"), "1200\n")
	write(t, filepath.Join(root, "memory.max"), "9000\n")
	write(t, filepath.Join(root, "memory.current"), "8000\n")
	limit, used, ok := cgroupMemory(self, root)
	if !ok || limit != 5000 || used != 1200 {
		t.Errorf("%d %d %v, want 5000 1200", limit, used, ok)
	}
	if total, free := systemMemory(); total <= 0 || free <= 0 || free > total {
		t.Errorf("systemMemory() = %d, %d", total, free)
	}
}
