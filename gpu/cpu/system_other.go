//go:build !linux && !darwin

package cpu

import (
	"runtime"
	"runtime/debug"
)

func adviseHuge([]byte) {}

// systemMemory returns the Go memory limit when one is set, and otherwise a modest guess:
// there is no portable way to ask, so Options.MemoryLimitBytes should state it.
func systemMemory() (total, free int64) {
	const guessBytes = 8 << 30
	if limit := debug.SetMemoryLimit(-1); limit < 1<<62 {
		return limit, limit
	}
	return guessBytes, guessBytes
}

func processorName() string { return runtime.GOARCH }
