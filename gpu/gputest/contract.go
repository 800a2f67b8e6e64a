package gputest

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
)

func panicText(t *testing.T, what string, f func()) (text string) {
	t.Helper()
	defer func() {
		r := recover()
		if r == nil {
			t.Errorf("%s did not panic", what)
		}
		text = fmt.Sprint(r)
	}()
	f()
	return ""
}

func mention(t *testing.T, what, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%s: %q is missing from:\n%s", what, p, text)
		}
	}
}

// testHandles: zeroed memory, accounting, use after free, double free, leaks.
func testHandles(t *testing.T, open func(t *testing.T) gpu.Device) {
	d := open(t)
	a, err := d.Alloc(gpu.F32, 3, 5)
	if err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, a.Bytes())
	for i := range buf {
		buf[i] = 0xff
	}
	if err := d.Download(buf, a); err != nil {
		t.Fatal(err)
	}
	for i, b := range buf {
		if b != 0 {
			t.Fatalf("byte %d of a new tensor is %d", i, b)
		}
	}
	if got := d.Memory(); got.Tensors != 1 || got.Bytes < int64(a.Bytes()) {
		t.Errorf("Memory() = %+v after one tensor of %d bytes", got, a.Bytes())
	}
	row := []byte("row one of five elem")
	if err := d.Upload(a.Slice(1, 2), row); err != nil {
		t.Fatal(err)
	}
	if err := d.Download(buf, a); err != nil {
		t.Fatal(err)
	}
	if string(buf[20:40]) != string(row) || buf[19] != 0 || buf[40] != 0 {
		t.Errorf("a slice was uploaded to the wrong place: %q", buf)
	}
	testFetch(t, d, a, buf)
	d.Free(a)
	text := panicText(t, "use after free", func() { _ = d.Upload(a, buf) })
	mention(t, "use after free", text, "f32[3 5]", "created at", "freed at", "testHandles")
	text = panicText(t, "double free", func() { d.Free(a) })
	mention(t, "double free", text, "f32[3 5]", "created at", "freed at", "testHandles")
	if got := d.Memory(); got != (gpu.MemoryStats{}) {
		t.Errorf("Memory() = %+v after freeing everything", got)
	}
	if _, err := d.Alloc(gpu.I32, 7); err != nil {
		t.Fatal(err)
	}
	err = d.Close()
	if err == nil {
		t.Fatal("Close did not report a leak")
	}
	mention(t, "leak report", err.Error(), "i32[7]", "created at", "testHandles")
}

// testFetch: a copy to the host is of the tensor as it was when it was asked for, whenever, in whatever
// order and wherever it is waited for. want is what x holds.
func testFetch(t *testing.T, d gpu.Device, x gpu.Tensor, want []byte) {
	t.Helper()
	const copies = 12
	list := make([]gpu.Fetched, copies)
	for i := range list {
		want[0] = byte(i)
		if err := d.Upload(x, want); err != nil {
			t.Fatal(err)
		}
		var err error
		if list[i], err = d.Fetch(x); err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan error)
	go func() {
		defer close(done)
		for i := range list {
			at := copies - 1 - i
			got := make([]byte, len(want))
			if err := list[at].Wait(got); err != nil {
				done <- err
				return
			}
			if got[0] != byte(at) || string(got[1:]) != string(want[1:]) {
				done <- fmt.Errorf("copy %d holds %q after its first byte %d, want %q", at, got[1:], got[0], want[1:])
				return
			}
		}
	}()
	if err := <-done; err != nil {
		t.Error(err)
	}
	panicText(t, "a second Wait", func() { _ = list[0].Wait(make([]byte, len(want))) })
}

// testErrors: what must be an error and not a panic.
func testErrors(t *testing.T, open func(t *testing.T) gpu.Device) {
	d := open(t)
	defer mustClose(t, d)
	for _, dims := range [][]int{{int(d.Info().MemoryFree/4) * 2}, {1 << 40, 1 << 40}} {
		_, err := d.Alloc(gpu.F32, dims...)
		if !errors.Is(err, gpu.ErrOutOfMemory) {
			t.Errorf("Alloc(f32, %v): %v, want ErrOutOfMemory", dims, err)
		}
	}
	part := make([]byte, 2*8)
	for name, try := range map[string]func() error{
		"too few bytes":  func() error { _, err := d.PackMatrix("q_proj", gpu.BF16, 3, 8, part, part[:15]); return err },
		"too many bytes": func() error { _, err := d.PackMatrix("q_proj", gpu.BF16, 3, 8, part, part, part, part); return err },
		"integer type":   func() error { _, err := d.PackMatrix("q_proj", gpu.I32, 1, 4, part); return err },
		"no rows":        func() error { _, err := d.PackMatrix("q_proj", gpu.BF16, 0, 8); return err },
		"huge":           func() error { _, err := d.PackMatrix("q_proj", gpu.BF16, 1<<40, 1<<40, part); return err },
	} {
		err := try()
		if err == nil {
			t.Errorf("PackMatrix with %s succeeded", name)
			continue
		}
		mention(t, "PackMatrix with "+name, err.Error(), "q_proj")
	}
	if err := d.Launch("no_such_op", nil); !errors.Is(err, gpu.ErrNotSupported) {
		t.Errorf("Launch of an unknown op: %v, want ErrNotSupported", err)
	}
	for _, op := range gpu.Ops {
		if err := d.Select(op, "no such implementation"); !errors.Is(err, gpu.ErrNotSupported) {
			t.Errorf("Select of an unknown %s: %v, want ErrNotSupported", op, err)
		}
		active := 0
		for _, im := range d.Implementations(op) {
			if im.Name == "" || im.Doc == "" {
				t.Errorf("%s: implementation %+v lacks a name or doc", op, im)
			}
			if im.Active {
				active++
			}
		}
		if active != 1 {
			t.Errorf("%s: %d active implementations", op, active)
		}
	}
	if info := d.Info(); info.Name == "" || info.Description == "" || info.MemoryFree <= 0 || info.MemoryTotal < info.MemoryFree {
		t.Errorf("Info() = %+v", info)
	}
	if err := d.Sync(); err != nil {
		t.Errorf("Sync: %v", err)
	}
}
