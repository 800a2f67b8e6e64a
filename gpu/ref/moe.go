package ref

import (
	"math"
	"slices"
)

// MoERoute chooses topK of the experts for each row of logits[T, experts], in descending order
// of probability with ties to the lower expert.
func MoERoute(logits []float32, experts, topK int, normalize bool) (chosen []int32, weights []float32) {
	for at := 0; at < len(logits); at += experts {
		p := softmax(logits[at : at+experts])
		order := make([]int32, experts)
		for e := range order {
			order[e] = int32(e)
		}
		row := logits[at : at+experts]
		slices.SortStableFunc(order, func(a, b int32) int { return descending(row[a], row[b]) })
		divisor := 1.0
		if normalize {
			divisor = 0
			for _, e := range order[:topK] {
				divisor += p[e]
			}
		}
		for _, e := range order[:topK] {
			chosen = append(chosen, e)
			weights = append(weights, float32(p[e]/divisor))
		}
	}
	return chosen, weights
}

// descending orders larger values first.
func descending(a, b float32) int {
	switch {
	case a > b:
		return -1
	case a < b:
		return 1
	}
	return 0
}

// MoEExperts returns out + sum_j weights[t, j] * down[e](act(gate x) * up x), e = chosen[t, j],
// in order of expert index. gateUp[e] is [2*width, hidden], down[e] is [hidden, width].
func MoEExperts(out, x []float32, hidden, width int, gateUp, down [][]float32,
	chosen []int32, weights []float32, act func(float64) float64) []float32 {
	tokens := len(x) / hidden
	topK := len(chosen) / tokens
	result := append([]float32(nil), out...)
	for t := range tokens {
		sum := make([]float64, hidden)
		for e := range gateUp {
			for j := t * topK; j < (t+1)*topK; j++ {
				if int(chosen[j]) != e {
					continue
				}
				h := MatMul(x[t*hidden:(t+1)*hidden], gateUp[e], nil, nil, 2*width, hidden)
				y := MatMul(ActMul(h, width, act), down[e], nil, nil, hidden, width)
				for i := range sum {
					sum[i] += float64(weights[j]) * float64(y[i])
				}
			}
		}
		for i := range sum {
			result[t*hidden+i] += float32(sum[i])
		}
	}
	return result
}

// softmax in float64.
func softmax(x []float32) []float64 {
	largest := math.Inf(-1)
	for _, v := range x {
		largest = max(largest, float64(v))
	}
	p := make([]float64, len(x))
	var total float64
	for i, v := range x {
		p[i] = math.Exp(float64(v) - largest)
		total += p[i]
	}
	for i := range p {
		p[i] /= total
	}
	return p
}
