//go:build !(linux && (amd64 || arm64))

package cuda

import (
	"fmt"
	"runtime"
)

func openLibrary(string) (uintptr, error) {
	return 0, fmt.Errorf("the cuda device is for linux on amd64 and arm64, not %s on %s", runtime.GOOS, runtime.GOARCH)
}

func findSymbol(_ uintptr, name string) (uintptr, error) {
	return 0, fmt.Errorf("no %s: no library can be loaded", name)
}

// call is never reached: nothing can be loaded.
func call(uintptr, ...uintptr) int32 { return -1 }
