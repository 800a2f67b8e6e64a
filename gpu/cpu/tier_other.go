//go:build !amd64

package cpu

import "runtime"

func machineTiers() []*tier { return nil }

func processorName() string { return runtime.GOARCH }

// relax is one turn of a spin loop.
func relax() {
	for range 16 {
		spinSink.Load()
	}
}
