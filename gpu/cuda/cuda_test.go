package cuda

import (
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/gputest"
)

func TestMain(m *testing.M) {
	gpu.TraceLeaks(true)
	os.Exit(m.Run())
}

// needDevice skips a test that needs a GPU where there is none. Where there must be one,
// TROUPE_REQUIRE_CUDA=1 makes that a failure, so that a run in which nothing ran cannot pass.
func needDevice(t testing.TB) {
	t.Helper()
	if os.Getenv("TROUPE_REQUIRE_CUDA") == "1" {
		return
	}
	if r := Probe(); r.Error != "" || len(r.Devices) == 0 {
		t.Skipf("SKIPPED: no usable CUDA device: %s", r.Error)
	}
}

func open(t testing.TB, o Options) *Device {
	t.Helper()
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func mustClose(t testing.TB, d *Device) {
	t.Helper()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestConformance(t *testing.T) {
	needDevice(t)
	gputest.Run(t, func(t *testing.T) gpu.Device { return open(t, Options{}) })
}

func TestMemoryLimit(t *testing.T) {
	needDevice(t)
	d := open(t, Options{MemoryLimitBytes: 1000})
	a, err := d.Alloc(gpu.F32, 200)
	if err != nil {
		t.Fatal(err)
	}
	if info := d.Info(); info.MemoryFree != 200 || info.MemoryTotal != 1000 {
		t.Errorf("Info() = %+v", info)
	}
	if _, err = d.Alloc(gpu.F32, 51); !errors.Is(err, gpu.ErrOutOfMemory) || !strings.Contains(err.Error(), "need 204 bytes, 200 free") {
		t.Errorf("%v", err)
	}
	if _, err = d.PackMatrix("lm_head", gpu.F32, 13, 4, make([]byte, 208)); !errors.Is(err, gpu.ErrOutOfMemory) || !strings.Contains(err.Error(), "lm_head") {
		t.Errorf("%v", err)
	}
	d.Free(a)
	mustClose(t, d)
}

// Freed memory is reused, comes back zeroed, counts as free, and returns to the driver when an
// allocation of another size needs it.
func TestFreedMemoryIsReused(t *testing.T) {
	needDevice(t)
	d := open(t, Options{})
	defer mustClose(t, d)
	before := d.Info().MemoryFree
	for round := range 50 {
		x, err := d.Alloc(gpu.F32, 3<<20)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4)
		if err := d.Download(b, x.Slice(1<<20, 1<<20+1)); err != nil {
			t.Fatal(err)
		}
		if b[0] != 0 {
			t.Fatalf("round %d: memory is not zeroed", round)
		}
		if err := d.Upload(x.Slice(1<<20, 1<<20+1), []byte{1, 1, 1, 1}); err != nil {
			t.Fatal(err)
		}
		d.Free(x)
	}
	if held := d.heap.granted.Load(); held > 16<<20 {
		t.Errorf("the heap holds %d bytes after 50 tensors of 12 MiB, one at a time", held)
	}
	if after := d.Info().MemoryFree; before-after > 64<<20 {
		t.Errorf("free memory went from %d to %d", before, after)
	}
	// Nearly all of the memory in one piece does not fit beside what the heap keeps.
	big, err := d.Alloc(gpu.F32, int(d.Info().MemoryFree/4-(64<<20)))
	if err != nil {
		t.Fatal(err)
	}
	d.Free(big)
	other, err := d.Alloc(gpu.F32, int(d.Info().MemoryFree/4-(96<<20)))
	if err != nil {
		t.Fatalf("the heap did not give back what it kept: %v", err)
	}
	d.Free(other)
}

// Uploads larger than the staging ring, and many small ones in flight, arrive whole.
func TestUploadsArrive(t *testing.T) {
	needDevice(t)
	d := open(t, Options{})
	defer mustClose(t, d)
	const n = 6*stagingSlotBytes + 4
	x, err := d.Alloc(gpu.I32, n/4)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Free(x)
	src, got := make([]byte, n), make([]byte, n)
	for i := range src {
		src[i] = byte(i * 7 >> 3)
	}
	if err := d.Upload(x, src); err != nil {
		t.Fatal(err)
	}
	for i := range 3000 { // small, each with its own contents, and the source reused at once
		at := i * 1000
		src[at*4] = byte(i)
		piece := make([]byte, 4)
		copy(piece, src[at*4:])
		if err := d.Upload(x.Slice(at, at+1), piece); err != nil {
			t.Fatal(err)
		}
		clear(piece)
	}
	if err := d.Download(got, x); err != nil {
		t.Fatal(err)
	}
	for i := range src {
		if got[i] != src[i] {
			t.Fatalf("byte %d is %d, want %d", i, got[i], src[i])
		}
	}
}

func TestClosedDevice(t *testing.T) {
	needDevice(t)
	d := open(t, Options{})
	mustClose(t, d)
	_, err := d.Alloc(gpu.F32, 1)
	for _, err := range []error{err, d.Sync(), d.Launch(gpu.OpAdd, &gpu.Add{})} {
		if !errors.Is(err, gpu.ErrDeviceLost) {
			t.Errorf("%v, want ErrDeviceLost", err)
		}
	}
	if d.Info().MemoryFree != 0 {
		t.Error("a closed device has free memory")
	}
	if d.Close() == nil {
		t.Error("a second Close succeeded")
	}
}

// A kernel that faults ruins its context: the device says so from then on, and so does Open, as
// CUDA refuses the process until it ends. So this runs in a process of its own.
func TestFaultLosesTheDevice(t *testing.T) {
	needDevice(t)
	if os.Getenv("TROUPE_CUDA_FAULT") != "1" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestFaultLosesTheDevice$", "-test.v")
		cmd.Env = append(os.Environ(), "TROUPE_CUDA_FAULT=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS: TestFaultLosesTheDevice") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	d := open(t, Options{})
	if err := d.Fault(); err != nil && !errors.Is(err, gpu.ErrDeviceLost) {
		t.Fatal(err)
	}
	for range 2 {
		if err := d.Sync(); !errors.Is(err, gpu.ErrDeviceLost) {
			t.Errorf("Sync after a fault: %v, want ErrDeviceLost", err)
		}
	}
	if _, err := d.Alloc(gpu.F32, 1); !errors.Is(err, gpu.ErrDeviceLost) || !strings.Contains(err.Error(), "illegal") {
		t.Errorf("Alloc after a fault: %v", err)
	}
	mustClose(t, d)
	if fresh, err := Open(Options{}); err == nil {
		mustClose(t, fresh) // a driver that recovers is welcome
	} else if !errors.Is(err, gpu.ErrDeviceLost) || !strings.Contains(err.Error(), "restart") {
		t.Errorf("Open after a fault: %v", err)
	}
}
