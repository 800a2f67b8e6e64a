package compute

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cuda"
	"github.com/troupe-engine/troupe/internal/handover"
	"github.com/troupe-engine/troupe/schemas"
)

// The benchmark hands the KV of a prompt from a process to another, on one GPU: 2,048 tokens of Llama-3.1-8B's layers and heads, 268 MB
// in bfloat16. What is around keys and values is small.
const (
	benchTokens = 2048
	benchBlock  = 16
	benchBlocks = benchTokens / benchBlock
	benchConfig = `{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 320, "hidden_size": 128, "intermediate_size": 128,
		"num_hidden_layers": 32, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "tie_word_embeddings": false}`
)

// senderVariable makes a test process the side that has the KV.
const senderVariable = "TROUPE_TEST_SENDER"

// startOnCUDA is a side with a prompt's KV, or room for it.
func startOnCUDA(t testing.TB, phase string) *side {
	t.Helper()
	dev, err := cuda.Open(cuda.Options{Compute: gpu.BF16})
	if err != nil {
		if os.Getenv("TROUPE_REQUIRE_CUDA") == "1" {
			t.Fatal(err)
		}
		t.Skipf("SKIPPED: no CUDA device opens: %v", err)
	}
	seed := uint64(1)
	m, err := model.Load(dev, fstest.MapFS{"config.json": {Data: []byte(benchConfig)}},
		model.Options{SequencesMax: 2, TokensPerStepMax: 8, BlockSize: benchBlock, KVBlocks: 2 * benchBlocks, RandomSeed: &seed}, nil)
	if err != nil {
		t.Fatal(err)
	}
	node, err := bus.Start(bus.Options{Listen: "none", Log: zerolog.Nop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(node.Close)
	return startSideWith(t, dev, m, node, "p", Handover{Phase: phase})
}

// benchContent is what a layer's keys or values hold.
func benchContent(pool, bytes int) []byte {
	rng := rand.NewChaCha8([32]byte{byte(pool)})
	out := make([]byte, bytes)
	_, _ = rng.Read(out) // never fails
	return out
}

// TestSender is the other process: it offers the prompt's KV once for each line that it reads.
func TestSender(t *testing.T) {
	if os.Getenv(senderVariable) == "" {
		t.Skip("SKIPPED: it is a process of BenchmarkHandover and TestHandoverOnCUDA")
	}
	p := startOnCUDA(t, schemas.PhasePrefill)
	for i, pool := range p.exec.model.KVPools() {
		if err := p.dev.Upload(pool, benchContent(i, pool.Bytes())); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.dev.Sync(); err != nil {
		t.Fatal(err)
	}
	blocks, serials := make(schemas.I32, benchBlocks), make(schemas.U64, benchBlocks)
	for i := range blocks {
		blocks[i] = int32(i)
		if i%32 < 16 { // half of the blocks are no neighbours
			blocks[i] = int32(benchBlocks + (i*7)%benchBlocks)
		}
	}
	p.find = func() *schemas.KVFindReply { return &schemas.KVFindReply{Blocks: blocks, Serials: serials} }
	identity := mustKnow(t, p)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		offer, err := p.exchange.offer(t.Context(), &schemas.KVOfferRequest{Tokens: make(schemas.I32, benchTokens), Identity: identity})
		if err != nil {
			t.Fatal(err)
		}
		text, err := json.Marshal(map[string]any{"offer": offer, "blocks": blocks})
		if err != nil {
			t.Fatal(err)
		}
		fmt.Printf("SENDER %s\n", text)
	}
}

// remote is that process.
type remote struct {
	in     io.Writer
	out    *bufio.Scanner
	Offer  *schemas.KVOfferReply `json:"offer"`
	Blocks []int32               `json:"blocks"`
}

func startSender(t testing.TB) *remote {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestSender$", "-test.timeout=300s")
	cmd.Env, cmd.Stderr = append(os.Environ(), senderVariable+"=1"), os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := &remote{in: in, out: bufio.NewScanner(out)}
	t.Cleanup(func() {
		_ = in.Close()
		_, _ = io.Copy(io.Discard, out) // its result
		if err := cmd.Wait(); err != nil {
			t.Errorf("the sender: %v", err)
		}
	})
	return r
}

// offer asks for one that can be taken in one way alone.
func (r *remote) offer(t testing.TB, way string) *schemas.KVOfferReply {
	t.Helper()
	if _, err := fmt.Fprintln(r.in, "next"); err != nil {
		t.Fatal(err)
	}
	for r.out.Scan() {
		if text, ok := strings.CutPrefix(r.out.Text(), "SENDER "); ok {
			if err := json.Unmarshal([]byte(text), r); err != nil {
				t.Fatal(err)
			}
			if way == handover.WayTCP {
				r.Offer.Socket = ""
			}
			return r.Offer
		}
	}
	t.Fatal("the sender has ended")
	return nil
}

// take is a hand-over but for the messages that agree on it.
func (r *remote) take(t testing.TB, d *side, way string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	client := d.exchange.client
	if way == handover.WayDevice {
		client.Borrower = d.exchange.shares.borrower(ctx, "p")
	}
	req := &schemas.KVFetchRequest{Tokens: make(schemas.I32, benchTokens)}
	got, err := client.Fetch(ctx, r.offer(t, way), func(first, count int, payload handover.Payload) error {
		_, err := d.exchange.adoptBlocks(ctx, req, first, count, payload)
		return err
	})
	if err != nil || got != way {
		t.Fatalf("by %s, want %s: %v", got, way, err)
	}
	if err := d.dev.Sync(); err != nil { // the test's own: no step runs
		t.Fatal(err)
	}
}

func startReceiver(t testing.TB) *side {
	t.Helper()
	d := startOnCUDA(t, schemas.PhaseDecode)
	d.adopt = func(r *schemas.KVAdoptRequest) (list schemas.I32) {
		for i := range r.Count {
			list = append(list, r.First+i)
		}
		return list
	}
	return d
}

// Every way brings all blocks to where they belong, from a process to another.
func TestHandoverOnCUDA(t *testing.T) {
	d := startReceiver(t)
	r := startSender(t)
	for _, way := range handover.Ways {
		pools := d.exec.model.KVPools()
		for _, pool := range pools {
			if err := d.dev.Upload(pool, make([]byte, pool.Bytes())); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 {
			r.take(t, d, way)
		}
		for i, pool := range pools {
			got, sent := make([]byte, pool.Bytes()), benchContent(i, pool.Bytes())
			if err := d.dev.Download(got, pool); err != nil {
				t.Fatal(err)
			}
			size := len(got) / pool.Dims[0]
			for to, from := range r.Blocks {
				if !bytes.Equal(got[to*size:][:size], sent[int(from)*size:][:size]) {
					t.Fatalf("%s: pool %d: block %d is not what %d was", way, i, to, from)
				}
			}
			if rest := got[benchBlocks*size:]; !bytes.Equal(rest, make([]byte, len(rest))) {
				t.Fatalf("%s: pool %d: blocks changed that were not named", way, i)
			}
		}
	}
}

// BenchmarkHandover measures the ways: a prompt's KV from the pool of one process to that of another, on one GPU.
//
//	TROUPE_REQUIRE_CUDA=1 go test ./actors/compute -run XXX -bench Handover -benchtime 20x
func BenchmarkHandover(b *testing.B) {
	d := startReceiver(b)
	r := startSender(b)
	bytes := int64(benchBlocks * d.exec.blockBytes())
	for _, way := range handover.Ways {
		b.Run(strings.ReplaceAll(way, " ", "_"), func(b *testing.B) {
			r.take(b, d, way) // maps, and touches memory, for the first time
			b.SetBytes(bytes)
			for b.Loop() {
				r.take(b, d, way)
			}
		})
	}
}
