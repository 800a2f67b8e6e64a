package memory

import "github.com/troupe-engine/troupe/schemas"

// resolved is a valid request's sequences, looked up once. Parallel to the columns they come from.
type resolved struct {
	learn, rows []*sequence
	victims     []*sequence // filled when first needed: see Core.victims
	victimsSet  bool
}

// validate checks a request against the state it would be applied to and resolves its sequences into
// c.in and c.incoming. It changes nothing that a later request could notice.
//
// Release and Victims may name unknown sequences: those have ended already, or have no blocks to lose.
func (c *Core) validate(req *schemas.ReserveRequest) *schemas.Error {
	if req.Step == 0 {
		return invalid("step", 0, "0, want at least 1")
	}
	fresh := c.isNew(req.Epoch)
	if c.step != 0 && req.Epoch < c.epoch {
		return invalid("epoch", 0, "%d is over; the current one is %d", req.Epoch, c.epoch)
	}
	if !fresh && req.Step < c.step {
		return invalid("step", 0, "step %d comes after step %d of the same epoch", req.Step, c.step).
			WithHint("a repeat must name step %d, a new request a later one", c.step)
	}
	c.round++
	c.in.learn, c.in.rows = c.in.learn[:0], c.in.rows[:0]
	c.in.victims, c.in.victimsSet = c.in.victims[:0], false
	clear(c.incoming)

	if err := c.validateLearn(req, fresh); err != nil {
		return err
	}
	if !fresh {
		for _, id := range req.Release {
			if s := c.seqs[schemas.SeqID(id)]; s != nil {
				s.releasedAt = c.round
			}
		}
	}
	if err := c.validateAdmit(req, fresh); err != nil {
		return err
	}
	return c.validateRows(req, fresh)
}

func (c *Core) validateLearn(req *schemas.ReserveRequest, fresh bool) *schemas.Error {
	if len(req.LearnCount) != len(req.LearnSeq) {
		return invalid("learn_count", 0, "%d elements, want %d as in learn_seq", len(req.LearnCount), len(req.LearnSeq))
	}
	var sum int64
	for i, id := range req.LearnSeq {
		s := c.resolve(schemas.SeqID(id), fresh)
		if s == nil {
			return invalid("learn_seq", id, "element %d: sequence %s is unknown", i, schemas.SeqID(id))
		}
		n := req.LearnCount[i]
		if n < 0 {
			return invalid("learn_count", id, "element %d: %d tokens of sequence %s, want at least 0",
				i, n, schemas.SeqID(id))
		}
		sum += int64(n)
		c.in.learn = append(c.in.learn, s)
	}
	if sum != int64(len(req.LearnTokens)) {
		return invalid("learn_tokens", 0, "%d tokens, want the %d that learn_count sums to", len(req.LearnTokens), sum)
	}
	return nil
}

func (c *Core) validateAdmit(req *schemas.ReserveRequest, fresh bool) *schemas.Error {
	for i := range req.Admit {
		a := &req.Admit[i]
		switch {
		case c.resolve(a.Seq, fresh) != nil:
			return invalid("admit", uint64(a.Seq), "element %d: sequence %s is admitted already", i, a.Seq)
		case len(a.Tokens) == 0:
			return invalid("admit", uint64(a.Seq), "element %d: sequence %s has no tokens, want at least 1", i, a.Seq)
		case a.Fork == a.Seq && a.Fork != 0:
			return invalid("admit", uint64(a.Seq), "element %d: sequence %s forks itself", i, a.Seq)
		}
		c.incoming[a.Seq] = &sequence{id: a.Seq, prompt: a.Tokens, salt: a.Salt, fork: a.Fork, priority: a.Priority}
	}
	return nil
}

func (c *Core) validateRows(req *schemas.ReserveRequest, fresh bool) *schemas.Error {
	if len(req.WantMax) != len(req.Seq) {
		return invalid("want_max", 0, "%d elements, want %d as in seq", len(req.WantMax), len(req.Seq))
	}
	if len(req.MayPreempt) != len(req.Seq) {
		return invalid("may_preempt", 0, "%d elements, want %d as in seq", len(req.MayPreempt), len(req.Seq))
	}
	if req.TokensMax < 0 {
		return invalid("tokens_max", 0, "%d, want at least 0", req.TokensMax)
	}
	for i, id := range req.Seq {
		s := c.resolve(schemas.SeqID(id), fresh)
		switch {
		case s == nil:
			return invalid("seq", id, "row %d: sequence %s is unknown or released in this request", i, schemas.SeqID(id))
		case s.rowAt == c.round:
			return invalid("seq", id, "row %d: sequence %s has a row already", i, schemas.SeqID(id))
		case req.WantMax[i] < 0:
			return invalid("want_max", id, "row %d: %d tokens for sequence %s, want at least 0",
				i, req.WantMax[i], schemas.SeqID(id))
		case req.MayPreempt[i] > 1:
			return invalid("may_preempt", id, "row %d: %d for sequence %s, want 0 or 1",
				i, req.MayPreempt[i], schemas.SeqID(id))
		}
		s.rowAt = c.round
		c.in.rows = append(c.in.rows, s)
	}
	return nil
}

// resolve finds a sequence as it will be known once the request's releases and the admissions looked
// at so far are applied; nil if it will not.
func (c *Core) resolve(id schemas.SeqID, fresh bool) *sequence {
	if len(c.incoming) > 0 {
		if s := c.incoming[id]; s != nil {
			return s
		}
	}
	if fresh {
		return nil
	}
	if s := c.seqs[id]; s != nil && s.releasedAt != c.round {
		return s
	}
	return nil
}

// victims returns the request's victims that memory knows, each once, in order.
func (c *Core) victims(req *schemas.ReserveRequest) []*sequence {
	if !c.in.victimsSet {
		c.in.victimsSet = true
		for _, id := range req.Victims {
			if s := c.seqs[schemas.SeqID(id)]; s != nil && s.victimAt != c.round {
				s.victimAt = c.round
				c.in.victims = append(c.in.victims, s)
			}
		}
	}
	return c.in.victims
}

// invalid is the error of a malformed request. seq is the sequence at fault, 0 if none is.
func invalid(field string, seq uint64, format string, args ...any) *schemas.Error {
	err := schemas.Errorf(schemas.KindInvalid, "reserve", field+": "+format, args...).WithParam(field)
	err.Request = schemas.SeqID(seq).Request()
	return err
}
