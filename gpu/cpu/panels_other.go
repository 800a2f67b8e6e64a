//go:build !linux

package cpu

import (
	"errors"
	"os"
)

const panelsSupported = false

var errOnlyLinux = errors.New("cpu: packed weights are shared on Linux only") // Open has refused by then

func mapNewFile(*os.File, int) ([]byte, error) { return nil, errOnlyLinux }

func mapFile(*os.File, int) ([]byte, error) { return nil, errOnlyLinux }

func protect([]byte) error { return errOnlyLinux }
