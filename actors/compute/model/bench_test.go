package model

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"testing/fstest"
	"time"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
	"github.com/troupe-engine/troupe/internal/safetensors"
)

// benchModels have random weights; stories260K has that model's shape.
var benchModels = []struct {
	name   string
	config map[string]any
}{
	{"stories260K", map[string]any{"model_type": "llama", "vocab_size": 512, "hidden_size": 64, "intermediate_size": 172,
		"num_hidden_layers": 5, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512, "tie_word_embeddings": true}},
	{"4M", map[string]any{"model_type": "llama", "vocab_size": 4096, "hidden_size": 256, "intermediate_size": 512,
		"num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4, "max_position_embeddings": 512, "tie_word_embeddings": true}},
}

// benchContext is the tokens each sequence has in its cache when it decodes.
const benchContext = 128

func benchEngine(b *testing.B, config map[string]any) *engine {
	b.Helper()
	gpu.TraceLeaks(false)
	text, err := json.Marshal(config)
	if err != nil {
		b.Fatal(err)
	}
	spec, err := ParseConfig(text, nil)
	if err != nil {
		b.Fatal(err)
	}
	weights, _ := randomWeights(b, rand.New(rand.NewPCG(1, 1)), spec, safetensors.BF16)
	dev, err := cpu.Open(cpu.Options{})
	if err != nil {
		b.Fatal(err)
	}
	opts := Options{SequencesMax: 16, TokensPerStepMax: 512, BlockSize: 16, KVBlocks: 16 * (benchContext/16 + 1)}
	m, err := Load(dev, fstest.MapFS{"config.json": {Data: text}, "model.safetensors": {Data: weights}}, opts, nil)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		m.Close()
		dev.Close()
	})
	e := &engine{t: b, m: m, dev: dev}
	for block := range opts.KVBlocks {
		e.free = append(e.free, int32(block))
	}
	return e
}

// BenchmarkDecode measures one decode step with its sampling.
func BenchmarkDecode(b *testing.B) {
	for _, model := range benchModels {
		for _, batch := range []int{1, 16} {
			b.Run(fmt.Sprintf("%s/batch=%d", model.name, batch), func(b *testing.B) {
				e := benchEngine(b, model.config)
				pieces := make([]piece, batch)
				params := make([]gpu.SampleParams, batch)
				for i := range pieces {
					s := &sequence{slot: i}
					e.step(piece{s, make([]int32, benchContext), 1})
					pieces[i] = piece{s, []int32{-1}, 1}
					params[i].Slot = int32(i)
				}
				e.measure(b, e.input(pieces), params)
			})
		}
	}
}

// BenchmarkPrefill measures one step that computes a whole prompt.
func BenchmarkPrefill(b *testing.B) {
	for _, model := range benchModels {
		for _, tokens := range []int{16, 128} {
			b.Run(fmt.Sprintf("%s/tokens=%d", model.name, tokens), func(b *testing.B) {
				e := benchEngine(b, model.config)
				in := e.input([]piece{{&sequence{}, make([]int32, tokens), 1}})
				e.measure(b, in, make([]gpu.SampleParams, 1))
			})
		}
	}
}

// measure repeats one step and reports its µs, and where they go: each op's, and the host's.
func (e *engine) measure(b *testing.B, in *StepInput, params []gpu.SampleParams) {
	b.Helper()
	step := func() {
		logits, err := e.m.Forward(in)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := e.m.Sample(params, logits); err != nil {
			b.Fatal(err)
		}
		if err := e.dev.Sync(); err != nil {
			b.Fatal(err)
		}
	}
	step()
	b.ReportAllocs()
	for b.Loop() {
		step()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/1e3/float64(b.N), "µs/step")
	b.ReportMetric(float64(len(in.Tokens)*b.N)/b.Elapsed().Seconds(), "tokens/s")

	const splitSteps = 100
	timed := &timedDevice{Device: e.dev, spent: map[gpu.Op]time.Duration{}}
	e.m.dev = timed
	began := time.Now()
	for range splitSteps {
		step()
	}
	host := time.Since(began)
	e.m.dev = e.dev
	for op, d := range timed.spent {
		host -= d
		b.ReportMetric(float64(d.Nanoseconds())/1e3/splitSteps, string(op)+"-µs")
	}
	b.ReportMetric(float64(host.Nanoseconds())/1e3/splitSteps, "host-µs")
}

// timedDevice adds up the time of each op. It costs about 0.1 µs a launch.
type timedDevice struct {
	gpu.Device
	spent map[gpu.Op]time.Duration
}

func (d *timedDevice) Launch(op gpu.Op, args any) error {
	began := time.Now()
	err := d.Device.Launch(op, args)
	d.spent[op] += time.Since(began)
	return err
}
