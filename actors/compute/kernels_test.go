package compute

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
	"github.com/troupe-engine/troupe/gpu/examine"
	"github.com/troupe-engine/troupe/schemas"
)

// workshop is a CPU device that takes kernels in source, as CUDA's does: the source names one of a few.
type workshop struct {
	*cpu.Device
	loaded atomic.Int32 // kernels that are loaded and not registered
}

// craft is what the source names: what a launch does with, or instead of, the device's own kernel.
func (w *workshop) craft(k *gpu.KernelSource, dev gpu.Device) func(args any) error {
	own := func(args any) error { return dev.Launch(k.Op, args) }
	return map[string]func(args any) error{
		"copy": own,
		"thorough": func(args any) error {
			time.Sleep(100 * time.Microsecond)
			return own(args)
		},
		"idle": func(any) error { return nil },
		"careless": func(args any) error {
			a := *args.(*gpu.RMSNorm)
			a.Eps *= 3
			return own(&a)
		},
		"panics": func(any) error { panic("a kernel of the test panics") },
	}[k.Source]
}

func (w *workshop) Submittable(op gpu.Op) error {
	if op != gpu.OpRMSNorm && op != gpu.OpRoPE {
		return fmt.Errorf("%w: only rmsnorm and rope", gpu.ErrNotSupported)
	}
	return nil
}

func (w *workshop) Try(ctx context.Context, k *gpu.KernelSource, shapes []gpu.KernelShape) (*gpu.KernelTrial, error) {
	switch k.Source {
	case "nonsense":
		return &gpu.KernelTrial{Log: "submitted.cu(1): error: nonsense"}, nil
	case "hang":
		<-ctx.Done()
		return &gpu.KernelTrial{Code: []byte("x"), Ended: "it took longer than the trial may"}, nil
	case "nowhere":
		return nil, fmt.Errorf("%w for the process that tries the kernel", gpu.ErrOutOfMemory)
	}
	dev, err := cpu.Open(cpu.Options{Threads: 1})
	if err != nil {
		return nil, err
	}
	trial := &gpu.KernelTrial{Code: []byte(k.Source)}
	launch := w.craft(k, dev)
	if k.Source == "panics" { // only in the engine
		launch = func(args any) error { return dev.Launch(k.Op, args) }
	}
	for _, s := range shapes {
		c, err := examine.Check(dev, k.Op, s, launch)
		if err != nil {
			return nil, err
		}
		trial.Cases = append(trial.Cases, c)
	}
	return trial, dev.Close()
}

func (w *workshop) Load(k *gpu.KernelSource, _ []byte) (gpu.LoadedKernel, error) {
	w.loaded.Add(1)
	return &crafted{w, *k}, nil
}

type crafted struct {
	w *workshop
	k gpu.KernelSource
}

func (c *crafted) Launch(args any) error { return c.w.craft(&c.k, c.w.Device)(args) }
func (c *crafted) Unload() error         { c.w.loaded.Add(-1); return nil }
func (c *crafted) Register(doc string, _ bool) error {
	c.w.loaded.Add(-1)
	c.w.Device.Register(c.k.Op, c.k.Name, doc, func(*cpu.Device, any) error { return nil })
	return nil
}

// startKernels starts a computation manager on a CPU device, or on one that takes kernels.
func startKernels(t *testing.T, node *bus.Node, submit, workshops bool) (*Actor, *workshop) {
	t.Helper()
	own, err := cpu.Open(cpu.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	w := &workshop{Device: own}
	dev := gpu.Device(own)
	if workshops {
		dev = w
	}
	seed := uint64(1)
	m, err := model.Load(dev, fstest.MapFS{"config.json": {Data: []byte(`{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 300,
		"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
		"max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": false}`)}},
		model.Options{SequencesMax: 2, TokensPerStepMax: 8, BlockSize: 4, KVBlocks: 8, RandomSeed: &seed}, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := New(node, bus.NewGroup(), Config{Replica: "replica0", SubmitKernels: submit}, dev, m, zerolog.Nop())
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.Stop()
		if err := errors.Join(m.Close(), own.Close()); err != nil {
			t.Error(err)
		}
	})
	return a, w
}

func submitTo(t *testing.T, node *bus.Node, r *schemas.SubmitKernelRequest) (*schemas.SubmitKernelReply, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	return bus.NewRef(node, schemas.SubmitKernel, "replica0").Call(ctx, r)
}

func normOf(source string) *schemas.SubmitKernelRequest {
	return &schemas.SubmitKernelRequest{Op: "rmsnorm", Name: "my-" + source, Source: source, Entry: "f", Threads: 32, PerBlock: 1}
}

// toldOf is a reply without its cases.
func toldOf(r *schemas.SubmitKernelReply) string {
	if r == nil {
		return "no reply"
	}
	return fmt.Sprintf("%s against %s: %s", r.Verdict, r.Against, r.Reason)
}

// active is the implementation of rmsnorm that runs.
func active(t *testing.T, node *bus.Node) string {
	t.Helper()
	reply, err := bus.NewRef(node, schemas.Kernels, "replica0").Call(t.Context(), &schemas.KernelsRequest{Op: "rmsnorm"})
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range reply.Kernels {
		if k.Active {
			return k.Name
		}
	}
	return ""
}

// Each verdict, with its numbers; what is refused leaves nothing behind.
func TestSubmitKernel(t *testing.T) {
	node := startNode(t)
	_, w := startKernels(t, node, true, true)
	before := active(t, node)
	for source, want := range map[string]schemas.KernelVerdict{"nonsense": schemas.KernelDoesNotCompile, "idle": schemas.KernelWrong, "careless": schemas.KernelWrong, "thorough": schemas.KernelSlower} {
		r, err := submitTo(t, node, normOf(source))
		if err != nil || r.Verdict != want || r.Reason == "" || r.Against != before {
			t.Errorf("%s: %v, %v; want %s", source, toldOf(r), err, want)
			continue
		}
		if compiles := want != schemas.KernelDoesNotCompile; compiles == (r.Log != "") || compiles != (len(r.Cases) > 10) {
			t.Errorf("%s: %d cases, log %q", source, len(r.Cases), r.Log)
		}
		if (want == schemas.KernelSlower) != (r.Ratio > slowerMax) {
			t.Errorf("%s: ratio %v", source, r.Ratio)
		}
		if active(t, node) != before || w.loaded.Load() != 0 {
			t.Errorf("%s: %s is active, %d kernels are loaded", source, active(t, node), w.loaded.Load())
		}
	}
	slow := normOf("thorough")
	slow.EvenIfSlower = true
	r, err := submitTo(t, node, slow)
	if err != nil || r.Verdict != schemas.KernelActivated || active(t, node) != "my-thorough" || r.ErrorMax > r.Cases[0].Allowed {
		t.Fatalf("%v, %v; %s is active", toldOf(r), err, active(t, node))
	}
	timed := 0
	for _, c := range r.Cases {
		if c.TimeUs > 0 && c.AgainstUs > 0 {
			timed++
		}
		if c.Model != (c.TimeUs > 0) || c.Fault != "" {
			t.Errorf("%+v", c)
		}
	}
	if timed == 0 || !strings.Contains(r.Reason, "times as long") {
		t.Errorf("%d sizes were timed: %s", timed, r.Reason)
	}
}

// What cannot be tried is an error that names the field; so is what goes wrong on the way, after which compute still works.
func TestSubmitKernelErrors(t *testing.T) {
	node := startNode(t)
	a, w := startKernels(t, node, true, true)
	a.exec.model.Spec().QKNorm = true
	for name, c := range map[string]struct {
		change func(r *schemas.SubmitKernelRequest)
		kind   schemas.Kind
		param  string
	}{
		"no op":          {func(r *schemas.SubmitKernelRequest) { r.Op = "teleport" }, schemas.KindNotFound, "op"},
		"another op":     {func(r *schemas.SubmitKernelRequest) { r.Op = "sample" }, schemas.KindUnsupported, "op"},
		"norms of heads": {func(r *schemas.SubmitKernelRequest) { r.Op = "rope" }, schemas.KindUnsupported, "op"},
		"no name":        {func(r *schemas.SubmitKernelRequest) { r.Name = "" }, schemas.KindInvalid, "name"},
		"a name in use":  {func(r *schemas.SubmitKernelRequest) { r.Name = "go" }, schemas.KindInvalid, "name"},
		"no source":      {func(r *schemas.SubmitKernelRequest) { r.Source = "" }, schemas.KindInvalid, "source"},
		"too long":       {func(r *schemas.SubmitKernelRequest) { r.Source = strings.Repeat("x", 300<<10) }, schemas.KindInvalid, "source"},
		"threads":        {func(r *schemas.SubmitKernelRequest) { r.Threads = -1 }, schemas.KindInvalid, "threads"},
		"no model's":     {func(r *schemas.SubmitKernelRequest) { r.ColsMin = 65 }, schemas.KindInvalid, "cols_min"},
		"no memory":      {func(r *schemas.SubmitKernelRequest) { r.Source = "nowhere" }, schemas.KindNoMemory, ""},
		"panics at home": {func(r *schemas.SubmitKernelRequest) { r.Source = "panics" }, schemas.KindInternal, ""},
	} {
		r := normOf("copy")
		c.change(r)
		_, err := submitTo(t, node, r)
		var e *schemas.Error
		if !errors.As(err, &e) || e.Kind != c.kind || e.Param != c.param {
			t.Errorf("%s: %v; want %s of %q", name, err, c.kind, c.param)
		}
	}
	if active(t, node) == "" || w.loaded.Load() != 0 {
		t.Errorf("%d kernels are loaded", w.loaded.Load())
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if r, err := bus.NewRef(node, schemas.SubmitKernel, "replica0").Call(ctx, normOf("hang")); err == nil && r.Verdict != schemas.KernelCrashed {
		t.Errorf("%+v", r)
	}
}

// Without being enabled, and on a device that takes none, kernels are refused; choosing works all the same.
func TestSubmitKernelIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		enabled, workshop bool
		want              string
	}{"not enabled": {false, true, "--enable-kernel-submit"}, "on the CPU": {true, false, "--device cuda"}} {
		t.Run(name, func(t *testing.T) {
			node := startNode(t)
			startKernels(t, node, c.enabled, c.workshop)
			_, err := submitTo(t, node, normOf("copy"))
			var e *schemas.Error
			if !errors.As(err, &e) || e.Kind != schemas.KindUnsupported || !strings.Contains(e.Hint, c.want) {
				t.Errorf("%v; want a hint with %s", err, c.want)
			}
			kernels := bus.NewRef(node, schemas.Kernels, "replica0")
			if _, err := kernels.Call(t.Context(), &schemas.KernelsRequest{Op: "rmsnorm", Select: "go"}); err != nil || active(t, node) != "go" {
				t.Errorf("%v; %s is active", err, active(t, node))
			}
			for _, r := range []schemas.KernelsRequest{{Op: "rmsnorm", Select: "best"}, {Op: "teleport"}, {Select: "go"}} {
				if _, err := kernels.Call(t.Context(), &r); !errors.Is(err, &schemas.Error{Kind: schemas.KindNotFound}) {
					t.Errorf("%+v: %v", r, err)
				}
			}
		})
	}
}

// While a step runs, all that may ask at once wait for its end, and none is refused.
func TestChoicesWaitForTheStep(t *testing.T) {
	a, _ := startKernels(t, startNode(t), false, false)
	const most = choosersMax + 1 // and one submission
	hold, held, ends := make(chan struct{}), make(chan struct{}), make(chan error, most+1)
	release := sync.OnceFunc(func() { close(hold) })
	defer release()
	go func() {
		ends <- a.between(func() error {
			close(held)
			<-hold
			return nil
		})
	}()
	<-held
	for range most {
		go func() { ends <- a.between(func() error { return nil }) }()
	}
	for deadline := time.Now().Add(time.Minute); len(a.exec.jobs) < most && time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		select {
		case err := <-ends:
			t.Fatalf("refused: %v", err)
		default:
		}
	}
	release()
	for range most + 1 {
		if err := <-ends; err != nil {
			t.Error(err)
		}
	}
}

// Whoever records is told of a choice.
func TestChoiceIsJournaled(t *testing.T) {
	node := startNode(t)
	startKernels(t, node, false, false)
	heard := make(chan *schemas.JournalEntry, 100)
	var decoder bus.JournalDecoder
	sub, err := node.Conn().Subscribe(schemas.JournalPrefix+">", func(m *nats.Msg) {
		batch, err := decoder.Decode(m.Data)
		if err != nil {
			t.Error(err)
			return
		}
		for i := range batch.Entries {
			heard <- &batch.Entries[i]
		}
	})
	if err == nil {
		err = node.Conn().Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if _, err := bus.NewRef(node, schemas.Kernels, "replica0").Call(t.Context(), &schemas.KernelsRequest{Op: "matmul", Select: "go"}); err != nil {
		t.Fatal(err)
	}
	for deadline := time.After(10 * time.Second); ; {
		select {
		case e := <-heard:
			if e.Actor != "compute.replica0" {
				continue
			}
			r := &schemas.KernelsRequest{}
			if err := bus.Unmarshal(e.Delivery.Message, r); err != nil || e.Delivery.Subject != schemas.Kernels.Subject("replica0") || r.Op != "matmul" || r.Select != "go" {
				t.Errorf("%+v, %v", r, err)
			}
			return
		case <-deadline:
			t.Fatal("nothing was journaled")
		}
	}
}
