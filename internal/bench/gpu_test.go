package bench

import (
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
	"github.com/troupe-engine/troupe/internal/defaultmodel"
)

// graphs makes a gpu.Recorder of a device that launches what is launched while it records when that is replayed.
type graphs struct {
	gpu.Device
	records  bool
	launches []func() error
}

func (r *graphs) Launch(op gpu.Op, args any) error {
	if !r.records {
		return r.Device.Launch(op, args)
	}
	r.launches = append(r.launches, func() error { return r.Device.Launch(op, args) })
	return nil
}

func (r *graphs) Record(launches func() error) (gpu.Recording, error) {
	r.records, r.launches = true, nil
	err := launches()
	r.records = false
	return replaying(r.launches), err
}

type replaying []func() error

func (r replaying) Free() {}
func (r replaying) Replay() error {
	for _, launch := range r {
		if err := launch(); err != nil {
			return err
		}
	}
	return nil
}

// TestGPULedger: the parts of a step add up to its time, on the host and on the device, and none is invented.
func TestGPULedger(t *testing.T) {
	dev, err := cpu.Open(cpu.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	files := defaultmodel.Files()
	spec, err := model.ReadSpec(files)
	if err != nil {
		t.Fatal(err)
	}
	b := &gpuBench{cfg: GPUConfig{Batches: []int{3}, Contexts: 20, Steps: 12, Rounds: 3, Weights: gpu.BF16}, dev: dev, r: &GPUReport{CopyRate: 10, ProductRate: 0.1}}
	m, err := b.load("tiny", files, spec)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	b.dev = &graphs{Device: dev}
	if err := (&gpuModel{gpuBench: b, m: m, name: "tiny"}).decode(3); err != nil {
		t.Fatal(err)
	}
	s := &b.r.Decode[0]
	p := s.Parts
	if sum := p.Prepare + p.Launch + p.Fetch + p.Wait; p.Wall <= 0 || math.Abs(sum-p.Wall) > 0.01*p.Wall {
		t.Errorf("the parts add up to %.1f µs of %.1f: %+v", sum, p.Wall, p)
	}
	if p.Launch < p.Wall/2 { // the device is done when a launch returns
		t.Errorf("launches take %.1f of %.1f µs on a synchronous device", p.Launch, p.Wall)
	}
	sum, launches := 0.0, 0
	for i, l := range s.Ledger {
		if last := i == len(s.Ledger)-1; last != (l.Kind == ledgerRest) || !last && (l.Us <= 0 || l.Launches == 0) {
			t.Errorf("entry %d of %d: %+v", i, len(s.Ledger), l)
		}
		sum, launches = sum+l.Us, launches+l.Launches
	}
	if math.Abs(sum-s.Ms*1e3) > 0.01*s.Ms*1e3 || launches < 5*len(spec.Layers) {
		t.Errorf("%d launches and the rest add up to %.1f µs of %.1f", launches, sum, s.Ms*1e3)
	}
	var out strings.Builder
	if err := b.r.WriteText(&out); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(out.String()) {
		if n := utf8.RuneCountInString(line) - 1; n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	for _, want := range []string{"waiting for the device", ledgerRest} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
}
