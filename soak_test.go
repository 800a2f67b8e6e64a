package troupe

import (
	"context"
	"flag"
	"runtime"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/internal/soak"
)

var (
	soakDuration = flag.Duration("soak.duration", 8*time.Second, "how long TestSoak loads the engine")
	soakClients  = flag.Int("soak.clients", 16, "how many clients ask at once in TestSoak")
	soakSeed     = flag.Uint64("soak.seed", 1, "seed of TestSoak's requests")
)

// TestSoak loads an engine that is too small for the load: the KV pool holds a few sequences, so that
// others are preempted, the queues are short, so that bursts are refused.
func TestSoak(t *testing.T) { soakOn(t, nil) }

// The same on a GPU.
func TestSoakOnCUDA(t *testing.T) {
	needCUDA(t)
	soakOn(t, func(o *Options) { o.Device, o.Compute = "cuda", "bf16" })
}

func soakOn(t *testing.T, change func(*Options)) {
	e := openOn(t, network{}, func(o *Options) {
		o.BlockSize, o.KVBlocks, o.SequencesMax, o.TokensStepMax = 8, 64, 12, 64
		o.RequestsMax, o.WaitingMax = 32, 24
		if change != nil {
			change(o)
		}
	})
	c := clientOf(t, e)
	ctx, cancel := context.WithTimeout(context.Background(), *soakDuration+2*time.Minute)
	defer cancel()
	report := soak.Run(ctx, c, soak.Config{Duration: *soakDuration, Round: min(10*time.Second, *soakDuration/4), Seed: *soakSeed, Burst: 96, Clients: *soakClients,
		Log: t.Logf, Process: func() soak.Process {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			return soak.Process{Goroutines: runtime.NumGoroutine(), Subscriptions: e.Node().Subscriptions(), HeapBytes: m.HeapAlloc}
		}})
	t.Logf("\n%s", report.Curves())
	for _, f := range report.Failures {
		t.Error(f)
	}
	if report.Complete == 0 || report.Refused == 0 || report.Overloaded == 0 || report.GivenUp == 0 {
		t.Errorf("the mix was one-sided: %d complete, %d refused, %d overloaded, %d given up", report.Complete, report.Refused, report.Overloaded, report.GivenUp)
	}
	if s := report.Last; s != nil && s.Scheduler.Preemptions == 0 {
		t.Error("nothing was preempted: the KV pool is too large for this test")
	}
}
