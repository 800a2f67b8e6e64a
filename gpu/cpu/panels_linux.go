package cpu

import (
	"os"

	"golang.org/x/sys/unix"
)

const panelsSupported = true

// mapNewFile gives an empty file its size, and blocks of the disk so that writing to the memory cannot fail for want of
// them, and maps it.
func mapNewFile(file *os.File, size int) ([]byte, error) {
	if err := unix.Fallocate(int(file.Fd()), 0, 0, int64(size)); err != nil {
		return nil, err
	}
	return unix.Mmap(int(file.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
}

// mapFile maps a file to be read. Large pages are advice that few file systems follow.
func mapFile(file *os.File, size int) ([]byte, error) {
	raw, err := unix.Mmap(int(file.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err == nil {
		adviseHuge(raw)
	}
	return raw, err
}

// protect makes a mapping read-only.
func protect(raw []byte) error { return unix.Mprotect(raw, unix.PROT_READ) }
