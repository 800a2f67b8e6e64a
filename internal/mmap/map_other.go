//go:build !unix

package mmap

import (
	"io"
	"os"
)

// mapFile reads the file whole where memory-mapping is not portable.
func mapFile(file *os.File, size int64) ([]byte, func() error, error) {
	data := make([]byte, size)
	if _, err := io.ReadFull(file, data); err != nil {
		return nil, nil, err
	}
	return data, func() error { return nil }, nil
}

// forget has nothing to do: nothing is mapped.
func forget([]byte) {}
