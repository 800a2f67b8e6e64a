package cuda

import (
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/gputest"
)

// TestConformanceBF16 runs the suite with bfloat16 activations, keys and values.
func TestConformanceBF16(t *testing.T) {
	needDevice(t)
	gputest.Run(t, func(t *testing.T) gpu.Device { return open(t, Options{Compute: gpu.BF16}) })
}
