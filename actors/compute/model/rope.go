package model

import (
	"fmt"
	"math"
)

// RoPE is one rotary position scheme, ready to use: frequencies with their scaling applied.
// Su et al. 2021, arXiv:2104.09864; the scaled schemes follow transformers 5.17,
// modeling_rope_utils.py.
type RoPE struct {
	Type    string    // "default", "linear", "llama3", "yarn" or "longrope"
	Theta   float64   // base period
	InvFreq []float32 // [D_rot/2] radians per position
	Scale   float32   // multiplies cos and sin

	// LongRoPE has a second set of frequencies for contexts beyond the original one.
	LongInvFreq     []float32 // nil for other types
	OriginalContext int       // tokens
}

// Bounds of a base period: at 1 every frequency would be the same and YaRN's logarithm 0.
const (
	thetaMin = 2
	thetaMax = 1e12
)

// Frequencies returns the frequencies to serve contexts of up to contextMax tokens. LongRoPE
// chooses by the longest context served and not by each sequence's length, as cached keys
// must all have been rotated alike.
func (r *RoPE) Frequencies(contextMax int) []float32 {
	if r.LongInvFreq != nil && contextMax > r.OriginalContext {
		return r.LongInvFreq
	}
	return r.InvFreq
}

// addRoPE reads the one scheme of all layers. Its object may be rope_scaling (transformers 4)
// or rope_parameters (5), which some configs nest by layer type.
func (s *Spec) addRoPE(c *object, theta, fraction float64) {
	scheme, nested := ropeObject(c)
	theta = c.number("rope_theta", theta, thetaMin, thetaMax)
	if !nested {
		s.RoPE = []RoPE{s.parseRoPE(c, scheme, theta, fraction)}
		return
	}
	s.RoPE = []RoPE{
		s.parseRoPE(c, scheme.child(fullAttention), theta, fraction),
		s.parseRoPE(c, scheme.child(slidingAttention), theta, fraction),
	}
	s.slidingLayersUseRoPE(1)
}

// addGemma3RoPE reads Gemma 3's two schemes: a long base with optional scaling for full
// attention, a short one for sliding attention.
func (s *Spec) addGemma3RoPE(c *object) {
	scheme, nested := ropeObject(c)
	full, sliding := scheme, &object{path: c.path, problems: c.problems}
	if nested {
		full, sliding = scheme.child(fullAttention), scheme.child(slidingAttention)
	} else if c.has("rope_parameters") && !c.has("rope_scaling") {
		c.wrong("rope_parameters", `an object with "full_attention" and "sliding_attention"`)
	}
	s.RoPE = []RoPE{
		s.parseRoPE(c, full, c.number("rope_theta", 1e6, thetaMin, thetaMax), 1),
		s.parseRoPE(c, sliding, c.number("rope_local_base_freq", 10000, thetaMin, thetaMax), 1),
	}
	s.slidingLayersUseRoPE(1)
}

func (s *Spec) slidingLayersUseRoPE(index int) {
	for i := range s.Layers {
		if s.Layers[i].Window > 0 {
			s.Layers[i].RoPE = index
		}
	}
}

// ropeObject returns the object that configures RoPE and whether it is nested by layer type.
func ropeObject(c *object) (*object, bool) {
	scheme := c.child(c.firstKey("rope_scaling", "rope_parameters"))
	return scheme, scheme.has(fullAttention) || scheme.has(slidingAttention)
}

// parseRoPE turns one rope object r into frequencies. c is the whole config.
func (s *Spec) parseRoPE(c, r *object, theta, fraction float64) RoPE {
	if f := r.number("partial_rotary_factor", fraction, 0, 1); f != fraction {
		r.failf("partial_rotary_factor", "is %g, but %s rotates %g of each head", f, s.Architecture, fraction)
	}
	if f := c.number("partial_rotary_factor", fraction, 0, 1); f != fraction {
		c.failf("partial_rotary_factor", "is %g, but %s rotates %g of each head", f, s.Architecture, fraction)
	}
	rotated := int(float64(s.HeadDim) * fraction)
	if rotated < 2 || rotated%2 != 0 {
		c.failf("head_dim", "gives %d rotated elements per head, want an even number from 2", rotated)
		rotated = 2
	}
	out := RoPE{Theta: r.number("rope_theta", theta, thetaMin, thetaMax), Scale: 1}
	out.Type = r.text(r.firstKey("rope_type", "type"), "default")
	if s.ModelType == "phi3" && (out.Type == "su" || out.Type == "yarn") {
		out.Type = "longrope" // earlier names of it in Phi-3 configs
	}
	base := make([]float64, rotated/2)
	for i := range base {
		base[i] = math.Pow(out.Theta, -float64(2*i)/float64(rotated))
	}
	switch out.Type {
	case "default":
		out.InvFreq = narrow(base)
	case "linear":
		factor := scaleFactor(r)
		for i := range base {
			base[i] /= factor
		}
		out.InvFreq = narrow(base)
	case "llama3":
		out.InvFreq = s.llama3(c, r, base)
	case "yarn":
		s.yarn(c, r, &out, base)
	case "longrope":
		s.longrope(c, r, &out, base)
	default:
		r.failf(r.firstKey("rope_type", "type"), "is %q, which is not supported; supported: default, linear, llama3, yarn, longrope", clip(out.Type))
	}
	return out
}

func scaleFactor(r *object) float64 {
	if !r.has("factor") {
		r.failf("factor", "is missing, want a number of at least 1")
	}
	return r.number("factor", 1, 1, 1e6)
}

// originalContext is the context length before scaling. A key at the top of the config has
// priority over the rope object's, as in transformers.
func (s *Spec) originalContext(c, r *object) int {
	def := r.integer("original_max_position_embeddings", s.ContextMax, 2, ContextMax)
	original := c.integer("original_max_position_embeddings", def, 2, ContextMax)
	if original < 2 { // max_position_embeddings, which may be 1 without scaling
		c.failf("original_max_position_embeddings", "is missing, and max_position_embeddings, its default, is %d, want at least 2", original)
	}
	return original
}

// llama3 leaves fast frequencies, divides slow ones by factor and blends between.
func (s *Spec) llama3(c, r *object, base []float64) []float32 {
	factor := scaleFactor(r)
	low := r.number("low_freq_factor", 1, 1e-3, 1e6)
	high := r.number("high_freq_factor", 4, 1e-3, 1e6)
	if high <= low {
		r.failf("high_freq_factor", "is %g, want more than low_freq_factor %g", high, low)
	}
	original := float64(s.originalContext(c, r))
	for i, f := range base {
		turns := original * f / (2 * math.Pi) // full turns within the original context
		switch {
		case turns < low:
			base[i] = f / factor
		case turns <= high:
			blend := (turns - low) / (high - low)
			base[i] = (1-blend)*f/factor + blend*f
		}
	}
	return narrow(base)
}

// yarn interpolates by number of turns and raises the attention temperature.
// Peng et al. 2023, arXiv:2309.00071.
func (s *Spec) yarn(c, r *object, out *RoPE, base []float64) {
	original := float64(s.originalContext(c, r))
	factor := float64(s.ContextMax) / original
	if r.has("factor") {
		factor = scaleFactor(r)
	}
	dim := float64(2 * len(base))
	bound := func(turns float64) float64 { // the element that makes so many turns in the original context
		return dim * math.Log(original/(turns*2*math.Pi)) / (2 * math.Log(out.Theta))
	}
	low := bound(r.number("beta_fast", 32, 1e-3, 1e6))
	high := bound(r.number("beta_slow", 1, 1e-3, 1e6))
	if r.boolean("truncate", true) {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, dim-1)
	if low == high {
		high += 0.001
	}
	for i, f := range base {
		interpolate := min(max((float64(i)-low)/(high-low), 0), 1)
		base[i] = f/factor*interpolate + f*(1-interpolate)
	}
	out.InvFreq = narrow(base)

	temperature := func(mscale float64) float64 {
		if factor <= 1 {
			return 1
		}
		return 0.1*mscale*math.Log(factor) + 1
	}
	scale := temperature(1)
	m, all := r.number("mscale", 0, 0, 1e3), r.number("mscale_all_dim", 0, 0, 1e3)
	if m != 0 && all != 0 {
		scale = temperature(m) / temperature(all)
	}
	out.Scale = float32(r.number("attention_factor", scale, 0, 1e3))
}

// longrope divides each frequency by its own searched factor, one set for contexts up to the
// original length and one beyond. Ding et al. 2024, arXiv:2402.13753.
func (s *Spec) longrope(c, r *object, out *RoPE, base []float64) {
	short := r.numbers("short_factor", len(base), 1e-3, 1e6)
	long := r.numbers("long_factor", len(base), 1e-3, 1e6)
	out.OriginalContext = s.originalContext(c, r)
	if s.ModelType == "phi3" && !c.has("original_max_position_embeddings") && !r.has("original_max_position_embeddings") {
		out.OriginalContext = 4096 // the class default
	}
	factor := float64(s.ContextMax) / float64(out.OriginalContext)
	if r.has("factor") {
		factor = scaleFactor(r)
	}
	scale := 1.0
	if factor > 1 {
		scale = math.Sqrt(1 + math.Log(factor)/math.Log(float64(out.OriginalContext)))
	}
	out.Scale = float32(r.number("attention_factor", scale, 0, 1e3))
	slow := make([]float64, len(base))
	for i, f := range base {
		base[i], slow[i] = f/short[i], f/long[i]
	}
	out.InvFreq, out.LongInvFreq = narrow(base), narrow(slow)
}

// narrow rounds frequencies to float32. Scaling cannot make them negative or infinite, as
// every factor was bounded when it was read.
func narrow(f []float64) []float32 {
	out := make([]float32, len(f))
	for i, v := range f {
		out[i] = float32(v)
		if math.IsNaN(v) || math.IsInf(v, 0) {
			panic(fmt.Sprintf("model: rope frequency %d is %v", i, v))
		}
	}
	return out
}

// roundFrequencies rounds the rotary frequencies to bfloat16: see Options.RoPEBF16.
func (s *Spec) roundFrequencies() {
	for i := range s.RoPE {
		for j, f := range s.RoPE[i].InvFreq {
			s.RoPE[i].InvFreq[j] = roundBF16(f)
		}
	}
}
