package cuda

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/examine"
)

// A submitted kernel is tried in a process of its own: a fault ruins the context that it happens in and all of the process's
// others with it, a kernel that does not end cannot be stopped but with its process, and the same goes for what a text can make
// the compiler do. The process is this program again, with trialVariable in its environment, which init notices before
// anything else runs; it has a context on the same GPU, without the engine's kernels, weights or data.

const (
	trialVariable = "TROUPE_KERNEL_TRIAL" // the most time that the trial may take
	trialPipe     = 3                     // file on which the process reports, since kernels can print on the others
	trialBytesMax = 64 << 20              // of its report
	trialLogBytes = 64 << 10              // of the compiler's messages, and of what the process prints
)

func init() {
	limit, err := time.ParseDuration(os.Getenv(trialVariable))
	if err != nil {
		return // it is not such a process
	}
	time.AfterFunc(limit, func() { os.Exit(1) }) // if the parent is gone
	report := json.NewEncoder(os.NewFile(trialPipe, "report"))
	tell := func(m trialReport) {
		if report.Encode(&m) != nil {
			os.Exit(1) // nobody listens
		}
	}
	var o trialOrder
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		tell(trialReport{Error: err.Error()})
		os.Exit(1)
	}
	o.run(tell)
	os.Exit(0)
}

// trialOrder is what the process is asked to do.
type trialOrder struct {
	Device  int
	Compute gpu.DType
	Arch    string
	Kernel  gpu.KernelSource
	Shapes  []gpu.KernelShape
}

// trialReport is a step of a trial. One of the fields is set.
type trialReport struct {
	Error  string           // there can be no trial
	Memory bool             // … because the GPU has no memory left for it
	Log    *string          // it does not compile
	Code   []byte           // it does
	Shape  *gpu.KernelShape // this one is next
	Case   *gpu.KernelCase  // it is done
	Ended  string           // the kernel ruined the process
	Done   bool
}

// run is the life of the process that tries a kernel.
func (o *trialOrder) run(tell func(trialReport)) {
	fail := func(err error) {
		tell(trialReport{Error: err.Error(), Memory: errors.Is(err, gpu.ErrOutOfMemory)})
	}
	n, _, err := loadNVRTC(hostSearch())
	if err != nil {
		fail(err)
		return
	}
	code, err := n.compile(submittedFile, submittedSource(o.Compute, o.Kernel.Source), compileOptions(o.Arch))
	if err != nil {
		log := err.Error()
		if _, messages, found := strings.Cut(log, ":\n"); found { // of the compiler, behind what was asked of it
			log = messages
		}
		log = shortened(log)
		tell(trialReport{Log: &log})
		return
	}
	tell(trialReport{Code: code})
	d, err := openWith(Options{Device: o.Device, Compute: o.Compute}, func(gpu.DType) []module { return nil })
	if err != nil {
		fail(err)
		return
	}
	k, err := d.Load(&o.Kernel, code)
	if field := (*gpu.KernelFieldError)(nil); errors.As(err, &field) {
		log := field.Text
		tell(trialReport{Log: &log})
		return
	}
	if err != nil {
		tell(trialReport{Ended: err.Error()})
		return
	}
	for _, s := range o.Shapes {
		tell(trialReport{Shape: &s})
		c, err := examine.Check(d, o.Kernel.Op, s, func(args any) error {
			if err := k.Launch(args); err != nil {
				return err
			}
			return d.Sync() // a fault is this launch's
		})
		switch {
		case errors.Is(err, gpu.ErrOutOfMemory):
			fail(err)
			return
		case err != nil:
			tell(trialReport{Ended: err.Error()})
			return
		}
		tell(trialReport{Case: &c})
	}
	tell(trialReport{Done: true})
}

func shortened(text string) string {
	if len(text) > trialLogBytes {
		return strings.ToValidUTF8(text[:trialLogBytes], "") + "\n…"
	}
	return strings.ToValidUTF8(text, "\uFFFD")
}

// Try implements gpu.Submitter.
func (d *Device) Try(ctx context.Context, k *gpu.KernelSource, shapes []gpu.KernelShape) (*gpu.KernelTrial, error) {
	if err := errors.Join(k.Validate(), d.Submittable(k.Op), checkDirectives(k.Source)); err != nil {
		return nil, err
	}
	order, err := json.Marshal(&trialOrder{d.ordinal, d.compute, d.properties.arch(), *k, shapes})
	if err != nil {
		return nil, err
	}
	began := time.Now()
	reports, ended, err := runTrial(ctx, order)
	if err != nil {
		return nil, err
	}
	t := &gpu.KernelTrial{}
	doing, done := "compiling", false
	for _, r := range reports {
		switch {
		case r.Memory:
			return nil, fmt.Errorf("%w for the process that tries the kernel: %s", gpu.ErrOutOfMemory, r.Error)
		case r.Error != "":
			return nil, fmt.Errorf("cuda: the kernel could not be tried: %s", r.Error)
		case r.Log != nil:
			t.Log, done = *r.Log, true
		case r.Code != nil:
			t.Code, doing = r.Code, "opening the GPU"
		case r.Shape != nil:
			doing = fmt.Sprintf("trying %d rows of %d", r.Shape.Rows, r.Shape.Cols)
		case r.Case != nil:
			t.Cases = append(t.Cases, *r.Case)
		case r.Ended != "":
			t.Ended, done = fmt.Sprintf("%s: %s", doing, shortened(r.Ended)), true
		case r.Done:
			done = true
		}
	}
	switch {
	case done:
	case ctx.Err() != nil:
		t.Ended = fmt.Sprintf("%s took longer than the trial may, after %v in all", doing, time.Since(began).Round(100*time.Millisecond))
	default:
		t.Ended = fmt.Sprintf("%s ended its process: %s", doing, ended)
	}
	return t, nil
}

// runTrial runs the process and returns what it reported, and how it ended.
func runTrial(ctx context.Context, order []byte) (reports []trialReport, ended string, err error) {
	program, err := os.Executable()
	if err != nil {
		return nil, "", fmt.Errorf("cuda: the process that tries kernels: %w", err)
	}
	from, to, err := os.Pipe()
	if err != nil {
		return nil, "", fmt.Errorf("cuda: the process that tries kernels: %w", err)
	}
	defer from.Close()
	limit := time.Hour
	if deadline, ok := ctx.Deadline(); ok {
		limit = time.Until(deadline) + time.Second
	}
	printed := &tail{}
	cmd := exec.CommandContext(ctx, program)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%v", trialVariable, limit))
	cmd.Stdin, cmd.Stdout, cmd.Stderr, cmd.ExtraFiles = bytes.NewReader(order), printed, printed, []*os.File{to}
	cmd.WaitDelay = time.Second
	err = cmd.Start()
	_ = to.Close() // the process has its own
	if err != nil {
		return nil, "", fmt.Errorf("cuda: the process that tries kernels: %w", err)
	}
	decoder := json.NewDecoder(io.LimitReader(from, trialBytesMax))
	for {
		var r trialReport
		if decoder.Decode(&r) != nil { // it ended, in whatever way
			break
		}
		reports = append(reports, r)
	}
	_ = from.Close() // it cannot report more than it may
	if err := cmd.Wait(); err != nil {
		ended = err.Error()
	}
	return reports, strings.TrimSpace(ended + "\n" + printed.String()), nil
}

// tail keeps the last bytes that were written to it.
type tail struct{ text []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.text = append(t.text, p...)
	if over := len(t.text) - trialLogBytes; over > 0 {
		t.text = append(t.text[:0], t.text[over:]...)
	}
	return len(p), nil
}

func (t *tail) String() string { return shortened(string(t.text)) }
