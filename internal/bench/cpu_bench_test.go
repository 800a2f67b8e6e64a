package bench

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/internal/gguf/quantizer"
)

// TestRunCPU measures the default model beside a peer that needs no time, and prints the report.
func TestRunCPU(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("SKIPPED: the peer is a shell script")
	}
	dir := t.TempDir()
	file := filepath.Join(dir, "tiny.gguf")
	if _, err := quantizer.Run(t.Context(), defaultmodel.Files(), file, quantizer.Options{Type: "q8"}); err != nil {
		t.Fatal(err)
	}
	script := func(name, says string) string {
		path := filepath.Join(dir, name)
		text := "#!/bin/sh\ntest \"$1\" = --version && { echo version: test >&2; exit; }\necho \"$@\" >>" + filepath.Join(dir, "calls") + "\necho '" + says + "'\n"
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	peer := script("llama-bench", `[{"avg_ts": 10}]`)
	script("llama-batched-bench", `{"speed_tg": 20}`)
	c := CPUConfig{Models: []string{file}, KV: gpu.BF16, Prompt: 20, Tokens: 3, Batches: []int{1, 3}, Depths: []int{0, 5}, Rounds: 3, Peer: "llama-bench=" + peer}
	r, err := RunCPU(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Tests) != 4 {
		t.Fatalf("%d tests, want a prefill, two depths and a batch: %+v", len(r.Tests), r.Tests)
	}
	for _, test := range r.Tests {
		rate := 10.0
		if test.Sequences > 1 {
			rate = 20
		}
		if len(test.Rates) != 3 || len(test.CPU) != 3 || test.CPU[0] < 0 || test.Rate <= 0 || test.PeerRate != rate || test.Ratio != test.Rate/rate || test.RatioMin > test.Ratio || test.RatioMax < test.Ratio {
			t.Errorf("%+v", test)
		}
	}
	calls, err := os.ReadFile(filepath.Join(dir, "calls"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"-p 20 -n 0 -d 0", "-p 0 -n 3 -d 0", "-p 0 -n 3 -d 5", "-npp 128 -ntg 3 -npl 3"} {
		if strings.Count(string(calls), want) != 3 {
			t.Errorf("the peer did not get %q three times:\n%s", want, calls)
		}
	}
	for i, test := range r.Tests {
		if sum := float64(test.Ledger.Device+test.Ledger.Upload+test.Ledger.Idle) / 1e3; test.Ledger.Steps == 0 || math.Abs(sum-test.WallUs) > test.WallUs/100 || test.Ledger.Device == 0 {
			t.Errorf("%s: the parts add up to %.0f µs of %.0f: %+v", test.what(), sum, test.WallUs, test.Ledger)
		}
		known := len(test.Reads) == 3 && test.WeightBytes > 0 && test.Share > 0 && test.PeerShare > 0
		if known != (i == 1) && runtime.GOARCH == "amd64" {
			t.Errorf("reading weights is the ceiling of the decode from the start alone: %+v", test)
		}
	}
	var text bytes.Buffer
	if err := r.WriteText(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"prefill 20", "decode after 5", "decode, 3 at once", "llama.cpp version: test"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the report does not say %q:\n%s", want, text.String())
		}
	}
	if raw, err := json.Marshal(r); err != nil || !bytes.Contains(raw, []byte(`"ratio":`)) {
		t.Errorf("%v: %s", err, raw)
	}
	for _, broken := range []string{"llama-bench", "other=" + peer, "llama-bench=/nowhere", "llama-bench=" + script("broken", "no JSON")} {
		c.Peer = broken
		if _, err := RunCPU(t.Context(), c); err == nil {
			t.Errorf("the peer %q is accepted", broken)
		}
	}
}

// TestDrawnFilesAreModels: what is drawn loads, is the same every time, and has the spread it should.
func TestDrawnFilesAreModels(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: it writes a model of half a gigabyte")
	}
	path := filepath.Join(t.TempDir(), "drawn.gguf")
	if drawn, err := drawFile(t.Context(), path, "llama-0.5b", "q4_0"); err != nil || !drawn {
		t.Fatal(drawn, err)
	}
	if drawn, err := drawFile(t.Context(), path, "llama-0.5b", "q4_0"); err != nil || drawn {
		t.Errorf("a file that is there: %v, %v", drawn, err)
	}
	if _, err := drawFile(t.Context(), path+"2", "qwen3-0.6b", "q4_0"); err == nil || !strings.Contains(err.Error(), "qwen3-0.6b") {
		t.Errorf("a shape that cannot be drawn: %v", err)
	}
	r, err := RunCPU(t.Context(), CPUConfig{Models: []string{path}, KV: gpu.F32, Tokens: 1, Batches: []int{1}, Depths: []int{0}, Rounds: 1})
	if err != nil || len(r.Tests) != 1 || r.Tests[0].Rate <= 0 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestDrawIntoDependsOnNameAndRow(t *testing.T) {
	draw := func(name string, first, rows int) []byte {
		out := make([]byte, rows*2*64)
		if err := drawInto(out, name, cpuTypes["bf16"].matrices, 64, first); err != nil {
			t.Fatal(err)
		}
		return out
	}
	all := draw("a", 0, 10)
	if !bytes.Equal(all[3*128:7*128], draw("a", 3, 4)) || bytes.Equal(all, draw("b", 0, 10)) {
		t.Error("rows depend on how many are drawn at once, or not on the name")
	}
}

func TestKernelsAreMeasured(t *testing.T) {
	if testing.Short() {
		t.Skip("SKIPPED: it multiplies for seconds")
	}
	r, err := RunCPU(t.Context(), CPUConfig{KV: gpu.F32, Tokens: 1, Rounds: 1, Kernels: true})
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Kernels) == 0 && runtime.GOARCH == "amd64" {
		t.Skip("SKIPPED: this tier has no assembly")
	}
	for _, k := range r.Kernels {
		if k.Rate <= 0 || k.Ceiling <= 0 || k.Share <= 0 || k.Tokens == 1 && k.Share > 3 {
			t.Errorf("%+v", k)
		}
	}
}

func TestCPUConfigRefuses(t *testing.T) {
	for name, change := range map[string]func(*CPUConfig){
		"shape": func(c *CPUConfig) { c.Shapes = []string{"none"} }, "type": func(c *CPUConfig) { c.Types = []string{"q3"} },
		"batch": func(c *CPUConfig) { c.Batches = []int{0} }, "depth": func(c *CPUConfig) { c.Depths = []int{-1} },
		"tokens": func(c *CPUConfig) { c.Tokens = 1 << 40 }, "rounds": func(c *CPUConfig) { c.Rounds = 0 },
	} {
		c := DefaultCPUConfig()
		change(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if c := DefaultCPUConfig(); c.Validate() != nil {
		t.Error("the defaults are refused")
	}
}
