//go:build unix

package batch

import (
	"os"

	"golang.org/x/sys/unix"
)

// lock keeps other runs from a file until it is closed or the process ends, however it does.
func lock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
