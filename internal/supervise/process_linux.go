package supervise

import "syscall"

// attributes make a child a group of its own, which signals of a terminal do not reach, and end it with the thread that
// started it (prctl(2), PR_SET_PDEATHSIG).
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
