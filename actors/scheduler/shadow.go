package scheduler

import (
	"fmt"
	"slices"

	"github.com/troupe-engine/troupe/schemas"
)

// shadowRowsMax bounds the sequences a shadow policy orders at once, and with them its cost.
const shadowRowsMax = 512

// shadowFirst is how many sequences an example shows of each order, from where they differ.
const shadowFirst = 4

// shadow runs a second policy beside the one in charge. It sees every sequence as a twin, so that nothing it
// notes reaches the engine, and orders the same queue at the same moments. A candidate that panics is ended.
type shadow struct {
	policy   Policy
	observer Observer
	dynamic  Dynamic
	external *External

	twins     map[*Sequence]*Sequence
	predict   predictor // what the predicted effect rests on
	questions uint64
	report    schemas.ShadowReport

	// Scratch.
	running, waiting, live, mine []*Sequence
}

// Shadow lets p see all decisions from now on, in place of any shadow before; nil ends it. It is no event: no
// decision depends on it.
func (c *Core) Shadow(nowNs int64, p Policy) {
	if c.shadow = nil; p == nil {
		return
	}
	h := &shadow{policy: p, twins: map[*Sequence]*Sequence{}, report: schemas.ShadowReport{Policy: p.Name(), SinceMs: nowNs / 1e6}}
	h.observer, _ = p.(Observer)
	h.dynamic, _ = p.(Dynamic)
	h.external, _ = p.(*External)
	defer h.guard()
	c.shadow = h
	if q, ok := p.(Configurable); ok {
		q.Configure(&c.cfg)
	}
	tellCosts(p, &c.cfg)
	for _, s := range c.arrivalOrder() {
		h.arrived(s, nowNs)
	}
}

// ShadowReport describes what the shadow found so far.
func (c *Core) ShadowReport() *schemas.ShadowReport {
	if c.shadow == nil {
		return &schemas.ShadowReport{Live: c.policy.Name()}
	}
	r := c.shadow.report
	r.Live, r.Examples = c.policy.Name(), slices.Clone(r.Examples)
	if n := float64(r.Decisions); n > 0 {
		r.AheadLive, r.AheadShadow = r.AheadLive/n, r.AheadShadow/n
	}
	if r.AheadLive > 0 {
		r.Change = r.AheadShadow/r.AheadLive - 1
	}
	if e := c.shadow.external; e != nil {
		st := e.state
		st.StepsNow = c.step
		r.Rank = &st
	}
	return &r
}

// ShadowRanked takes the outcome of an Effects.ShadowRank. Like Shadow, it is no event.
func (c *Core) ShadowRanked(nowNs int64, a *schemas.RankOutcome) {
	if c.shadow == nil || c.shadow.external == nil {
		return
	}
	v := queueView{cfg: &c.cfg, nowNs: nowNs}
	for _, twin := range c.shadow.twins { // each by itself: their order does not matter
		v.running = append(v.running, twin)
	}
	_, _ = c.shadow.external.answer(a, &v) // its state goes into the report
}

// guard ends a shadow that panics.
func (h *shadow) guard() {
	if r := recover(); r != nil {
		h.report.Failed = fmt.Sprintf("the policy panicked: %.200v", r)
	}
}

func (h *shadow) arrived(s *Sequence, nowNs int64) {
	if h.report.Failed != "" {
		return
	}
	defer h.guard()
	twin := *s
	twin.note, twin.rank, twin.key = 0, unranked, 0
	h.twins[s] = &twin
	h.predict.arrived(&twin)
	if h.observer != nil {
		h.observer.Arrived(&twin, nowNs)
	}
}

func (h *shadow) planned(s *Sequence, prompt, output int32, nowNs int64) {
	if h.report.Failed != "" || h.observer == nil {
		return
	}
	defer h.guard()
	h.observer.Planned(h.twin(s), prompt, output, nowNs)
}

func (h *shadow) ended(s *Sequence, nowNs int64) {
	if h.report.Failed != "" {
		return
	}
	defer h.guard()
	twin := h.twin(s)
	delete(h.twins, s)
	h.predict.ended(twin)
	if h.observer != nil {
		h.observer.Ended(twin, nowNs)
	}
}

// twin is what the policy sees of s, brought up to date.
func (h *shadow) twin(s *Sequence) *Sequence {
	twin := h.twins[s]
	key, note, rank := twin.key, twin.note, twin.rank
	*twin = *s
	twin.key, twin.note, twin.rank = key, note, rank
	return twin
}

// decide orders the queue that the policy in charge is about to choose from, and compares. It returns an example if
// they disagree, and a question for a policy in another process.
func (h *shadow) decide(q *queueView) (x *schemas.ShadowExample, ask *Question) {
	if h.report.Failed != "" || len(q.waiting) == 0 {
		return nil, nil
	}
	defer h.guard()
	began := q.cfg.stopwatch()
	h.see(q)
	x = h.compare(q)
	if h.external != nil {
		h.external.decided()
		mine := queueView{cfg: q.cfg, nowNs: q.nowNs, stamp: q.stamp, slotsFree: q.slotsFree, running: h.running, waiting: h.waiting}
		if ask = h.external.ask(&mine, h.questions+1); ask != nil {
			h.questions++
			ask.Shadow = true
		}
	}
	took := q.cfg.stopwatch() - began
	h.report.CostNs += took
	h.report.CostMaxNs = max(h.report.CostMaxNs, took)
	return x, ask
}

// see brings the twins up to date and puts both orders into live and mine.
func (h *shadow) see(q *queueView) {
	running, waiting := q.running, q.waiting
	if len(running)+len(waiting) > shadowRowsMax {
		running = running[:min(len(running), shadowRowsMax/2)]
		waiting = waiting[:min(len(waiting), shadowRowsMax-len(running))]
		h.report.Truncated++
	}
	h.running, h.waiting = h.running[:0], h.waiting[:0]
	for _, s := range running {
		h.running = append(h.running, h.twin(s))
	}
	for _, s := range waiting {
		h.waiting = append(h.waiting, h.twin(s))
	}
	h.live = h.live[:0]
	for i, j := 0, 0; i < len(running) || j < len(waiting); { // both are in order
		if j == len(waiting) || i < len(running) && before(running[i], waiting[j]) {
			h.live = append(h.live, h.running[i])
			i++
		} else {
			h.live = append(h.live, h.waiting[j])
			j++
		}
	}
	if h.dynamic != nil {
		h.dynamic.Refresh(q.nowNs, h.running, h.waiting)
	}
	for _, s := range h.live {
		s.key = h.policy.Key(s, q.nowNs)
	}
	h.mine = append(h.mine[:0], h.live...)
	slices.SortFunc(h.mine, compare)
}

// compare counts how the orders differ.
func (h *shadow) compare(q *queueView) *schemas.ShadowExample {
	r := &h.report
	r.Decisions++
	r.AheadLive += h.ahead(h.live)
	r.AheadShadow += h.ahead(h.mine)
	if slices.Equal(h.live, h.mine) {
		r.Agreed++
		return nil
	}
	r.Reordered++
	from := 0
	for h.live[from] == h.mine[from] {
		from++
	}
	x := &schemas.ShadowExample{Step: q.stamp.step + 1, AtMs: q.nowNs / 1e6, Running: int32(len(q.running)), Waiting: int32(len(q.waiting)), SlotsFree: int32(q.slotsFree),
		From: int32(from), LiveFirst: firstIDs(h.live[from:]), ShadowFirst: firstIDs(h.mine[from:])}
	if !slices.Equal(starters(h.live, q.slotsFree), starters(h.mine, q.slotsFree)) {
		r.Started++
	}
	if len(h.running) > 1 {
		if a, b := lastRunning(h.live), lastRunning(h.mine); a != b {
			r.Yielded++
			x.LiveYield, x.ShadowYield = a, b
		}
	}
	if r.FirstStep == 0 {
		r.FirstStep = x.Step
	}
	if len(r.Examples) == schemas.ShadowExamplesMax {
		r.Examples = slices.Delete(r.Examples, 0, 1)
	}
	r.Examples = append(r.Examples, *x)
	return x
}

// ahead is the predicted work in front of a waiting sequence on average, in tokens.
func (h *shadow) ahead(order []*Sequence) float64 {
	var sum, passed, waiting int64
	for _, s := range order {
		if !s.Running() {
			sum += passed
			waiting++
			passed += h.predict.remaining(s)
		}
	}
	return float64(sum) / float64(max(waiting, 1))
}

// starters are the waiting sequences that would start, in order of arrival.
func starters(order []*Sequence, free int) (ids []schemas.SeqID) {
	for _, s := range order {
		if len(ids) == free {
			break
		}
		if !s.Running() && s.startable() {
			ids = append(ids, s.id)
		}
	}
	slices.Sort(ids)
	return ids
}

func lastRunning(order []*Sequence) schemas.SeqID {
	for i := len(order) - 1; i >= 0; i-- {
		if order[i].Running() {
			return order[i].id
		}
	}
	return 0
}

func firstIDs(order []*Sequence) schemas.U64 {
	ids := make(schemas.U64, 0, shadowFirst)
	for _, s := range order[:min(len(order), shadowFirst)] {
		ids = append(ids, uint64(s.id))
	}
	return ids
}
