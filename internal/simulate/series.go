package simulate

// Sample is the state of all replicas together at a time.
type Sample struct {
	Seconds   float64 `json:"t"`
	Queued    int     `json:"queued"`     // requests without a first token
	Running   int     `json:"running"`    // requests with one that are not over
	Used      float64 `json:"kv_used"`    // part of the blocks that sequences hold
	Cached    float64 `json:"kv_cached"`  // part that only keeps prefixes
	HitRate   float64 `json:"hit_rate"`   // part of the prompt tokens so far that came from the prefix cache
	OutputTPS float64 `json:"output_tps"` // tokens per second since the last sample
	Step      float64 `json:"step_ms"`    // mean step since the last sample
}

// series keeps a bounded number of samples, evenly spaced: when there are too many, every second one goes.
type series struct {
	samples []Sample
	every   int64 // nanoseconds
	next    int64
	last    totals
}

const samplesMax = 512

// totals are what differences between samples are made from.
type totals struct {
	now, tokens, steps, busy int64
}

func newSeries() series { return series{every: 1e6} }

func (s *series) add(w *world) {
	s.next = (w.now/s.every + 1) * s.every
	s.samples = append(s.samples, w.sample(&s.last))
	if len(s.samples) < samplesMax {
		return
	}
	s.every *= 2
	s.next = (w.now/s.every + 1) * s.every
	kept := s.samples[:0]
	for i := 0; i+1 < len(s.samples); i += 2 {
		kept = append(kept, merge(s.samples[i], s.samples[i+1]))
	}
	s.samples = kept
}

// merge makes one sample of two that follow each other; levels are those of the second, rates the mean.
func merge(a, b Sample) Sample {
	b.OutputTPS = (a.OutputTPS + b.OutputTPS) / 2
	b.Step = (a.Step + b.Step) / 2
	return b
}

func (w *world) sample(last *totals) Sample {
	s := Sample{Seconds: float64(w.now) / 1e9}
	now := totals{now: w.now, tokens: w.metrics.tokens}
	for _, r := range w.replicas {
		s.Queued += r.load.waiting
		s.Running += r.load.running
		s.Used += float64(r.load.total-r.load.free-r.load.evictable) / float64(r.load.total) / float64(len(w.replicas))
		s.Cached += float64(r.load.evictable) / float64(r.load.total) / float64(len(w.replicas))
		now.steps += r.load.steps
		now.busy += r.load.busyNs
	}
	s.HitRate = rate(float64(w.metrics.cached), float64(w.metrics.prompt))
	if d := now.now - last.now; d > 0 {
		s.OutputTPS = float64(now.tokens-last.tokens) / float64(d) * 1e9
	}
	if d := now.steps - last.steps; d > 0 {
		s.Step = float64(now.busy-last.busy) / float64(d) / 1e6
	}
	*last = now
	return s
}
