package scheduler

import "github.com/troupe-engine/troupe/schemas"

// How the core works with a policy in another process.

// waits reports whether a policy must be asked before anything else.
func (fx *Effects) waits() bool { return fx.Rank != nil && fx.Rank.Wait }

// later are the questions that can wait until the device has its work.
func (fx *Effects) later() []*Question {
	var questions []*Question
	for _, q := range []*Question{fx.Rank, fx.ShadowRank} {
		if q != nil && !q.Wait {
			questions = append(questions, q)
		}
	}
	return questions
}

// view is the queue as it is now.
func (c *Core) view() queueView {
	return queueView{cfg: &c.cfg, nowNs: c.now, stamp: rankStamp{c.step, c.arrivals, c.count.finished}, slotsFree: len(c.slots),
		running: c.running, waiting: c.waiting}
}

// askFirst makes the question that must be answered before the next step is chosen, or nil.
func (c *Core) askFirst() *Question {
	if c.external == nil || !c.external.wait || c.asked != nil || c.refused || len(c.flights) >= int(c.cfg.PipelineDepth) {
		return nil
	}
	q := c.askPolicy(c.external)
	if q != nil {
		q.Wait = true
	}
	return q
}

// askAhead makes a question for the steps to come, or nil.
func (c *Core) askAhead() *Question {
	if c.external == nil || c.external.wait {
		return nil
	}
	return c.askPolicy(c.external)
}

func (c *Core) askPolicy(e *External) *Question {
	v := c.view()
	q := e.ask(&v, c.questions+1)
	if q != nil {
		c.questions++
	}
	return q
}

// ranked takes an answer.
func (c *Core) ranked(a *schemas.RankOutcome) {
	if c.external == nil {
		return
	}
	v := c.view()
	fell, back := c.external.answer(a, &v)
	c.turned(fell, back)
}

// turned reports that the policy in another process failed or came back.
func (c *Core) turned(fell *schemas.Error, back bool) {
	if fell != nil {
		c.fell = fell
	}
	c.back = c.back || back
}

// unanswered deals with a question whose answer did not come as it should.
func (c *Core) unanswered(event Event) {
	if c.external == nil {
		return
	}
	if _, answer := event.(Ranked); c.external.wait && c.external.asked != nil && !answer {
		c.turned(c.external.fail(schemas.Errorf(schemas.KindTimeout, "rank", "something else happened before the answer to question %d", c.external.asked.number), c.now), false)
	}
	if _, tick := event.(Tick); tick {
		c.turned(c.external.overdue(c.now), false)
	}
}

// Rank describes the policy in another process, or is nil.
func (c *Core) Rank() *schemas.RankState {
	if c.external == nil {
		return nil
	}
	st := c.external.state
	st.StepsNow = c.step
	return &st
}

// Queue is what a policy in another process would be asked about now.
func (c *Core) Queue() *schemas.RankRequest {
	v := c.view()
	var rows []*Sequence
	return v.request(c.questions+1, &rows)
}
