package examine

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
)

var llama = Model{Hidden: 96, Intermediate: 160, Heads: 6, KVHeads: 2, HeadDim: 16, Rotated: 16, SequencesMax: 16, TokensMax: 64}

func openCPU(t *testing.T) gpu.Device {
	t.Helper()
	d, err := cpu.Open(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err) // also of what an examination leaves behind
		}
	})
	return d
}

// check examines a kernel of op that sabotage wraps around the device's own at every shape, and returns the first that
// is not fine.
func check(t *testing.T, dev gpu.Device, op gpu.Op, sabotage func(args any, own func(any) error) error) (worst gpu.KernelCase) {
	t.Helper()
	own := func(args any) error { return dev.Launch(op, args) }
	for _, s := range Shapes(&gpu.KernelSource{Op: op}, llama) {
		c, err := Check(dev, op, s, func(args any) error { return sabotage(args, own) })
		if err != nil {
			t.Fatal(err)
		}
		if c.Fault != "" || c.Varies {
			return c
		}
		if c.Allowed == 0 || c.Error > c.Allowed {
			t.Errorf("%s at %+v: an error of %v, allowed %v", op, s, c.Error, c.Allowed)
		}
	}
	return worst
}

// The device's own kernels pass, whichever implementation; and each wrong one is found out.
func TestCheck(t *testing.T) {
	dev := openCPU(t)
	for _, op := range Ops {
		for _, im := range dev.Implementations(op) {
			if err := dev.Select(op, im.Name); err != nil {
				t.Fatal(err)
			}
			if c := check(t, dev, op, func(args any, own func(any) error) error { return own(args) }); c.Fault != "" || c.Varies {
				t.Errorf("%s %s at %+v: %q, varies %v", op, im.Name, c.Shape, c.Fault, c.Varies)
			}
		}
	}
	spoil := func(x gpu.Tensor) error {
		one := make([]byte, x.DType.Size())
		one[len(one)-1] = 0x42
		return dev.Upload(x, one)
	}
	at := func(x gpu.Tensor, i int) gpu.Tensor {
		x = x.Reshape(x.Len(), 1)
		x.Offset += i
		x.Dims[0] = 1
		return x
	}
	for name, c := range map[string]struct {
		op       gpu.Op
		sabotage func(args any, own func(any) error) error
		want     string
	}{
		"nothing is written": {gpu.OpRMSNorm, func(any, func(any) error) error { return nil }, "is NaN"},
		"one element is wrong": {gpu.OpActMul, func(args any, own func(any) error) error {
			out := args.(*gpu.ActMul).Out
			return errors.Join(own(args), spoil(at(out, out.Len()-1)))
		}, "want"},
		"offset is left out": {gpu.OpRMSNorm, func(args any, own func(any) error) error {
			a := *args.(*gpu.RMSNorm)
			a.Offset = 0
			return own(&a)
		}, "offset 1"},
		"the other activation": {gpu.OpActMul, func(args any, own func(any) error) error {
			a := *args.(*gpu.ActMul)
			a.Act = gpu.SiLU
			return own(&a)
		}, "activation 1"},
		"a write behind the output": {gpu.OpRMSNorm, func(args any, own func(any) error) error {
			out := args.(*gpu.RMSNorm).Out
			return errors.Join(own(args), spoil(at(out, out.Len())))
		}, "outside"},
		"a write ahead of the output": {gpu.OpMatMul, func(args any, own func(any) error) error {
			return errors.Join(own(args), spoil(at(args.(*gpu.MatMul).Out, -1)))
		}, "outside"},
		"an input is changed": {gpu.OpRMSNorm, func(args any, own func(any) error) error {
			a := args.(*gpu.RMSNorm)
			if a.Out != a.X { // what comes later would be wrong as well
				return own(a)
			}
			return errors.Join(own(a), spoil(at(a.Weight, 0)))
		}, "input weight"},
		"other columns are changed": {gpu.OpRoPE, func(args any, own func(any) error) error {
			return errors.Join(own(args), spoil(at(args.(*gpu.RoPE).X, 0)))
		}, "want"},
		"no bias": {gpu.OpMatMul, func(args any, own func(any) error) error {
			a := *args.(*gpu.MatMul)
			a.Bias = gpu.Tensor{}
			return own(&a)
		}, "with a bias"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := check(t, dev, c.op, c.sabotage); !strings.Contains(got.Fault, c.want) {
				t.Errorf("%+v, want %q", got, c.want)
			}
		})
	}
	// A row by itself that is off by less than what is allowed is no fault, but told.
	varies := check(t, dev, gpu.OpRMSNorm, func(args any, own func(any) error) error {
		a := args.(*gpu.RMSNorm)
		if err := own(a); err != nil || a.X.Dims[0] > 1 {
			return err
		}
		first, raw := at(a.Out, 0), make([]byte, 4)
		err := dev.Download(raw, first)
		raw[0] ^= 1
		return errors.Join(err, dev.Upload(first, raw))
	})
	if !varies.Varies || varies.Fault != "" {
		t.Errorf("%+v, want one that varies and is right", varies)
	}
	if _, err := Check(dev, gpu.OpSample, gpu.KernelShape{Rows: 1, Cols: 1}, nil); !errors.Is(err, gpu.ErrNotSupported) {
		t.Errorf("%v, want ErrNotSupported", err)
	}
}

// Shapes are what a kernel takes, with odd ones, its ends and the model's among them.
func TestShapes(t *testing.T) {
	for _, op := range Ops {
		for _, k := range []gpu.KernelSource{{}, {ColsMultiple: 8}, {RowsMax: 1}, {ColsMin: 32, ColsMax: 200}, {RowsMax: 8, ColsMin: 16, ColsMax: 96, ColsMultiple: 16}} {
			k.Op = op
			list := Shapes(&k, llama)
			ours, odd := 0, 0
			for _, s := range list {
				if !k.Takes(s.Rows, s.Cols) {
					t.Errorf("%s takes no %+v", op, s)
				}
				if s.Model {
					ours++
				} else {
					odd++
				}
			}
			if odd < 3 || ours == 0 && k.Takes(1, llama.shapes(op)[0].Cols) {
				t.Errorf("%s %+v: %d odd shapes and %d of the model's", op, k, odd, ours)
			}
			if k.ColsMax > 0 && !slices.ContainsFunc(list, func(s gpu.KernelShape) bool { return s.Cols == k.ColsMax/max(1, k.ColsMultiple)*max(1, k.ColsMultiple) }) {
				t.Errorf("%s %+v: no shape has cols_max", op, k)
			}
		}
	}
	if list := Shapes(&gpu.KernelSource{Op: gpu.OpRMSNorm, ColsMin: 9000}, llama); len(list) != 0 {
		for _, s := range list {
			if s.Cols < 9000 {
				t.Errorf("%+v", s)
			}
		}
	}
}

// slower is how much more work the kernel does that is to lose: more than what a pause of the process adds to a round.
const slower = 40

// What takes longer loses, whoever begins.
func TestRace(t *testing.T) {
	dev := openCPU(t)
	for _, op := range Ops {
		s := llama.shapes(op)[0]
		s.Rows = 64 // enough to be seen
		own := func(args any) error { return dev.Launch(op, args) }
		slow := func(args any) error {
			for range slower {
				if err := own(args); err != nil {
					return err
				}
			}
			return nil
		}
		a, b, err := Race(dev, op, s, own, slow)
		if err != nil || a <= 0 || b <= a {
			t.Errorf("%s: %v against %v, %v", op, a, b, err)
		}
		if a, b, err = Race(dev, op, s, slow, own); err != nil || a <= b {
			t.Errorf("%s: %v against %v, %v", op, a, b, err)
		}
	}
	launches := 0
	long := func(any) error {
		launches++
		time.Sleep(raceTimeMax)
		return nil
	}
	a, b, err := Race(dev, gpu.OpRMSNorm, gpu.KernelShape{Rows: 1, Cols: 8}, long, func(args any) error { return dev.Launch(gpu.OpRMSNorm, args) })
	if err != nil || a < raceTimeMax || b >= a || launches > 2 {
		t.Errorf("a kernel that takes long: %v against %v after %d launches, %v", a, b, launches, err)
	}
	failed := errors.New("failed")
	if _, _, err := Race(dev, gpu.OpRMSNorm, gpu.KernelShape{Rows: 1, Cols: 8}, func(any) error { return failed }, nil); !errors.Is(err, failed) {
		t.Errorf("%v", err)
	}
	if _, _, err := Race(dev, gpu.OpSample, gpu.KernelShape{Rows: 1, Cols: 1}, nil, nil); !errors.Is(err, gpu.ErrNotSupported) {
		t.Errorf("%v", err)
	}
}
