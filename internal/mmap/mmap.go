// Package mmap reads a whole file of a file system by mapping it into memory where that is possible, so
// that opening a large checkpoint costs nothing and its pages come in when they are first read.
package mmap

import (
	"fmt"
	"io/fs"
	"os"
)

// Open returns the bytes of the file called name and how to release them. A file of the operating system
// is memory-mapped, read-only; any other (embedded, in memory, zipped) is read whole. The file must not be
// truncated before release: a mapped page that is gone faults.
func Open(fsys fs.FS, name string) (data []byte, release func() error, err error) {
	stat, err := fs.Stat(fsys, name) // before opening, which would hang on a named pipe
	if err != nil {
		return nil, nil, err
	}
	if !stat.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", name)
	}
	file, err := fsys.Open(name)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	if osFile, ok := file.(*os.File); ok && stat.Size() > 0 {
		data, unmap, err := mapFile(osFile, stat.Size())
		if err != nil {
			return nil, nil, fmt.Errorf("mapping %s: %w", name, err)
		}
		return data, unmap, nil
	}
	data, err = fs.ReadFile(fsys, name)
	if err != nil {
		return nil, nil, err
	}
	return data, func() error { return nil }, nil
}
