package cuda

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
)

// Copies of many parts of all sizes arrive whole, and touch nothing else.
func TestCopy(t *testing.T) {
	needDevice(t)
	d := open(t, Options{})
	defer mustClose(t, d)
	const rows, cols = 4 * copyPartsMax, 1000 // rows of 2000 bytes: many do not begin at a multiple of 16
	x, err := d.Alloc(gpu.BF16, rows, cols)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Free(x)
	big, err := d.Alloc(gpu.I32, 5<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Free(big)
	want, wantBig := pattern(x.Bytes(), 3), pattern(big.Bytes(), 5)
	if err := errors.Join(d.Upload(x, want), d.Upload(big, wantBig)); err != nil {
		t.Fatal(err)
	}
	var to, from []gpu.Tensor
	for i := 0; i+3 < rows; i += 4 { // row i+2 becomes what i is, and of every other one i+3 what lies odd in i
		to, from = append(to, x.Slice(i+2, i+3)), append(from, x.Slice(i, i+1))
		copy(want[2000*(i+2):][:2000], want[2000*i:][:2000])
		if n := 1 + i%900; i%8 == 0 {
			to, from = append(to, x.Slice(i+3, i+4).Reshape(cols).Slice(7, 7+n)), append(from, x.Slice(i, i+1).Reshape(cols).Slice(11, 11+n))
			copy(want[2000*(i+3)+14:][:2*n], want[2000*i+22:][:2*n])
		}
	}
	half := big.Dims[0] / 2
	to, from = append(to, big.Slice(0, half)), append(from, big.Slice(half, 2*half))
	copy(wantBig[:4*half], wantBig[4*half:])
	if err := d.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		t    gpu.Tensor
		want []byte
	}{{x, want}, {big, wantBig}} {
		got := make([]byte, c.t.Bytes())
		if err := d.Download(got, c.t); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, c.want) {
			t.Errorf("%v holds other bytes than were copied", c.t)
		}
	}
	if err := d.Copy(nil, nil); err != nil {
		t.Error(err)
	}
}

// exportVariable holds, in a process that exports, the GPU that it does so on.
const exportVariable = "TROUPE_CUDA_EXPORTER"

const exportedRows, exportedCols = 2, 8 << 20 // 64 MiB of float32

// exporter is a process that has exported a tensor of pattern(…, 9).
type exporter struct {
	shared gpu.Shared
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Scanner
}

func startExporter(t *testing.T, device int) *exporter {
	t.Helper()
	x := &exporter{cmd: exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestShareOutlives$", "-test.timeout=100s")}
	x.cmd.Env, x.cmd.Stderr = append(os.Environ(), fmt.Sprint(exportVariable, "=", device)), os.Stderr
	in, err := x.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := x.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := x.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.kill)
	x.in, x.out = in, bufio.NewScanner(out)
	if err := json.Unmarshal([]byte(x.says(t)), &x.shared); err != nil {
		t.Fatal(err)
	}
	return x
}

// says is the next line with the word for it.
func (x *exporter) says(t *testing.T) string {
	t.Helper()
	for x.out.Scan() {
		if text, ok := strings.CutPrefix(x.out.Text(), "EXPORTER "); ok {
			return text
		}
	}
	t.Fatal("the exporter has ended")
	return ""
}

func (x *exporter) kill() {
	_ = x.cmd.Process.Kill() // an error means that it has ended
	_ = x.cmd.Wait()
}

// export is the process: it exports, frees when it is told to, and ends when its input does.
func export(t *testing.T, device string) {
	var o Options
	if _, err := fmt.Sscan(device, &o.Device); err != nil {
		t.Fatal(err)
	}
	d := open(t, o)
	defer mustClose(t, d)
	x, err := d.Alloc(gpu.F32, exportedRows, exportedCols)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(d.Upload(x, pattern(x.Bytes(), 9)), d.Sync()); err != nil {
		t.Fatal(err)
	}
	shared, err := d.Export(x)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(shared)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Printf("EXPORTER %s\n", text)
	in := bufio.NewScanner(os.Stdin)
	in.Scan()
	d.Free(x)
	fmt.Println("EXPORTER freed")
	in.Scan()
}

// What is mapped can be read, copied from and given back whatever its exporter does: it frees the memory, or dies. Nothing of it
// harms the importer's own work.
func TestShareOutlives(t *testing.T) {
	needDevice(t)
	if device := os.Getenv(exportVariable); device != "" {
		export(t, device)
		return
	}
	for name, end := range map[string]func(t *testing.T, x *exporter){
		"killed": func(_ *testing.T, x *exporter) { x.kill() },
		"freed": func(t *testing.T, x *exporter) {
			fmt.Fprintln(x.in, "free")
			x.says(t)
		},
	} {
		t.Run(name, func(t *testing.T) { copyFrom(t, startExporter(t, 0), end) })
	}
}

// A GPU reads what a process exported on another, where they reach each other.
func TestShareWithAPeer(t *testing.T) {
	needDevice(t)
	d := open(t, Options{})
	places, err := d.Places()
	mustClose(t, d)
	if err != nil {
		t.Fatal(err)
	}
	if len(places) < 2 {
		t.Skipf("SKIPPED: this GPU reaches no other: %v", places)
	}
	copyFrom(t, startExporter(t, 1), func(_ *testing.T, x *exporter) { x.kill() })
}

// copyFrom maps what x exports, copies it to this process's own memory while x lives and, again, when it has come to an end.
func copyFrom(t *testing.T, x *exporter, end func(t *testing.T, x *exporter)) {
	d := open(t, Options{})
	defer mustClose(t, d)
	own, err := d.Alloc(gpu.F32, exportedRows, exportedCols)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Free(own)
	mapped, err := d.Import(x.shared)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Free(mapped)
	want, got := pattern(own.Bytes(), 9), make([]byte, own.Bytes())
	take := func() bool {
		t.Helper()
		if err := errors.Join(d.Copy([]gpu.Tensor{own.Slice(1, 2), own.Slice(0, 1)}, []gpu.Tensor{mapped.Slice(1, 2), mapped.Slice(0, 1)}), d.Download(got, own)); err != nil {
			t.Fatal(err)
		}
		return bytes.Equal(got, want)
	}
	if !take() {
		t.Fatal("other bytes came than were exported")
	}
	end(t, x)
	left := 0
	for range 20 {
		if take() {
			left++
		}
	}
	t.Logf("%d of 20 copies after the exporter's end had what it had exported", left)
	if err := d.Upload(own, want); err != nil {
		t.Fatal(err)
	}
	if err := d.Download(got, own); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the importer's own memory does not hold what was written: %v", err)
	}
}
