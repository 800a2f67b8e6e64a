package ref

import "math"

// FeedTokens: tokens[t] where that is >= 0, otherwise lastToken[slots[t]].
func FeedTokens(tokens, slots, lastToken []int32) []int32 {
	out := make([]int32, len(tokens))
	for t, id := range tokens {
		if id < 0 {
			id = lastToken[slots[t]]
		}
		out[t] = id
	}
	return out
}

// Embed gathers rows of table[V, hidden] and scales them.
func Embed(table []float32, hidden int, ids []int32, scale float32) []float32 {
	out := make([]float32, 0, len(ids)*hidden)
	for _, id := range ids {
		for _, v := range table[int(id)*hidden : (int(id)+1)*hidden] {
			out = append(out, v*scale)
		}
	}
	return out
}

// MatMul: out[t, n] = sum_k x[t, k] * w[n, k] + bias[n] + old[t, n]; bias and old may be nil.
func MatMul(x, w, bias, old []float32, n, k int) []float32 {
	tokens := len(x) / k
	out := make([]float32, tokens*n)
	for t := range tokens {
		for row := range n {
			var sum float64
			for i := range k {
				sum += float64(x[t*k+i]) * float64(w[row*k+i])
			}
			if bias != nil {
				sum += float64(bias[row])
			}
			if old != nil {
				sum += float64(old[t*n+row])
			}
			out[t*n+row] = float32(sum)
		}
	}
	return out
}

// RMSNorm normalizes rows of len(weight). Zhang & Sennrich 2019, arXiv:1910.07467.
func RMSNorm(x, weight []float32, eps, offset float32) []float32 {
	out := make([]float32, len(x))
	cols := len(weight)
	for at := 0; at < len(x); at += cols {
		var squares float64
		for _, v := range x[at : at+cols] {
			squares += float64(v) * float64(v)
		}
		scale := 1 / math.Sqrt(squares/float64(cols)+float64(eps))
		for i, v := range x[at : at+cols] {
			out[at+i] = float32(float64(v) * scale * (float64(weight[i]) + float64(offset)))
		}
	}
	return out
}

// Add: a + b.
func Add(a, b []float32) []float32 {
	out := make([]float32, len(a))
	for i := range a {
		out[i] = a[i] + b[i]
	}
	return out
}

// GatherRows: x[rows[r]].
func GatherRows(x []float32, cols int, rows []int32) []float32 {
	return Embed(x, cols, rows, 1)
}

// SoftCap: cap * tanh(x / cap).
func SoftCap(x []float32, limit float32) []float32 {
	out := make([]float32, len(x))
	for i, v := range x {
		out[i] = float32(softCap(float64(v), float64(limit)))
	}
	return out
}

func softCap(x, limit float64) float64 { return limit * math.Tanh(x/limit) }

// SiLU: x * sigmoid(x).
func SiLU(x float64) float64 { return x / (1 + math.Exp(-x)) }

// GELUTanh: the tanh approximation of GELU. Hendrycks & Gimpel 2016, arXiv:1606.08415.
func GELUTanh(x float64) float64 {
	return 0.5 * x * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
}

// ActMul: act(x[t, i]) * x[t, width+i] for rows of 2*width.
func ActMul(x []float32, width int, act func(float64) float64) []float32 {
	out := make([]float32, 0, len(x)/2)
	for at := 0; at < len(x); at += 2 * width {
		for i := range width {
			out = append(out, float32(act(float64(x[at+i]))*float64(x[at+width+i])))
		}
	}
	return out
}
