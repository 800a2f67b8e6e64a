//go:build !(linux || darwin || freebsd)

package modelstore

import (
	"fmt"
	"os"
	"runtime"
)

// tryLock refuses: without locks, two pulls could mix their files.
func tryLock(*os.File) (bool, error) {
	return false, fmt.Errorf("models cannot be pulled on %s: download the files by other means and pass the folder as --model", runtime.GOOS)
}

func freeBytes(string) (int64, error) {
	return 0, fmt.Errorf("the free space is unknown on %s", runtime.GOOS)
}

func diskFull(error) bool { return false }

func syncDir(string) error { return nil }
