package reality

import (
	"slices"

	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/profile/measure"
	"github.com/troupe-engine/troupe/internal/simulate"
)

// machinePace is how fast a device was while it served a load, in relation to its profile: what others did on the
// machine, as the steps felt it. It is piecewise constant.
type machinePace struct {
	begin []int64   // nanoseconds since the load began, ascending; the first is 0
	speed []float64 // from begin on: work in nanoseconds of the profile per nanosecond
	work  []float64 // done before begin
}

// newMachinePace reads it from the steps that served a load, the first of which began at a time. Where the device was
// idle, it is taken to have been as fast as on average.
func newMachinePace(p *profile.Profile, steps []measure.Step, first int64) *machinePace {
	var work, busy float64
	for _, s := range steps {
		work += float64(p.StepNs(s.Shape))
		busy += float64(s.Busy)
	}
	average := 1.0
	if work > 0 && busy > 0 {
		average = work / busy
	}
	m := &machinePace{}
	add := func(at int64, speed float64) {
		done := 0.0
		if n := len(m.begin); n > 0 {
			done = m.work[n-1] + float64(at-m.begin[n-1])*m.speed[n-1]
		}
		m.begin, m.speed, m.work = append(m.begin, at), append(m.speed, speed), append(m.work, done)
	}
	add(0, average)
	at := max(first, 1)
	for i, s := range steps {
		if i > 0 {
			at += max(0, s.Idle.Nanoseconds())
		}
		if ns := s.Busy.Nanoseconds(); ns > 0 {
			add(at, max(float64(p.StepNs(s.Shape)), 1)/float64(ns))
			at += ns
			add(at, average)
		}
	}
	return m
}

// Done implements simulate.Pace.
func (m *machinePace) Done(begin, ns int64) int64 {
	i, exact := slices.BinarySearch(m.begin, begin)
	if !exact {
		i--
	}
	want := m.work[i] + float64(begin-m.begin[i])*m.speed[i] + float64(ns)
	for i+1 < len(m.begin) && m.work[i+1] <= want {
		i++
	}
	return m.begin[i] + int64((want-m.work[i])/m.speed[i])
}

// slowed is a pace at which all takes longer by a factor: evenly if pace is nil.
type slowed struct {
	factor float64
	pace   simulate.Pace
}

// Done implements simulate.Pace.
func (s slowed) Done(begin, ns int64) int64 {
	ns = int64(s.factor * float64(ns))
	if s.pace == nil {
		return begin + ns
	}
	return s.pace.Done(begin, ns)
}
