//go:build !linux && !darwin

package cpu

func mapMemory(int) ([]byte, error) { return nil, nil }

func unmap([]byte) {}
