package eval

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/cpu"
	"github.com/troupe-engine/troupe/internal/defaultmodel"
)

// load returns the default model, sized for c.
func load(t *testing.T, dev gpu.Device, c *Config, quantize string) *model.Model {
	t.Helper()
	o := c.Options()
	o.Quantize = quantize
	m, err := model.Load(dev, defaultmodel.Files(), o, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func device(t *testing.T) *cpu.Device {
	dev, err := cpu.Open(cpu.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	return dev
}

// text is tokens that any model has.
func text(n int) []int32 {
	rng := rand.New(rand.NewPCG(1, 2))
	list := make([]int32, n)
	for i := range list {
		list[i] = 10 + rng.Int32N(100)
	}
	return list
}

// naive scores each token of a text by running all that its window holds before it, anew.
func naive(t *testing.T, dev *cpu.Device, m *model.Model, tokens []int32, c Config) (nll []float64) {
	t.Helper()
	r := newReader(dev, m)
	for i := range tokens {
		start := 0
		for start+c.Window <= i {
			start += c.Stride
		}
		before := append(append([]int32(nil), c.Prefix...), tokens[start:i]...)
		if len(before) == 0 {
			continue
		}
		for from := 0; from < len(before); from += StepMax {
			if err := r.read(before, from, min(from+StepMax, len(before)), len(before)-1); err != nil {
				t.Fatal(err)
			}
		}
		sum := 0.0
		for _, v := range r.logits {
			sum += math.Exp(float64(v))
		}
		nll = append(nll, math.Log(sum)-float64(r.logits[tokens[i]]))
	}
	return nll
}

// TestEveryTokenIsScoredOnce: with windows of any kind, the result is that of running everything token by token.
func TestEveryTokenIsScoredOnce(t *testing.T) {
	dev := device(t)
	for _, c := range []Config{
		{Window: 20, Stride: 10}, {Window: 20, Stride: 10, Step: 3}, {Window: 90, Stride: 45, Step: 8}, {Window: 20, Stride: 19}, {Window: 100, Stride: 1}, {Window: 2, Stride: 1}, {Window: 200, Stride: 30},
		{Prefix: []int32{1}, Window: 20, Stride: 20}, {Prefix: []int32{1}, Window: 90, Stride: 45},
	} {
		m := load(t, dev, &c, model.QuantizeOff)
		tokens := text(97)
		last := 0
		c.Progress = func(scored, total int) {
			if scored <= last || scored > total {
				t.Errorf("%+v: progress goes from %d to %d of %d", c, last, scored, total)
			}
			last = scored
		}
		r, err := Run(t.Context(), dev, m, nil, tokens, c)
		if err != nil {
			t.Fatal(err)
		}
		nll := naive(t, dev, m, tokens, c)
		want := score(nll)
		if r.Tokens != len(nll) || last != len(nll) || math.Abs(r.Score.NLL-want.NLL) > 1e-6 || r.Score.Perplexity != math.Exp(r.Score.NLL) {
			t.Errorf("window %d, stride %d: %d tokens of NLL %v, want %d of %v", c.Window, c.Stride, r.Tokens, r.Score.NLL, len(nll), want.NLL)
		}
		if r.Reference != nil || r.Divergence != nil {
			t.Error("a comparison with nothing")
		}
	}
}

func TestDivergence(t *testing.T) {
	dev := device(t)
	c := Config{Window: 32, Stride: 16}
	plain, q8, q4 := load(t, dev, &c, model.QuantizeOff), load(t, dev, &c, model.QuantizeQ8), load(t, dev, &c, model.QuantizeQ4)
	run := func(m, reference *model.Model) *Report {
		r, err := Run(t.Context(), dev, m, reference, text(80), c)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	if d := run(plain, plain).Divergence; d.KL > 1e-12 || d.Ratio != 1 || d.SameTop != 1 || d.RatioStdErr != 0 {
		t.Errorf("a model differs from itself: %+v", d)
	}
	eight, four := run(q8, plain), run(q4, plain)
	if eight.Divergence.KL <= 0 || four.Divergence.KL < 4*eight.Divergence.KL || four.Divergence.KLMax < four.Divergence.KLP99 {
		t.Errorf("q8 diverges by %+v, q4 by %+v", eight.Divergence, four.Divergence)
	}
	if got, want := eight.Divergence.Ratio, eight.Score.Perplexity/eight.Reference.Perplexity; math.Abs(got/want-1) > 1e-9 {
		t.Errorf("the ratio is %v, want %v", got, want)
	}
}

// TestMeasure compares with the definitions, for distributions that are hard on sums.
func TestMeasure(t *testing.T) {
	inf := float32(math.Inf(-1))
	for _, c := range []struct{ q, p []float32 }{
		{[]float32{1, 2, 3}, []float32{3, 2, 1}}, {[]float32{1000, 0, -1000}, []float32{999, 1, -500}}, {[]float32{0, 0, inf}, []float32{1, 0, inf}},
	} {
		probabilities := func(x []float32) []float64 {
			out, sum := make([]float64, len(x)), 0.0
			for i, v := range x {
				out[i] = math.Exp(float64(v - x[0]))
				sum += out[i]
			}
			for i := range out {
				out[i] /= sum
			}
			return out
		}
		p, q, kl := probabilities(c.p), probabilities(c.q), 0.0
		for i := range p {
			if p[i] > 0 {
				kl += p[i] * math.Log(p[i]/q[i])
			}
		}
		s := measure(c.q, c.p, 0)
		if math.Abs(s.kl-kl) > 1e-12 || math.Abs(s.nll+math.Log(q[0])) > 1e-12 || math.Abs(s.referenceNLL+math.Log(p[0])) > 1e-12 {
			t.Errorf("%v against %v: %+v, want a divergence of %v", c.q, c.p, s, kl)
		}
	}
	if s := measure([]float32{0, float32(math.NaN())}, nil, 0); s.nll == s.nll {
		t.Error("NaN does not show")
	}
}

func TestRefuses(t *testing.T) {
	dev := device(t)
	c := Config{Window: 32, Stride: 16}
	m := load(t, dev, &c, model.QuantizeOff)
	for name, change := range map[string]func(c *Config, tokens *[]int32){
		"no text":                  func(_ *Config, tokens *[]int32) { *tokens = nil },
		"one token":                func(_ *Config, tokens *[]int32) { *tokens = (*tokens)[:1] },
		"a window of one":          func(c *Config, _ *[]int32) { c.Window = 1 },
		"a window without end":     func(c *Config, _ *[]int32) { c.Window = 1 << 40 },
		"no stride":                func(c *Config, _ *[]int32) { c.Stride = 0 },
		"windows that don't touch": func(c *Config, _ *[]int32) { c.Stride = c.Window },
		"a token of no vocabulary": func(_ *Config, tokens *[]int32) { (*tokens)[20] = 1 << 30 },
	} {
		c, tokens := c, text(80)
		change(&c, &tokens)
		if _, err := Run(t.Context(), dev, m, nil, tokens, c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Run(ctx, dev, m, nil, text(80), c); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}
