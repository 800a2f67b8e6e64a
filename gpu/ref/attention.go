package ref

import "math"

// RoPETable: cos and sin of positions[t] * invFreq[i], times scale. The angle is a float32
// product, as in Hugging Face; its cosine is exact for that angle.
func RoPETable(positions []int32, invFreq []float32, scale float32) (cos, sin []float32) {
	for _, p := range positions {
		for _, f := range invFreq {
			angle := float64(float32(p) * f)
			cos = append(cos, float32(math.Cos(angle)*float64(scale)))
			sin = append(sin, float32(math.Sin(angle)*float64(scale)))
		}
	}
	return cos, sin
}

// RoPE rotates, in a copy of x[T, stride], the first 2*half elements of each of the heads that
// start at column: pairs are (i, i+half), the rotate-half convention. half = len(cos)/T.
// Su et al. 2021, arXiv:2104.09864.
func RoPE(x []float32, stride, column, heads, headDim int, cos, sin []float32) []float32 {
	out := append([]float32(nil), x...)
	tokens := len(x) / stride
	half := len(cos) / tokens
	for t := range tokens {
		for h := range heads {
			head := out[t*stride+column+h*headDim:][:headDim]
			for i := range half {
				a, b := float64(head[i]), float64(head[i+half])
				c, s := float64(cos[t*half+i]), float64(sin[t*half+i])
				head[i] = float32(a*c - b*s)
				head[i+half] = float32(b*c + a*s)
			}
		}
	}
	return out
}

// Pool is the shape of a paged K or V pool: [blocks, KVHeads, BlockSize, HeadDim].
type Pool struct{ KVHeads, BlockSize, HeadDim int }

// At returns the offset of the vector at (block, head, position in block).
func (p Pool) At(block, head, offset int) int {
	return ((block*p.KVHeads+head)*p.BlockSize + offset) * p.HeadDim
}

// KVWrite stores into pool the heads that start at column of kv[T, stride], token t at
// slotMapping[t] = block*BlockSize + offset; -1 stores nothing.
func KVWrite(pool []float32, p Pool, kv []float32, stride, column int, slotMapping []int32) {
	for t, slot := range slotMapping {
		if slot < 0 {
			continue
		}
		block, offset := int(slot)/p.BlockSize, int(slot)%p.BlockSize
		for h := range p.KVHeads {
			from := t*stride + column + h*p.HeadDim
			copy(pool[p.At(block, h, offset):][:p.HeadDim], kv[from:from+p.HeadDim])
		}
	}
}

// KVCopy copies block pairs[2i] to pairs[2i+1].
func KVCopy(pool []float32, p Pool, pairs []int32) {
	size := p.At(1, 0, 0)
	for i := 0; i < len(pairs); i += 2 {
		copy(pool[int(pairs[i+1])*size:][:size], pool[int(pairs[i])*size:][:size])
	}
}

// Attention is causal attention over paged keys and values; the fields are those of
// gpu.Attention. Kwon et al. 2023, arXiv:2309.06180.
type Attention struct {
	Q                            []float32 // [T, Stride]
	Stride, QColumn, Heads       int
	K, V                         []float32
	Pool                         Pool
	BlockTables                  []int32 // [slots, TableWidth]
	TableWidth                   int
	Slots, QueryStart, Positions []int32
	Scale, SoftCap               float32
	Window                       int
}

// Run returns [T, Heads*HeadDim].
func (a Attention) Run() []float32 {
	dim := a.Pool.HeadDim
	out := make([]float32, len(a.Positions)*a.Heads*dim)
	for s, slot := range a.Slots {
		table := a.BlockTables[int(slot)*a.TableWidth:][:a.TableWidth]
		for t := int(a.QueryStart[s]); t < int(a.QueryStart[s+1]); t++ {
			for h := range a.Heads {
				a.head(out[(t*a.Heads+h)*dim:][:dim], table, t, h)
			}
		}
	}
	return out
}

// head computes one query head: softmax(scale * q.K) V over the positions it may see.
func (a Attention) head(out []float32, table []int32, t, h int) {
	dim := a.Pool.HeadDim
	q := a.Q[t*a.Stride+a.QColumn+h*dim:][:dim]
	kvHead := h / (a.Heads / a.Pool.KVHeads)
	last := int(a.Positions[t])
	first := 0
	if a.Window > 0 {
		first = max(0, last-a.Window+1)
	}
	at := func(p int) int { return a.Pool.At(int(table[p/a.Pool.BlockSize]), kvHead, p%a.Pool.BlockSize) }

	var scores []float64
	largest := math.Inf(-1)
	for p := first; p <= last; p++ {
		var dot float64
		for i, k := range a.K[at(p):][:dim] {
			dot += float64(q[i]) * float64(k)
		}
		dot *= float64(a.Scale)
		if a.SoftCap > 0 {
			dot = softCap(dot, float64(a.SoftCap))
		}
		scores = append(scores, dot)
		largest = max(largest, dot)
	}
	sum := make([]float64, dim)
	var total float64
	for i, score := range scores {
		weight := math.Exp(score - largest)
		total += weight
		for j, v := range a.V[at(first+i):][:dim] {
			sum[j] += weight * float64(v)
		}
	}
	for j := range out {
		out[j] = float32(sum[j] / total)
	}
}
