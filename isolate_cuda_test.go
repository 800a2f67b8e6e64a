package troupe

import (
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cuda"
	"github.com/troupe-engine/troupe/internal/supervise"
)

// faultyVariable makes a replica's process commit an illegal access on SIGUSR1.
const faultyVariable = "TROUPE_TEST_FAULTY"

// faulty is a device that reads where there is nothing when it is told to, which ruins the context of a GPU.
type faulty struct {
	gpu.Device
	told atomic.Bool
}

func chooseFaulty(o Options) (gpu.Device, string, error) {
	d, why, err := ChooseDevice(o)
	if err != nil {
		return nil, "", err
	}
	f := &faulty{Device: d}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGUSR1)
	go func() {
		for range signals {
			f.told.Store(true)
		}
	}()
	return f, why, nil
}

func (f *faulty) Launch(op gpu.Op, args any) error {
	if f.told.Swap(false) {
		if err := f.Device.(*cuda.Device).Fault(); err != nil {
			return err
		}
	}
	return f.Device.Launch(op, args)
}

// needCUDA skips a test, loudly, where no CUDA device opens; TROUPE_REQUIRE_CUDA=1 makes that a failure.
func needCUDA(t *testing.T) {
	t.Helper()
	d, err := OpenDevice(Options{Device: "cuda", Compute: "f32"})
	if err != nil {
		if os.Getenv("TROUPE_REQUIRE_CUDA") == "1" {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED: no CUDA device opens: %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

// A real fault of CUDA's, in the middle of streams: the process is replaced, a new one opens the GPU, and they go on.
func TestStreamsOutliveAFaultOfCUDA(t *testing.T) {
	needCUDA(t)
	list := asks(t, 17, 8, 900) // on the GPU, too
	e := openOn(t, network{supervise: supervise.Config{}, replicaCommand: func() *exec.Cmd {
		cmd := replicaProcess()
		cmd.Env = append(cmd.Env, faultyVariable+"=1")
		return cmd
	}}, func(o *Options) { o.Isolate, o.Device, o.KVBlocks = true, "cuda", 1024 })
	var differ atomic.Int32
	var running sync.WaitGroup
	for _, a := range list {
		running.Go(func() {
			switch got, err := streamText(e, a.body, nil); {
			case err != nil:
				t.Errorf("%s: %v", a.body, err)
			case got != a.want: // sums on a GPU may depend on the batch, in the last bit
				differ.Add(1)
				t.Logf("%s:\ngot  %q\nwant %q", a.body, got, a.want)
			}
		})
	}
	computes(t, e, 50)
	send(t, e, syscall.SIGUSR1)
	running.Wait()
	if n := differ.Load(); int(n) > len(list)/4 {
		t.Errorf("%d of %d answers differ from the undisturbed ones", n, len(list))
	}
	if all := metrics(t, e); !strings.Contains(all, `troupe_replica_process_restarts_total{reason="device_lost"} 1`) {
		t.Error("no process has lost its device; nothing was tested")
	}
	if status, body := debug(t, e, http.MethodGet, "/health", ""); status != http.StatusOK {
		t.Errorf("health is %d %s", status, body)
	}
	if info, err := e.Info(t.Context()); err != nil || info.Device != "cuda:0" {
		t.Errorf("it goes on at %+v, %v", info, err)
	}
}
