//go:build !amd64

package cpu

import "sync/atomic"

func machineTiers() []*tier { return nil }

// spinSink is loaded to pass time: there is no pause instruction in Go.
var spinSink atomic.Uint32

// relax is one turn of a spin loop.
func relax() {
	for range 16 {
		spinSink.Load()
	}
}
