package cpu

import (
	"os"
	"path"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// adviseHuge asks for large pages, which spare address translation when weights stream. It is
// advice: without it everything works.
func adviseHuge(raw []byte) { _ = unix.Madvise(raw, unix.MADV_HUGEPAGE) }

// systemMemory returns the bytes this process may have in all and could get now: the machine's,
// or its control group's where that is lower.
func systemMemory() (total, free int64) {
	total, free = meminfo("/proc/meminfo")
	if limit, used, ok := cgroupMemory("/proc/self/cgroup", "/sys/fs/cgroup"); ok && limit < total {
		total, free = limit, min(free, max(0, limit-used))
	}
	return total, free
}

func meminfo(file string) (total, available int64) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if len(fields) < 2 {
			continue
		}
		kib, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			total = kib << 10
		case "MemAvailable:":
			available = kib << 10
		}
	}
	return total, available
}

// cgroupMemory returns the tightest memory limit among the process's control group (version 2)
// and its ancestors, and what that group uses. ok is false where none is set.
func cgroupMemory(selfFile, root string) (limit, used int64, ok bool) {
	text, err := os.ReadFile(selfFile)
	if err != nil {
		return 0, 0, false
	}
	for line := range strings.Lines(string(text)) {
		group, found := strings.CutPrefix(strings.TrimSpace(line), "0::")
		if !found {
			continue
		}
		for dir := path.Clean("/" + group); ; dir = path.Dir(dir) {
			groupLimit, err := readInt(path.Join(root, dir, "memory.max"))
			if err == nil && (!ok || groupLimit < limit) {
				groupUsed, err := readInt(path.Join(root, dir, "memory.current"))
				if err == nil {
					limit, used, ok = groupLimit, groupUsed, true
				}
			}
			if dir == "/" {
				break
			}
		}
	}
	return limit, used, ok
}

// readInt fails on "max", which means no limit.
func readInt(file string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
}

// processorName is what the kernel calls the processor.
func processorName() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(text)) {
			if key, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(key) == "model name" {
				return strings.TrimSpace(value)
			}
		}
	}
	return runtime.GOARCH
}
