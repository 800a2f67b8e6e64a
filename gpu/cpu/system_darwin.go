package cpu

import (
	"runtime"

	"golang.org/x/sys/unix"
)

func adviseHuge([]byte) {}

// systemMemory returns the machine's memory and, as what is free, three quarters of it: macOS
// compresses and drops caches on demand and has no figure like Linux's MemAvailable.
func systemMemory() (total, free int64) {
	bytes, err := unix.SysctlUint64("hw.memsize")
	if err != nil {
		return 0, 0
	}
	return int64(bytes), int64(bytes) / 4 * 3
}

// processorName is what the system calls the processor.
func processorName() string {
	name, err := unix.Sysctl("machdep.cpu.brand_string")
	if err != nil {
		return runtime.GOARCH
	}
	return name
}
