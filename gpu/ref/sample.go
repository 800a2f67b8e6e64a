package ref

import (
	"cmp"
	"math"
	"slices"

	"github.com/troupe-engine/troupe/gpu"
)

// SampleRow draws one token from a row of logits; the parameters are those of
// gpu.SampleParams. It returns -1 if any logit is NaN.
//
// The scaled logit is the float32 quotient logit/temperature. Where the largest of them is
// infinite, because a logit is or the temperature is next to zero, there is no distribution to
// draw from, and the draw is greedy.
//
// Tokens are ordered by descending scaled logit, ties by ascending id; TopK and TopP keep a
// prefix of that order. A token passes MinP if its scaled logit is at least the largest plus
// [MinPThreshold] in float32, so backends agree on it without agreeing on exp. TopP always
// leaves one token.
func SampleRow(logits []float32, temperature, topP, minP float32, topK int32, seed uint64, position int32) int32 {
	for _, v := range logits {
		if v != v {
			return -1
		}
	}
	if !(temperature > 0) {
		return ranking(logits)[0]
	}
	scaled := make([]float32, len(logits))
	for i, v := range logits {
		scaled[i] = v / temperature
	}
	order := ranking(scaled)
	largest := scaled[order[0]]
	if math.IsInf(float64(largest), 0) {
		return ranking(logits)[0]
	}
	if minP > 0 {
		threshold := MinPThreshold(minP)
		order = slices.DeleteFunc(order, func(id int32) bool { return scaled[id]-largest < threshold })
	}
	if topK > 0 && int(topK) < len(order) {
		order = order[:topK]
	}
	if topP < 1 {
		order = topPrefix(order, scaled, topP)
	}
	best, bestID := math.Inf(-1), int32(-1)
	slices.Sort(order)
	for _, id := range order {
		if v := float64(scaled[id]) + Gumbel(seed, position, id); v > best {
			best, bestID = v, id
		}
	}
	return bestID
}

// ranking is the ids in descending order of value, ties by ascending id.
func ranking(values []float32) []int32 {
	order := make([]int32, len(values))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int { return descending(values[a], values[b]) })
	return order
}

// MinPThreshold is log(minP), at most 0: how far below the largest a scaled logit may be.
func MinPThreshold(minP float32) float32 {
	return min(0, float32(math.Log(float64(minP))))
}

// topPrefix returns the shortest prefix of order, at least one token, that holds topP of the
// probability mass of all of order.
func topPrefix(order []int32, scaled []float32, topP float32) []int32 {
	largest := float64(scaled[order[0]])
	var total, kept float64
	for _, id := range order {
		total += math.Exp(float64(scaled[id]) - largest)
	}
	for i, id := range order {
		kept += math.Exp(float64(scaled[id]) - largest)
		if kept >= float64(topP)*total {
			return order[:i+1]
		}
	}
	return order
}

// LogSoftmax returns log_softmax(row)[id] for each of ids, in float64.
func LogSoftmax(row []float32, ids []int32) []float32 {
	largest := math.Inf(-1)
	for _, v := range row {
		largest = max(largest, float64(v))
	}
	var total float64
	for _, v := range row {
		total += math.Exp(float64(v) - largest)
	}
	out := make([]float32, len(ids))
	for j, id := range ids {
		if id < 0 {
			out[j] = float32(math.Inf(-1))
			continue
		}
		out[j] = float32(float64(row[id]) - largest - math.Log(total))
	}
	return out
}

// EditLogits applies one row's edits and mask (nil for none) in place.
func EditLogits(row []float32, edits []gpu.LogitEdit, allowed []uint32) {
	for _, e := range edits {
		l := row[e.Token]
		if l > 0 {
			l /= e.Scale
		} else {
			l *= e.Scale
		}
		row[e.Token] = l + e.Add
	}
	if allowed == nil {
		return
	}
	for t := range row {
		if allowed[t/32]>>(t%32)&1 == 0 {
			row[t] = float32(math.Inf(-1))
		}
	}
}

// TopTokens returns first, then the k tokens with the largest logits, ties to the lower id, NaN last; and the place of
// first in that order, from 1.
func TopTokens(row []float32, first int32, k int) (out []int32, rank int32) {
	order := make([]int32, len(row))
	for t := range order {
		order[t] = int32(t)
	}
	value := func(t int32) float64 {
		if v := float64(row[t]); v == v {
			return v
		}
		return math.Inf(-1)
	}
	slices.SortStableFunc(order, func(a, b int32) int { return cmp.Compare(value(b), value(a)) })
	out = append([]int32{first}, order[:min(k, len(order))]...)
	for len(out) < 1+k {
		out = append(out, -1)
	}
	return out, int32(1 + slices.Index(order, first))
}
