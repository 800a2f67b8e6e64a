package cpu

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/gputest"
)

func TestMain(m *testing.M) {
	gpu.TraceLeaks(true)
	os.Exit(m.Run())
}

func open(t testing.TB, o Options) *Device {
	t.Helper()
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// TestConformance runs the suite with one thread, where everything is inline, and with more
// threads than this machine has processors, where everything interleaves.
func TestConformance(t *testing.T) {
	for name, threads := range map[string]int{"1 thread": 1, "3 threads": 3} {
		if testing.Short() && threads == 1 {
			continue // scripts/check_tiers.sh runs it, without the race detector: one thread has none to find
		}
		t.Run(name, func(t *testing.T) {
			gputest.Run(t, func(t *testing.T) gpu.Device {
				return open(t, Options{Threads: threads, MemoryLimitBytes: 1 << 28})
			})
		})
	}
}

func TestMemoryLimit(t *testing.T) {
	d := open(t, Options{Threads: 1, MemoryLimitBytes: 1000})
	a, err := d.Alloc(gpu.F32, 200)
	if err != nil {
		t.Fatal(err)
	}
	if info := d.Info(); info.MemoryFree != 200 || info.MemoryTotal != 1000 {
		t.Errorf("Info() = %+v", info)
	}
	_, err = d.Alloc(gpu.F32, 51)
	if !errors.Is(err, gpu.ErrOutOfMemory) || !strings.Contains(err.Error(), "need 204 bytes, 200 free") {
		t.Errorf("%v", err)
	}
	_, err = d.PackMatrix("lm_head", gpu.F32, 1, 4, make([]byte, 16)) // 16 rows of 16 bytes when packed
	if !errors.Is(err, gpu.ErrOutOfMemory) || !strings.Contains(err.Error(), "lm_head") {
		t.Errorf("%v", err)
	}
	d.Free(a)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestOpenRejects(t *testing.T) {
	for _, o := range []Options{{Threads: -1}, {Threads: ThreadsMax + 1}, {MemoryLimitBytes: -1}, {Tier: "sse9"}} {
		if d, err := Open(o); err == nil {
			d.Close()
			t.Errorf("Open(%+v) succeeded", o)
		}
	}
	t.Setenv("TROUPE_CPU_TIER", "mmx")
	if _, err := Open(Options{}); !errors.Is(err, gpu.ErrNotSupported) || !strings.Contains(err.Error(), "TROUPE_CPU_TIER") {
		t.Errorf("%v", err)
	}
	t.Setenv("TROUPE_CPU_TIER", "go")
	d := open(t, Options{})
	defer d.Close()
	for _, im := range d.Implementations(gpu.OpMatMul) {
		if im.Active != (im.Name == "go") {
			t.Errorf("%+v with TROUPE_CPU_TIER=go", im)
		}
	}
}

func TestClosedDevice(t *testing.T) {
	d := open(t, Options{Threads: 2})
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := d.Alloc(gpu.F32, 1)
	for _, err := range []error{err, d.Sync(), d.Launch(gpu.OpAdd, &gpu.Add{})} {
		if !errors.Is(err, gpu.ErrDeviceLost) {
			t.Errorf("%v, want ErrDeviceLost", err)
		}
	}
	if d.Close() == nil {
		t.Error("a second Close succeeded")
	}
}

// A kernel from outside the package can be added, chosen, and used through the same Launch.
func TestRegisterAddsAKernel(t *testing.T) {
	d := open(t, Options{Threads: 1})
	defer d.Close()
	x, err := d.Alloc(gpu.F32, 3)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Free(x)
	d.Register(gpu.OpAdd, "seven", "writes sevens", func(d *Device, args any) error {
		for i := range d.Float32s(args.(*gpu.Add).Out) {
			d.Float32s(args.(*gpu.Add).Out)[i] = 7
		}
		return nil
	})
	for _, step := range []struct {
		name string
		want float32
	}{{"go", 0}, {"seven", 7}} {
		if err := d.Select(gpu.OpAdd, step.name); err != nil {
			t.Fatal(err)
		}
		if err := d.Launch(gpu.OpAdd, &gpu.Add{Out: x, A: x, B: x}); err != nil {
			t.Fatal(err)
		}
		if got := d.Float32s(x)[2]; got != step.want {
			t.Errorf("%s: %v, want %v", step.name, got, step.want)
		}
	}
}
