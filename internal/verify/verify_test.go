package verify

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
)

func TestGoldensInEveryScenario(t *testing.T) {
	dirs, _ := filepath.Glob("../../../shared/golden/*")
	if len(dirs) == 0 {
		t.Skip("SKIPPED: ../shared/golden is not here; the eleven architectures are not compared with transformers")
	}
	for _, dir := range dirs {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			files := os.DirFS(dir)
			g, err := ReadGolden(files)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			ran := 0
			err = Run(ctx, files, g, func() (gpu.Device, error) { return cpu.Open(cpu.Options{}) }, 1e-3, func(r Result) {
				ran++
				t.Logf("%-26s max error %.2g over %d positions, greedy %d/%d, identical %v, cached %d, preemptions %d",
					r.Scenario, r.MaxError, r.Positions, r.Greedy, r.GreedyOf, r.Identical, r.Cached, r.Preemptions)
				if r.Failure != "" {
					t.Errorf("%s: %s", r.Scenario, r.Failure)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if want := len(scenarios(g)); ran != want {
				t.Errorf("%d scenarios ran, want %d", ran, want)
			}
		})
	}
}
