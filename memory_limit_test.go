package troupe

import (
	"net/http"
	"strings"
	"testing"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
)

// openLimited starts an engine on a CPU device that may hold so many bytes; 0 is no limit.
func openLimited(t *testing.T, bytes int64) *Engine {
	t.Helper()
	choose := func(Options) (gpu.Device, string, error) {
		d, err := cpu.Open(cpu.Options{Threads: 1, MemoryLimitBytes: bytes})
		return d, "test", err
	}
	return openOn(t, network{chooseDevice: choose}, func(o *Options) { o.KVBlocks = 1024 })
}

// A request that asks a step for more memory than there is fails alone, with its name, the sizes and what to change. The
// others in the step, and those after it, know nothing of it.
func TestOutOfMemoryFailsTheRequestThatAsksForIt(t *testing.T) {
	list := asks(t, 15, 6, 900)
	free := openLimited(t, 0)
	complete(t, free, `{"prompt": "The king", "max_tokens": 4, "n": 8}`) // buffers that every engine soon has
	used := free.Device().Memory().Bytes
	e := openLimited(t, used+1<<20)
	greedy := `{"prompt":"` + strings.Repeat("The queen ", 200) + `","max_tokens":2,"echo":true,"logprobs":1}` // logits of the whole prompt
	if status, body := debug(t, free, http.MethodPost, "/v1/completions", greedy); status != http.StatusOK {
		t.Fatalf("with enough memory: %d %s", status, body)
	}
	askTogether(t, e, list, func() {
		waitFor(t, "they run", func() bool { return e.gateway.Running() == int32(len(list)) })
		for range 3 {
			status, raw := debug(t, e, http.MethodPost, "/v1/completions", greedy)
			body := string(raw)
			if status != http.StatusInsufficientStorage {
				t.Fatalf("%d %s", status, body)
			}
			for _, want := range []string{"out_of_memory", "need ", " bytes, ", " free", "rows of logits", "lower kv_bytes_max or kv_blocks", "tokens_step_max (now 512)"} {
				if !strings.Contains(body, want) {
					t.Errorf("no %q in %s", want, body)
				}
			}
		}
	})
	if status, body := debug(t, e, http.MethodGet, "/health", ""); status != http.StatusOK {
		t.Errorf("health is %d %s", status, body)
	}
	complete(t, e, `{"prompt": "The king", "max_tokens": 4}`)
}
