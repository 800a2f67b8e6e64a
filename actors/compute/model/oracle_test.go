package model

import (
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"sort"
	"testing"
	"testing/fstest"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/safetensors"
)

// oracle computes a decoder in float64 the slowest way: one token at a time over plain slices,
// with no cache, no fusion and nothing shared with the code under test but the Spec.
type oracle struct {
	spec    *Spec
	w       map[string][]float64
	routing float64 // smallest gap between a chosen expert and the best one left out
}

func (o *oracle) mul(name string, x []float64, rows int) []float64 {
	w, out := o.w[name+".weight"], make([]float64, rows)
	for r := range out {
		for i, v := range x {
			out[r] += w[r*len(x)+i] * v
		}
		if b := o.w[name+".bias"]; b != nil {
			out[r] += b[r]
		}
	}
	return out
}

func (o *oracle) norm(name string, x []float64) []float64 {
	w, out, sum := o.w[name+".weight"], make([]float64, len(x)), 0.0
	for _, v := range x {
		sum += v * v
	}
	for i, v := range x {
		out[i] = v / math.Sqrt(sum/float64(len(x))+float64(o.spec.NormEps)) * (w[i] + float64(o.spec.NormOffset))
	}
	return out
}

func (o *oracle) act(x float64) float64 {
	if o.spec.Activation == gpu.SiLU {
		return x / (1 + math.Exp(-x))
	}
	return x / 2 * (1 + math.Tanh(0.7978845608028654*(x+0.044715*x*x*x)))
}

// rotate applies default RoPE to every head in x.
func (o *oracle) rotate(x []float64, theta float64, rotated, position int) {
	for h := 0; h < len(x); h += o.spec.HeadDim {
		for i := range rotated / 2 {
			angle := float64(position) / math.Pow(theta, 2*float64(i)/float64(rotated))
			a, b := x[h+i], x[h+i+rotated/2]
			x[h+i] = a*math.Cos(angle) - b*math.Sin(angle)
			x[h+i+rotated/2] = b*math.Cos(angle) + a*math.Sin(angle)
		}
	}
}

func capped(x, limit float64) float64 {
	if limit == 0 {
		return x
	}
	return limit * math.Tanh(x/limit)
}

func addTo(x, y []float64) {
	for i := range x {
		x[i] += y[i]
	}
}

// attend returns the attention output of the query at position p, keys and values by position.
func (o *oracle) attend(q []float64, keys, values [][]float64, p, window int) []float64 {
	s, out := o.spec, make([]float64, len(q))
	from := 0
	if window > 0 {
		from = max(0, p-window+1)
	}
	for h := range s.Heads {
		kv := h / (s.Heads / s.KVHeads) * s.HeadDim
		weights, sum := make([]float64, p+1), 0.0
		for j := from; j <= p; j++ {
			dot := 0.0
			for d := range s.HeadDim {
				dot += q[h*s.HeadDim+d] * keys[j][kv+d]
			}
			weights[j] = math.Exp(capped(dot*float64(s.AttentionScale), float64(s.AttentionSoftCap)))
			sum += weights[j]
		}
		for j := from; j <= p; j++ {
			for d := range s.HeadDim {
				out[h*s.HeadDim+d] += weights[j] / sum * values[j][kv+d]
			}
		}
	}
	return out
}

func (o *oracle) mlp(gate, up, down string, x []float64, width int) []float64 {
	g, u := o.mul(gate, x, width), o.mul(up, x, width)
	for i := range g {
		g[i] = o.act(g[i]) * u[i]
	}
	return o.mul(down, g, len(x))
}

func (o *oracle) experts(prefix string, x []float64, width int) []float64 {
	s, out := o.spec, make([]float64, len(x))
	names := []string{"mlp.gate", "mlp.experts.%d.gate_proj", "mlp.experts.%d.up_proj", "mlp.experts.%d.down_proj"}
	if s.ModelType == "mixtral" {
		names = []string{"block_sparse_moe.gate", "block_sparse_moe.experts.%d.w1", "block_sparse_moe.experts.%d.w3", "block_sparse_moe.experts.%d.w2"}
	}
	p, order, sum := o.mul(prefix+names[0], x, s.Experts), make([]int, s.Experts), 0.0
	for e := range p {
		p[e], order[e] = math.Exp(p[e]), e
		sum += p[e]
	}
	sort.Slice(order, func(i, j int) bool { return p[order[i]] > p[order[j]] })
	if k := s.ExpertsPerToken; k < s.Experts {
		o.routing = min(o.routing, (p[order[k-1]]-p[order[k]])/sum)
	}
	if s.ExpertsNormalize {
		sum = 0
		for _, e := range order[:s.ExpertsPerToken] {
			sum += p[e]
		}
	}
	for _, e := range order[:s.ExpertsPerToken] {
		name := func(i int) string { return prefix + fmt.Sprintf(names[i], e) }
		for i, v := range o.mlp(name(1), name(2), name(3), x, width) {
			out[i] += p[e] / sum * v
		}
	}
	return out
}

// logits returns [T, V] for the tokens ids.
func (o *oracle) logits(ids []int32, thetas []float64, rotated int) [][]float64 {
	s := o.spec
	x := make([][]float64, len(ids))
	for t, id := range ids {
		for _, v := range o.w["model.embed_tokens.weight"][int(id)*s.HiddenSize:][:s.HiddenSize] {
			x[t] = append(x[t], v*float64(s.EmbedScale))
		}
	}
	for i, layer := range s.Layers {
		prefix := fmt.Sprintf("model.layers.%d.", i)
		a := prefix + "self_attn."
		var keys, values [][]float64
		for t := range x {
			h := o.norm(prefix+"input_layernorm", x[t])
			q, k, v := o.mul(a+"q_proj", h, s.QueryWidth()), o.mul(a+"k_proj", h, s.KVWidth()), o.mul(a+"v_proj", h, s.KVWidth())
			if s.QKNorm {
				for at := 0; at < len(q); at += s.HeadDim {
					copy(q[at:], o.norm(a+"q_norm", q[at:at+s.HeadDim]))
				}
				for at := 0; at < len(k); at += s.HeadDim {
					copy(k[at:], o.norm(a+"k_norm", k[at:at+s.HeadDim]))
				}
			}
			o.rotate(q, thetas[layer.RoPE], rotated, t)
			o.rotate(k, thetas[layer.RoPE], rotated, t)
			keys, values = append(keys, k), append(values, v)
			out := o.mul(a+"o_proj", o.attend(q, keys, values, t, layer.Window), s.HiddenSize)
			mlpNorm := "post_attention_layernorm"
			if s.PostNorms {
				out, mlpNorm = o.norm(prefix+mlpNorm, out), "pre_feedforward_layernorm"
			}
			addTo(x[t], out)
			h = o.norm(prefix+mlpNorm, x[t])
			if layer.MoE {
				h = o.experts(prefix, h, layer.Intermediate)
			} else {
				h = o.mlp(prefix+"mlp.gate_proj", prefix+"mlp.up_proj", prefix+"mlp.down_proj", h, layer.Intermediate)
			}
			if s.PostNorms {
				h = o.norm(prefix+"post_feedforward_layernorm", h)
			}
			addTo(x[t], h)
		}
	}
	output := "lm_head"
	if s.TiedEmbeddings {
		output = "model.embed_tokens"
	}
	for t := range x {
		x[t] = o.mul(output, o.norm("model.norm", x[t]), s.VocabSize)
		for i := range x[t] {
			x[t][i] = capped(x[t][i], float64(s.LogitSoftCap))
		}
	}
	return x
}

// TestRandomModels holds randomly shaped models of every architecture, in every weight type,
// to the oracle. Widths are deliberately no multiples of a vector's.
func TestRandomModels(t *testing.T) {
	for seed := range uint64(36) {
		arch := architectures[int(seed)%len(architectures)]
		t.Run(fmt.Sprintf("%s/seed=%d", arch.modelType, seed), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, 2))
			config, thetas, fraction := randomConfig(r, arch.modelType)
			text, err := json.Marshal(config)
			if err != nil {
				t.Fatal(err)
			}
			spec, err := ParseConfig(text, nil)
			if err != nil {
				t.Fatal(err)
			}
			dtype := []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16}[r.IntN(3)]
			file, values := randomWeights(t, r, spec, dtype)
			files := fstest.MapFS{"config.json": {Data: text}, "model.safetensors": {Data: file}}
			ids := make([]int32, 20)
			for i := range ids {
				ids[i] = int32(r.IntN(spec.VocabSize))
			}
			o := &oracle{spec: spec, w: values, routing: math.Inf(1)}
			want := o.logits(ids, thetas, int(float64(spec.HeadDim)*fraction))
			if o.routing < 1e-5 {
				t.Skip("SKIPPED: an expert choice is too close for float32")
			}
			e := newEngine(t, files, Options{SequencesMax: 2, TokensPerStepMax: 20, ContextMax: 32, BlockSize: 1 + r.IntN(7), KVBlocks: 40})
			e.scramble(seed)
			got := e.logitsInChunks(&sequence{slot: 1}, ids, 1+r.IntN(20))
			for row := range got {
				for i, v := range got[row] {
					if d := math.Abs(float64(v) - want[row][i]); !(d <= 1e-4*(1+math.Abs(want[row][i]))) {
						t.Fatalf("%s %s: row %d logit %d is %v, want %v", text, dtype, row, i, v, want[row][i])
					}
				}
			}
		})
	}
}

// randomConfig returns a config of the given type, its RoPE bases by scheme and the rotating
// fraction of a head.
func randomConfig(r *rand.Rand, modelType string) (map[string]any, []float64, float64) {
	between := func(low, high int) int { return low + r.IntN(high-low+1) }
	kv := between(1, 3)
	c := map[string]any{
		"model_type": modelType, "vocab_size": between(20, 60), "hidden_size": between(10, 40),
		"num_hidden_layers": between(1, 4), "num_key_value_heads": kv, "num_attention_heads": kv * between(1, 3),
		"head_dim": 4 * between(1, 4), "intermediate_size": between(5, 30), "max_position_embeddings": 64,
		"rms_norm_eps": 1e-5, "rope_theta": 100.0, "tie_word_embeddings": r.IntN(2) == 0,
	}
	thetas, fraction := []float64{100}, 1.0
	switch modelType {
	case "llama", "qwen3":
		c["attention_bias"], c["mlp_bias"] = r.IntN(2) == 0, r.IntN(2) == 0 // Qwen 3 has no mlp_bias and ignores it
	case "mistral", "mixtral":
		c["sliding_window"] = between(1, 12)
	case "qwen2":
		c["use_sliding_window"], c["sliding_window"], c["max_window_layers"] = true, between(1, 12), between(0, 3)
	case "qwen3_moe":
		c["norm_topk_prob"], c["decoder_sparse_step"] = r.IntN(2) == 0, between(1, 2)
	case "phi3":
		c["partial_rotary_factor"], fraction = 0.5, 0.5
	case "gemma2":
		c["sliding_window"], c["query_pre_attn_scalar"] = between(1, 12), between(2, 40)
		c["attn_logit_softcapping"], c["final_logit_softcapping"] = 3.0, 4.0
	case "gemma3_text":
		c["sliding_window"], c["sliding_window_pattern"], c["query_pre_attn_scalar"] = between(1, 12), 2, between(2, 40)
		c["rope_local_base_freq"], thetas = 30.0, []float64{100, 30}
	}
	if modelType == "mixtral" || modelType == "qwen3_moe" {
		experts := between(2, 5)
		c["num_local_experts"], c["num_experts_per_tok"], c["moe_intermediate_size"] = experts, between(1, experts), between(3, 20)
	}
	return c, thetas, fraction
}
