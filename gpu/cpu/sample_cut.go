package cpu

import (
	"math"

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
		return s.cutAt(0, float64(p.TopP)*total)
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

// The histogram of TopP has buckets of 1/8 nat below the largest value; the last holds the
// rest. Consecutive tokens go to different copies of it, because adding to one bucket twice in
// a row waits for memory.
const (
	bucketsPerNat = 8
	buckets       = 256
	copies        = 4
)

func bucket(largest, v float32) int {
	return int(min((largest-v)*bucketsPerNat, buckets-1))
}

// cutMass returns the last token of the shortest prefix that holds topP of the mass of the
// tokens not after keep.
func (s *drawSpace) cutMass(scaled []float32, largest float32, keep ranked, topP float64) ranked {
	var mass [copies][buckets]float64
	for i, v := range scaled {
		if v > keep.value || !keep.before(ranked{v, int32(i)}) {
			mass[i%copies][bucket(largest, v)] += float64(s.weights[i])
		}
	}
	total := 0.0
	for b := range buckets {
		for c := 1; c < copies; c++ {
			mass[0][b] += mass[c][b]
		}
		total += mass[0][b]
	}
	target := topP * total
	reached, at := crossing(mass[0][:], target)
	s.ranked = s.ranked[:0]
	for i, v := range scaled {
		if bucket(largest, v) == at {
			if r := (ranked{v, int32(i)}); !keep.before(r) {
				s.ranked = append(s.ranked, r)
			}
		}
	}
	return s.cutAt(reached, target)
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

// cutAt returns the first token of s.ranked, in rank order, with which the mass reaches target,
// when the tokens ranked before all of them hold the given mass; the last one if none does. It
// is a quickselect by mass: it partitions only the side that holds the answer.
func (s *drawSpace) cutAt(mass, target float64) ranked {
	for rest := s.ranked; ; {
		pivot := rest[len(rest)/2]
		split, before := s.partition(rest, pivot)
		after := mass + before + float64(s.weights[pivot.id])
		switch {
		case mass+before >= target && split > 0:
			rest = rest[:split]
		case after >= target || split+1 == len(rest):
			return pivot
		default:
			mass, rest = after, rest[split+1:]
		}
	}
}

// partition moves the tokens before pivot to the front, pivot behind them, and returns their
// number and mass.
func (s *drawSpace) partition(r []ranked, pivot ranked) (n int, mass float64) {
	at := 0
	for i, x := range r {
		if x.before(pivot) {
			r[i], r[n] = r[n], x
			if at == n {
				at = i
			}
			mass += float64(s.weights[x.id])
			n++
		} else if x.id == pivot.id {
			at = i
		}
	}
	r[at], r[n] = r[n], r[at]
	return n, mass
}
