//go:build !linux

package machine

func usable() func(processor int) bool { return func(int) bool { return true } }
