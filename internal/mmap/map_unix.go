//go:build unix

package mmap

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapFile maps size bytes of file for reading. The mapping outlives the descriptor.
func mapFile(file *os.File, size int64) ([]byte, func() error, error) {
	if int64(int(size)) != size {
		return nil, nil, fmt.Errorf("%d bytes do not fit this machine's address space", size)
	}
	data, err := unix.Mmap(int(file.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, err
	}
	remember(data)
	return data, func() error {
		unremember(data)
		return unix.Munmap(data)
	}, nil
}

// forget drops the whole pages in part, which is of a shared mapping, from this process.
func forget(part []byte) {
	page := uintptr(os.Getpagesize())
	from := uintptr(unsafe.Pointer(&part[0]))
	skip := -from % page
	if uintptr(len(part)) < skip+page {
		return
	}
	part = part[skip:]
	_ = unix.Madvise(part[:uintptr(len(part))/page*page], unix.MADV_DONTNEED) // advice
}
