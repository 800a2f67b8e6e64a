package bench

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// startApart starts cmd on all processors but the last, which this process keeps to itself.
func startApart(cmd *exec.Cmd) (string, error) {
	runtime.LockOSThread() // a process inherits the processors of the thread that starts it
	defer runtime.UnlockOSThread()
	var all, own unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil || all.Count() < 2 {
		return "", cmd.Start()
	}
	last := 0
	for i := range 64 * len(all) {
		if all.IsSet(i) {
			last = i
		}
	}
	own.Set(last)
	theirs := all
	theirs.Clear(last)
	if err := unix.SchedSetaffinity(0, &theirs); err != nil {
		return "", cmd.Start()
	}
	if err := cmd.Start(); err != nil {
		_ = unix.SchedSetaffinity(0, &all) // as it was
		return "", err
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		_ = unix.SchedSetaffinity(0, &all)
		return "", nil //nolint:nilerr // then they share
	}
	for _, t := range tasks { // later threads inherit from these
		if id, err := strconv.Atoi(t.Name()); err == nil {
			_ = unix.SchedSetaffinity(id, &own) // it may have ended
		}
	}
	runtime.GOMAXPROCS(1)
	return pinning(theirs.Count(), 1), nil
}
