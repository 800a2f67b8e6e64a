//go:build !amd64

package cpu

func machineTiers() []*tier { return nil }

// relax is one turn of a spin loop.
func relax() {
	for range 16 {
		spinSink.Load()
	}
}
