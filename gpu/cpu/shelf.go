package cpu

import (
	"cmp"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/troupe-engine/troupe/gpu"
)

// shelf is the directory that keeps files of packed weights, within a bound. Removing a file takes nothing from
// processes that have it mapped; they keep its blocks of the disk until they end.
type shelf struct {
	dir      string // "": there is none
	bytesMax int64  // 0: no bound
	opened   time.Time
}

// partAgeMax is how old a file that is not complete becomes before its maker counts as gone.
const partAgeMax = time.Hour

// openShelf makes the directory if it is not there.
func openShelf(dir string, bytesMax int64) (shelf, error) {
	s := shelf{dir, bytesMax, time.Now()}
	if dir == "" {
		return s, nil
	}
	if !panelsSupported {
		return s, fmt.Errorf("%w: cpu: Options.WeightsDir: packed weights are shared on Linux only; leave it empty", gpu.ErrNotSupported)
	}
	if bytesMax < 0 {
		return s, fmt.Errorf("cpu: Options.WeightsDirBytesMax is %d; use 0 for no bound", bytesMax)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return s, fmt.Errorf("cpu: Options.WeightsDir: %w", err)
	}
	return s, nil
}

// used says that the file at path is in use. Where another user owns it, its age stays what it is.
func (s *shelf) used(path string) {
	now := time.Now()
	_ = os.Chtimes(path, now, now)
}

// makeRoom removes files, the one that was used longest ago first, until there is room for so many bytes more. What
// was used since this device is open stays, so a model that is larger than the bound is kept whole while it loads. Files
// that cannot be looked at or removed are another's, or gone: nothing depends on it.
func (s *shelf) makeRoom(bytes int64) {
	if s.bytesMax == 0 {
		return
	}
	entries, _ := os.ReadDir(s.dir)
	var files []fs.FileInfo
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		switch filepath.Ext(e.Name()) {
		case panelsExtension:
			files = append(files, info)
			bytes += info.Size()
		case partExtension:
			if time.Since(info.ModTime()) > partAgeMax {
				_ = os.Remove(filepath.Join(s.dir, e.Name()))
			}
		}
	}
	slices.SortFunc(files, func(a, b fs.FileInfo) int {
		return cmp.Or(a.ModTime().Compare(b.ModTime()), cmp.Compare(a.Name(), b.Name()))
	})
	for _, f := range files {
		if bytes <= s.bytesMax || !f.ModTime().Before(s.opened) {
			return
		}
		if os.Remove(filepath.Join(s.dir, f.Name())) == nil {
			bytes -= f.Size()
		}
	}
}
