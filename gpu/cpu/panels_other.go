//go:build !linux

package cpu

import (
	"errors"
	"os"
)

var errOnlyLinux = errors.New("packed weights are shared on Linux only")

func mapNewFile(*os.File, int) ([]byte, error) { return nil, errOnlyLinux }

func mapFile(*os.File, int) ([]byte, error) { return nil, errOnlyLinux }

func protect([]byte) error { return errOnlyLinux }
