package cuda

import (
	"errors"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
)

// A class holds what it serves, wastes at most an eighth (or the least block), and is its own.
func TestSizeClasses(t *testing.T) {
	for _, n := range []int64{1, 255, 256, 257, 4096, 4097, 65535, 1 << 20, 1<<20 + 1, pageBytes - 1, pageBytes, pageBytes + 1, 1 << 40} {
		c := sizeClass(n)
		if c < n || c%classBytesMin != 0 || sizeClass(c) != c {
			t.Errorf("sizeClass(%d) = %d, of which the class is %d", n, c, sizeClass(c))
		}
		if waste := c - n; waste > max(n/8, classBytesMin-1) && (n < pageBytes || waste >= pageBytes) {
			t.Errorf("sizeClass(%d) = %d wastes %d", n, c, waste)
		}
	}
}

func TestErrorKinds(t *testing.T) {
	for code, want := range map[int32]error{statusOutOfMemory: gpu.ErrOutOfMemory, 700: gpu.ErrDeviceLost, 719: gpu.ErrDeviceLost, 1: nil} {
		err := error(&Error{Call: "cuLaunchKernel of add", Code: code, Text: "text"})
		for _, kind := range []error{gpu.ErrOutOfMemory, gpu.ErrDeviceLost, gpu.ErrNotSupported} {
			if errors.Is(err, kind) != (kind == want) {
				t.Errorf("code %d: errors.Is(%v) is %v", code, kind, errors.Is(err, kind))
			}
		}
	}
}

// Every head size up to the limit has a kernel wide enough; one more has none.
func TestAttentionKernels(t *testing.T) {
	for dim := 1; dim <= headDimMax; dim++ {
		if name, bytes := attentionKernel(dim); name == "" || bytes <= 0 || bytes > 99<<10 { // what sm_86 gives a block
			t.Errorf("dimension %d: kernel %q with %d bytes", dim, name, bytes)
		}
	}
	if name, _ := attentionKernel(headDimMax + 1); name != "" {
		t.Errorf("dimension %d: kernel %q", headDimMax+1, name)
	}
}
