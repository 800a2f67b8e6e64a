package routing

import "math"

// affinityLoadMax bounds what affinity may cost: a session's replica is taken only while it has at most this
// many times the mean load, and one request more (consistent hashing with bounded loads, Mirrokni et al. 2016).
const affinityLoadMax = 1.25

// home is the candidate that a session prefers, -1 without a session. Every router finds the same one without
// remembering anything: the replica whose name and session hash highest (rendezvous hashing), so that a
// replica that comes or goes moves only the sessions it gains or loses. Replicas with too much to do are
// passed over.
func (r *Router) home(session string) int {
	if session == "" {
		return -1
	}
	total := 0.0
	for i := range r.candidates {
		total += r.candidates[i].load()
	}
	limit := affinityLoadMax*total/float64(len(r.candidates)) + r.candidates[0].unit()
	s, best, highest := hashOf(session), -1, uint64(0)
	for i := range r.candidates {
		c := &r.candidates[i]
		if h := mix(s ^ c.at.hash); c.load() <= limit && (best < 0 || h > highest) {
			best, highest = i, h
		}
	}
	return best
}

// load is the share of a replica's places that are taken; above 1 requests wait.
func (c *Candidate) load() float64 { return float64(c.Requests) * c.unit() }

// unit is the load of one request.
func (c *Candidate) unit() float64 { return 1 / math.Max(float64(c.SequencesMax), 1) }

// hashOf is FNV-1a, mixed.
func hashOf(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}
