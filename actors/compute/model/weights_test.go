package model

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/troupe-engine/troupe/internal/gguf"
	"github.com/troupe-engine/troupe/internal/safetensors"
)

// weightMaker makes random tensors: as a file's bytes, and as values for the oracle.
type weightMaker struct {
	r       *rand.Rand
	dtype   safetensors.DType
	tensors []safetensors.Named
	values  map[string][]float64 // under the names of unfused projections
}

// randomWeights makes every tensor that s calls for, in the given type.
func randomWeights(t testing.TB, r *rand.Rand, s *Spec, dtype safetensors.DType) ([]byte, map[string][]float64) {
	t.Helper()
	m := &weightMaker{r: r, dtype: dtype, values: map[string][]float64{}}
	m.add("model.embed_tokens.weight", s.VocabSize, s.HiddenSize)
	m.add("model.norm.weight", s.HiddenSize)
	if !s.TiedEmbeddings {
		m.add("lm_head.weight", s.VocabSize, s.HiddenSize)
	}
	for i, layer := range s.Layers {
		prefix := fmt.Sprintf("model.layers.%d.", i)
		m.attention(s, prefix)
		m.mlp(s, prefix, layer)
	}
	var b bytes.Buffer
	if err := safetensors.Write(&b, m.tensors); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), m.values
}

func (m *weightMaker) attention(s *Spec, prefix string) {
	h := s.HiddenSize
	m.add(prefix+"input_layernorm.weight", h)
	m.add(prefix+"post_attention_layernorm.weight", h)
	if s.PostNorms {
		m.add(prefix+"pre_feedforward_layernorm.weight", h)
		m.add(prefix+"post_feedforward_layernorm.weight", h)
	}
	prefix += "self_attn."
	if s.QKNorm {
		m.add(prefix+"q_norm.weight", s.HeadDim)
		m.add(prefix+"k_norm.weight", s.HeadDim)
	}
	m.projection(prefix+"o_proj", s.OutputBias, h, s.QueryWidth())
	q, k, v := part{prefix + "q_proj", s.QueryWidth()}, part{prefix + "k_proj", s.KVWidth()}, part{prefix + "v_proj", s.KVWidth()}
	if s.FusedProjections {
		m.fused(prefix+"qkv_proj", h, q, k, v)
		return
	}
	for _, p := range []part{q, k, v} {
		m.projection(p.name, s.QKVBias, p.rows, h)
	}
}

func (m *weightMaker) mlp(s *Spec, prefix string, layer LayerSpec) {
	h, f := s.HiddenSize, layer.Intermediate
	if layer.MoE {
		m.add(prefix+s.experts.router, s.Experts, h)
		for e := range s.Experts {
			m.add(prefix+fmt.Sprintf(s.experts.gate, e), f, h)
			m.add(prefix+fmt.Sprintf(s.experts.up, e), f, h)
			m.add(prefix+fmt.Sprintf(s.experts.down, e), h, f)
		}
		return
	}
	prefix += "mlp."
	m.projection(prefix+"down_proj", s.MLPBias, h, f)
	if s.FusedProjections {
		m.fused(prefix+"gate_up_proj", h, part{prefix + "gate_proj", f}, part{prefix + "up_proj", f})
		return
	}
	m.projection(prefix+"gate_proj", s.MLPBias, f, h)
	m.projection(prefix+"up_proj", s.MLPBias, f, h)
}

func (m *weightMaker) projection(name string, bias bool, n, k int) {
	m.add(name+".weight", n, k)
	if bias {
		m.add(name+".bias", n)
	}
}

// fused makes one tensor of the stacked parts, each [rows, k], and values of each part.
func (m *weightMaker) fused(name string, k int, parts ...part) {
	rows := 0
	for _, p := range parts {
		rows += p.rows
	}
	m.add(name+".weight", rows, k)
	v := m.values[name+".weight"]
	for _, p := range parts {
		m.values[p.name+".weight"], v = v[:p.rows*k], v[p.rows*k:]
	}
}

func (m *weightMaker) add(name string, shape ...int) {
	n := 1
	for _, d := range shape {
		n *= d
	}
	var data []byte
	values := make([]float64, n)
	for i := range values {
		f := float32(m.r.NormFloat64() / 3)
		switch m.dtype {
		case safetensors.F32:
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(f))
		case safetensors.BF16:
			f = roundBF16(f)
			data = binary.LittleEndian.AppendUint16(data, uint16(math.Float32bits(f)>>16))
		case safetensors.F16:
			h := uint16(m.r.IntN(2))<<15 | uint16(8+m.r.IntN(6))<<10 | uint16(m.r.IntN(1024)) // 2^-7 <= |f| < 1/2
			data = binary.LittleEndian.AppendUint16(data, h)
			var wide [1]float32
			gguf.Dequantize(gguf.F16, wide[:], data[len(data)-2:])
			f = wide[0]
		}
		values[i] = float64(f)
	}
	m.tensors = append(m.tensors, safetensors.Named{Name: name, View: safetensors.View{DType: m.dtype, Shape: shape, Data: data}})
	m.values[name] = values
}
