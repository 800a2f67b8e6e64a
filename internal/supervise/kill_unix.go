//go:build unix

package supervise

import "syscall"

// killGroup ends a child, and what it has started.
func killGroup(pid int) {
	_ = syscall.Kill(-pid, syscall.SIGKILL) // an error means that there is none left
}
