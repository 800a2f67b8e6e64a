package profile

import (
	"fmt"
	"math/rand/v2"
)

// Stretch is a time in which the machine went at one pace.
type Stretch struct {
	WorkNs float64 `json:"work_ns"` // what the steps of it cost by the profile's terms
	BusyNs float64 `json:"busy_ns"` // what they took
}

const (
	stretchesMax  = 4096
	stretchNs     = 1e6 // at least so much work makes a stretch: single steps' times have the clock's jitter
	stretchFoldNs = 1e9 // work by which stretches grow if there are too many
)

// PaceOf describes how fast steps came one after the other in relation to their terms: other work on the machine, clocks,
// caches. Steps of one shape differ by that, and a simulation that gives all of them their mean foretells means, but
// neither medians nor high percentiles.
func PaceOf(t Terms, steps []Observation) []Stretch {
	p := &Profile{Terms: t}
	for least := float64(stretchNs); ; least *= 2 {
		var list []Stretch
		var s Stretch
		for _, o := range steps {
			s.WorkNs, s.BusyNs = s.WorkNs+max(1, float64(p.StepNs(o.Shape))), s.BusyNs+max(1, o.Ns)
			if s.WorkNs >= least {
				list, s = append(list, s), Stretch{}
			}
		}
		if len(list) <= stretchesMax || least > stretchFoldNs*1e6 {
			return list
		}
	}
}

func checkPace(list []Stretch) error {
	if len(list) > stretchesMax {
		return fmt.Errorf("%d stretches; expected at most %d", len(list), stretchesMax)
	}
	for i, s := range list {
		if !(s.WorkNs >= 1 && s.WorkNs <= nsMax && s.BusyNs >= 1 && s.BusyNs <= nsMax) {
			return fmt.Errorf("stretch %d has %g ns of work in %g; expected 1 ns to a day of each", i, s.WorkNs, s.BusyNs)
		}
	}
	return nil
}

// Player goes through the recorded pace from a place that the seed chooses, over and over, as long as there is work.
type Player struct {
	list []Stretch
	at   int
	done float64 // work of the stretch
}

// Player begins to play p's pace; without a recorded one all is as fast as the terms say.
func (p *Profile) Player(seed uint64) *Player {
	r := &Player{list: p.Pace}
	if len(r.list) > 0 {
		r.at = rand.New(rand.NewPCG(seed, 0x70616365)).IntN(len(r.list))
	}
	return r
}

// Done is when work of ns, begun at a time, is done. It implements the simulator's Pace.
func (r *Player) Done(begin, ns int64) int64 {
	if len(r.list) == 0 {
		return begin + ns
	}
	took, rest := 0.0, float64(ns)
	for {
		s := &r.list[r.at]
		part := min(rest, s.WorkNs-r.done)
		took += part * s.BusyNs / s.WorkNs
		if r.done += part; r.done < s.WorkNs {
			return begin + int64(min(took, nsMax))
		}
		rest -= part
		r.at, r.done = (r.at+1)%len(r.list), 0
		if rest <= 0 || took >= nsMax {
			return begin + int64(min(took, nsMax))
		}
	}
}
