package cuda

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/examine"
)

// compiled tries k on the GPU at all the shapes that it takes, and fails unless it is right.
func compiled(t *testing.T, d *Device, k gpu.KernelSource) []byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	shapes := examine.Shapes(&k, testModel)
	trial, err := d.Try(ctx, &k, shapes)
	if err != nil {
		t.Fatal(err)
	}
	if trial.Log != "" || trial.Ended != "" || len(trial.Cases) != len(shapes) {
		t.Fatalf("%s: %d of %d cases, ended %q, log %s", k.Name, len(trial.Cases), len(shapes), trial.Ended, trial.Log)
	}
	for _, c := range trial.Cases {
		if c.Fault != "" || c.Error > c.Allowed || c.Varies {
			t.Errorf("%s: %+v", k.Name, c)
		}
	}
	return trial.Code
}

// Each op's kernel is tried, loaded, timed, registered and selected, on devices of both types; a selected one is what runs,
// and what it does not take still does.
func TestSubmitOnDevice(t *testing.T) {
	needDevice(t)
	for _, compute := range []gpu.DType{gpu.F32, gpu.BF16} {
		d := open(t, Options{Compute: compute})
		for _, k := range append(plainKernels, exampleKernel(t)) {
			code := compiled(t, d, k)
			loaded, err := d.Load(&k, code)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range examine.Shapes(&k, testModel) {
				if !s.Model {
					continue
				}
				ours, theirs, err := examine.Race(d, k.Op, s, loaded.Launch, func(args any) error { return d.Launch(k.Op, args) })
				if err != nil || ours <= 0 || theirs <= 0 {
					t.Fatalf("%s %+v: %v, %v, %v", k.Name, s, ours, theirs, err)
				}
				t.Logf("%v %s %+v: %v against %v", compute, k.Name, s, ours, theirs)
			}
			if err := loaded.Register("submitted", false); err != nil {
				t.Fatal(err)
			}
			if err := d.Select(k.Op, k.Name); err != nil {
				t.Fatal(err)
			}
			everything := k // also what it leaves to the first implementation
			everything.RowsMax, everything.ColsMin, everything.ColsMax, everything.ColsMultiple = 0, 0, 0, 0
			for _, s := range examine.Shapes(&everything, testModel) {
				c, err := examine.Check(d, k.Op, s, func(args any) error { return d.Launch(k.Op, args) })
				if err != nil || c.Fault != "" || c.Error > c.Allowed {
					t.Errorf("%v %s selected: %+v, %v", compute, k.Name, c, err)
				}
			}
			again, err := d.Load(&k, code)
			if err != nil {
				t.Fatal(err)
			}
			if err := again.Register("twice", false); err == nil || !strings.Contains(err.Error(), k.Name) {
				t.Errorf("a second %s: %v", k.Name, err)
			}
			if err := again.Unload(); err != nil {
				t.Error(err)
			}
		}
		mustClose(t, d)
	}
}

// What is wrong with a kernel is found out in the other process: this device is as well as before.
func TestSubmitOfBadKernels(t *testing.T) {
	needDevice(t)
	d := open(t, Options{})
	defer mustClose(t, d)
	head := "KERNEL plain_norm(RMSNormArgs a) {\n  i64 at = (i64)blockIdx.x * a.cols + threadIdx.x;\n"
	for name, c := range map[string]struct {
		text string
		want func(*gpu.KernelTrial) bool
	}{
		"wrong":          {head + "if (threadIdx.x < a.cols) store(a.out + at, load(a.x + at));\n}", func(r *gpu.KernelTrial) bool { return strings.Contains(r.Cases[0].Fault, "want") }},
		"writes nothing": {head + "}", func(r *gpu.KernelTrial) bool { return strings.Contains(r.Cases[0].Fault, "NaN") }},
		"out of bounds": {head + "store(a.out + (i64)a.rows * a.cols, 1.0f); store(a.out - 1, 1.0f);\n}",
			func(r *gpu.KernelTrial) bool { return strings.Contains(r.Cases[0].Fault, "outside") }},
		"faults":       {head + "*(float*)16 = 1;\n}", func(r *gpu.KernelTrial) bool { return strings.Contains(r.Ended, "illegal") }},
		"does not end": {head + "for (volatile int i = 0; i < 2; i = 0);\n}", func(r *gpu.KernelTrial) bool { return strings.Contains(r.Ended, "longer than") }},
		"prints":       {head + "printf(\"{\\\"Done\\\":true}\\n\");\n}", func(r *gpu.KernelTrial) bool { return len(r.Cases) > 1 && r.Cases[0].Fault != "" }},
		"no entry":     {"KERNEL other(RMSNormArgs a) {}", func(r *gpu.KernelTrial) bool { return strings.Contains(r.Log, "entry is") }},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			k := plainKernels[0]
			k.Source = c.text
			began := time.Now()
			trial, err := d.Try(ctx, &k, examine.Shapes(&k, testModel))
			if took := time.Since(began); took > 25*time.Second {
				t.Errorf("it took %v", took)
			}
			if err != nil {
				t.Fatal(err)
			}
			if !c.want(trial) {
				t.Errorf("ended %q, log %q, cases %+v", trial.Ended, trial.Log, trial.Cases)
			}
			x, err := d.Alloc(gpu.F32, 8)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(d.Launch(gpu.OpAdd, &gpu.Add{Out: x, A: x, B: x}), d.Sync()); err != nil {
				t.Errorf("the device suffered: %v", err)
			}
			d.Free(x)
		})
	}
}

// A recorded step is made anew when another implementation is chosen, and then runs that one.
func TestSubmitEndsRecordings(t *testing.T) {
	needDevice(t)
	d := open(t, Options{})
	defer mustClose(t, d)
	k := plainKernels[0]
	k.Source = strings.Replace(plainNorm, "load(a.x + base + i) * scale *", "3 * load(a.x + base + i) * scale *", 1) // to be seen
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	trial, err := d.Try(ctx, &k, nil)
	if err != nil || len(trial.Code) == 0 {
		t.Fatalf("%+v, %v", trial, err)
	}
	var x [3]gpu.Tensor
	for i := range x {
		if x[i], err = d.Alloc(gpu.F32, 1, 4); err != nil {
			t.Fatal(err)
		}
		defer d.Free(x[i])
		if err := d.Upload(x[i], []byte{0, 0, 128, 63, 0, 0, 128, 63, 0, 0, 128, 63, 0, 0, 128, 63}); err != nil { // ones
			t.Fatal(err)
		}
	}
	step := func() error {
		return d.Launch(gpu.OpRMSNorm, &gpu.RMSNorm{Out: x[0], X: x[1], Weight: x[2].Reshape(4)})
	}
	record := func() gpu.Recording {
		r, err := d.Record(step)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	first := func() byte {
		raw := make([]byte, 16)
		if err := d.Download(raw, x[0]); err != nil {
			t.Fatal(err)
		}
		return raw[3]
	}
	old := record()
	if err := old.Replay(); err != nil || first() != 0x3f { // one
		t.Fatalf("%v, %x", err, first())
	}
	loaded, err := d.Load(&k, trial.Code)
	if err == nil {
		err = errors.Join(loaded.Register("three times as much", false), old.Replay(), d.Select(k.Op, k.Name))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := old.Replay(); !errors.Is(err, gpu.ErrStale) {
		t.Errorf("a recording from before: %v, want ErrStale", err)
	}
	old.Free()
	fresh := record()
	if err := fresh.Replay(); err != nil || first() != 0x40 { // three
		t.Errorf("%v, %x", err, first())
	}
	if err := d.Select(k.Op, "portable"); err != nil {
		t.Fatal(err)
	}
	if err := fresh.Replay(); !errors.Is(err, gpu.ErrStale) {
		t.Errorf("%v, want ErrStale", err)
	}
	fresh.Free()
}

// A product leaves out a norm and a gate of which another implementation was chosen: what that computes is what comes out.
func TestSubmitIsNotBypassed(t *testing.T) {
	needDevice(t)
	d := open(t, Options{Compute: gpu.BF16})
	defer mustClose(t, d)
	const k, n = 1024, 64 // a norm that products of few tokens take in
	alloc := func(dtype gpu.DType, dims ...int) gpu.Tensor {
		x, err := d.Alloc(dtype, dims...)
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	x, normed, out, gated, weight := alloc(gpu.BF16, 1, k), alloc(gpu.BF16, 1, k), alloc(gpu.BF16, 1, n), alloc(gpu.BF16, 1, n/2), alloc(gpu.F32, k)
	w, err := d.PackMatrix("w", gpu.BF16, n, k, make([]byte, 2*n*k))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, tensor := range []gpu.Tensor{x, normed, out, gated, weight, w} {
			d.Free(tensor)
		}
	}()
	ran := map[gpu.Op]int{}
	for _, op := range []gpu.Op{gpu.OpRMSNorm, gpu.OpActMul} {
		d.Register(op, "counts", "counts its launches", func(*Device, any) error {
			ran[op]++
			return nil
		})
	}
	launch := func() {
		if err := d.Launch(gpu.OpMatMul, &gpu.MatMul{Out: out, X: normed, W: w, Norm: &gpu.RMSNorm{Out: normed, X: x, Weight: weight}, Gate: &gpu.ActMul{Out: gated, X: out}}); err != nil {
			t.Fatal(err)
		}
	}
	for i, op := range []gpu.Op{gpu.OpRMSNorm, gpu.OpActMul} {
		launch()
		if ran[op] != 0 {
			t.Errorf("%s was not chosen and ran", op)
		}
		if err := d.Select(op, "counts"); err != nil {
			t.Fatal(err)
		}
		launch()
		if ran[op] != 1 || ran[gpu.OpRMSNorm] != 1+2*i {
			t.Errorf("%s was chosen: %v launches", op, ran)
		}
	}
	if err := d.Sync(); err != nil {
		t.Error(err)
	}
}
