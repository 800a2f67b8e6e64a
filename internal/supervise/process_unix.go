//go:build unix && !linux

package supervise

import "syscall"

// attributes make a child a group of its own, which signals of a terminal do not reach.
func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }
