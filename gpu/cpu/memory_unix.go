//go:build linux || darwin

package cpu

import "golang.org/x/sys/unix"

func mapMemory(bytes int) ([]byte, error) {
	raw, err := unix.Mmap(-1, 0, bytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil, err
	}
	adviseHuge(raw)
	return raw, nil
}

func unmap(raw []byte) {
	if err := unix.Munmap(raw); err != nil {
		panic("cpu: unmap of memory that was not mapped: " + err.Error())
	}
}
