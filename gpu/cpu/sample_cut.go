package cpu

import (
	"math"
	"slices"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/ref"
)

// before reports whether a precedes b in the order that cuts use.
func (a ranked) before(b ranked) bool {
	return a.value > b.value || (a.value == b.value && a.id < b.id)
}

// cut returns the last token, in rank order, that MinP, TopK and TopP leave. None of them
// sorts the vocabulary: MinP is a threshold, TopK a heap, TopP a histogram of mass.
func (s *drawSpace) cut(scaled []float32, largest float32, p *gpu.SampleParams) ranked {
	keep := ranked{negativeInfinity, math.MaxInt32}
	if p.MinP > 0 {
		keep.value = lowestPassing(scaled, largest, ref.MinPThreshold(p.MinP))
	}
	heaped := p.TopK > 0 && int(p.TopK) < len(scaled)
	if heaped {
		s.selectLargest(scaled, keep, int(p.TopK))
		if len(s.ranked) == int(p.TopK) {
			keep = s.ranked[0]
		}
	}
	if !(p.TopP < 1) {
		return keep
	}
	if heaped {
		total := 0.0
		for _, r := range s.ranked {
			total += float64(s.weights[r.id])
		}
		return s.cutSorted(0, float64(p.TopP)*total)
	}
	return s.cutMass(scaled, largest, keep, float64(p.TopP))
}

// lowestPassing is the smallest value that MinP keeps.
func lowestPassing(scaled []float32, largest, threshold float32) float32 {
	lowest := largest
	for _, v := range scaled {
		if v < lowest && v-largest >= threshold {
			lowest = v
		}
	}
	return lowest
}

// selectLargest leaves in s.ranked the first k tokens in rank order that are not after keep, as
// a heap whose root is the last of them.
func (s *drawSpace) selectLargest(scaled []float32, keep ranked, k int) {
	h := s.ranked[:0]
	for i, v := range scaled {
		r := ranked{v, int32(i)}
		if keep.before(r) || (len(h) == k && h[0].before(r)) {
			continue
		}
		if len(h) < k {
			h = append(h, r)
			siftUp(h)
		} else {
			h[0] = r
			siftDown(h)
		}
	}
	s.ranked = h
}

func siftUp(h []ranked) {
	for i := len(h) - 1; i > 0; {
		parent := (i - 1) / 2
		if h[i].before(h[parent]) {
			return
		}
		h[i], h[parent] = h[parent], h[i]
		i = parent
	}
}

func siftDown(h []ranked) {
	for i := 0; ; {
		child := 2*i + 1
		if child >= len(h) {
			return
		}
		if child+1 < len(h) && h[child].before(h[child+1]) {
			child++
		}
		if h[i].before(h[child]) {
			h[i], h[child] = h[child], h[i]
			i = child
			continue
		}
		return
	}
}

// The histogram of TopP: buckets of 1/16 nat below the largest value, then the bucket where
// the mass is reached in 1/1024 parts, so that what is left to sort is small.
const (
	bucketsPerNat = 16
	buckets       = 1024
)

// cutMass returns the last token of the shortest prefix that holds topP of the mass of the
// tokens not after keep.
func (s *drawSpace) cutMass(scaled []float32, largest float32, keep ranked, topP float64) ranked {
	coarse := func(v float32) int {
		return int(min(float64(largest-v)*bucketsPerNat, buckets-1))
	}
	var mass [buckets]float64
	total := 0.0
	for i, v := range scaled {
		if !keep.before(ranked{v, int32(i)}) {
			weight := float64(s.weights[i])
			mass[coarse(v)] += weight
			total += weight
		}
	}
	target := topP * total
	reached, at := crossing(mass[:], target)

	var parts [buckets]float64
	fine := func(v float32) int {
		return int(min((float64(largest-v)*bucketsPerNat-float64(at))*buckets, buckets-1))
	}
	for i, v := range scaled {
		if coarse(v) == at && !keep.before(ranked{v, int32(i)}) {
			parts[fine(v)] += float64(s.weights[i])
		}
	}
	above, part := crossing(parts[:], target-reached)
	s.ranked = s.ranked[:0]
	for i, v := range scaled {
		if r := (ranked{v, int32(i)}); coarse(v) == at && fine(v) == part && !keep.before(r) {
			s.ranked = append(s.ranked, r)
		}
	}
	return s.cutSorted(reached+above, target)
}

// crossing returns the bucket in which the running mass reaches target, and the mass before it.
// Rounding can leave the sum of all just short of the target; then it is the last with any.
func crossing(mass []float64, target float64) (before float64, bucket int) {
	last, beforeLast := 0, 0.0
	for i, m := range mass {
		if m == 0 {
			continue
		}
		last, beforeLast = i, before
		if before+m >= target {
			break
		}
		before += m
	}
	return beforeLast, last
}

// cutSorted ranks s.ranked and returns the first token with which the mass reaches target, when
// the tokens ranked before all of them hold the given mass; the last one if none does.
func (s *drawSpace) cutSorted(mass, target float64) ranked {
	slices.SortFunc(s.ranked, func(a, b ranked) int {
		if a.before(b) {
			return -1
		}
		return 1
	})
	for _, r := range s.ranked {
		if mass += float64(s.weights[r.id]); mass >= target {
			return r
		}
	}
	return s.ranked[len(s.ranked)-1]
}
