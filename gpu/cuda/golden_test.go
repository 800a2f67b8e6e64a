package cuda

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/verify"
)

// shared lends one device to many engines, which is quicker than opening it for each. Its Close
// reports what the engine left.
type shared struct{ *Device }

func (s shared) Close() error {
	if m := s.Memory(); m.Tensors != 0 {
		return fmt.Errorf("%d tensors were not freed", m.Tensors)
	}
	return s.Sync()
}

// goldenDir holds the golden models: $TROUPE_GOLDEN, or ../shared/golden beside the repository.
func goldenDir() string {
	if dir := os.Getenv("TROUPE_GOLDEN"); dir != "" {
		return dir
	}
	return "../../../shared/golden"
}

// TestGoldens compares every architecture with Hugging Face transformers, in every way in which
// the engine may choose to run it.
func TestGoldens(t *testing.T) {
	needDevice(t)
	dirs, err := filepath.Glob(filepath.Join(goldenDir(), "*"))
	if err != nil || len(dirs) == 0 {
		if os.Getenv("TROUPE_GOLDEN") != "" {
			t.Fatalf("no models in TROUPE_GOLDEN=%s", os.Getenv("TROUPE_GOLDEN"))
		}
		t.Skip("SKIPPED: ../shared/golden is not here and TROUPE_GOLDEN is not set")
	}
	d := open(t, Options{})
	defer mustClose(t, d)
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			files := os.DirFS(dir)
			g, err := verify.ReadGolden(files)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			ran, worst := 0, 0.0
			err = verify.Run(ctx, files, g, func() (gpu.Device, error) { return shared{d}, nil }, 1e-3, func(r verify.Result) {
				ran++
				worst = max(worst, r.MaxError)
				if r.Failure != "" {
					t.Errorf("%s: %s (max error %.2g, greedy %d/%d, identical %v)", r.Scenario, r.Failure, r.MaxError, r.Greedy, r.GreedyOf, r.Identical)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d scenarios, largest logit error %.2g, greedy %d tokens", ran, worst, len(g.Greedy))
		})
	}
}
