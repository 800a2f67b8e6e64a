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

// cut returns the last token, in rank order, that MinP, TopK and TopP leave. Where it had to
// look at candidates, they are in s.ranked, all that are kept among them; otherwise that is
// empty. Nothing sorts the vocabulary: MinP is a threshold, TopK a heap, TopP a search by mass.
func (s *drawSpace) cut(t *tier, vocab int, largest float32, p *gpu.SampleParams) ranked {
	s.ranked = s.ranked[:0]
	scaled := s.scaled[:vocab]
	keep := ranked{negativeInfinity, math.MaxInt32}
	if p.MinP > 0 {
		keep.value = lowestPassing(scaled, largest, ref.MinPThreshold(p.MinP))
	}
	heaped := p.TopK > 0 && int(p.TopK) < vocab
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
	target := float64(p.TopP) * t.massAbove(s.scaled, s.weights, keep.value)
	s.gather(scaled, s.depth(t, largest, keep.value, target))
	return s.cutAt(0, target)
}

// depth finds a value, not below floor, above which the mass reaches target, and not much more:
// one nat below the largest, two, four, and so on, as most of the mass is near the top, and then
// between the last two by halves.
func (s *drawSpace) depth(t *tier, largest, floor float32, target float64) float32 {
	const natsMax = 128 // further down every weight is zero
	reaches := func(nats float32) bool {
		return t.massAbove(s.scaled, s.weights, largest-nats) >= target
	}
	nats := float32(1)
	for !reaches(nats) {
		if nats *= 2; nats > natsMax || largest-nats <= floor {
			return floor
		}
	}
	for step := nats / 4; step > 0.25; step /= 2 {
		if reaches(nats - step) {
			nats -= step
		}
	}
	return max(floor, largest-nats)
}

// gather leaves in s.ranked the tokens whose value is at least floor.
func (s *drawSpace) gather(scaled []float32, floor float32) {
	for i, v := range scaled {
		if v >= floor {
			s.ranked = append(s.ranked, ranked{v, int32(i)})
		}
	}
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
