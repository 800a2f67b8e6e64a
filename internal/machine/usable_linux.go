package machine

import "golang.org/x/sys/unix"

// usable tells which processors this process may use: in a container, those of all the machine's that it was given.
func usable() func(processor int) bool {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil { // more than a set holds
		return func(int) bool { return true }
	}
	return set.IsSet
}
