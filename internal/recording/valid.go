package recording

import (
	"fmt"

	"github.com/troupe-engine/troupe/schemas"
)

// check holds an entry, which may come from anywhere, to what readers of it rely on: columns of one length, counts that add up.
func check(e *schemas.JournalEntry) error {
	set := 0
	for _, is := range []bool{e.Scheduler != nil, e.Delivery != nil, e.Request != nil, e.Answer != nil, e.Fault != nil} {
		if is {
			set++
		}
	}
	if set > 1 {
		return fmt.Errorf("an entry of %.40q is several things at once", e.Actor)
	}
	if e.Scheduler == nil {
		return nil // of a later version, or checked where it is decoded
	}
	if err := checkStep(e.Scheduler); err != nil {
		return fmt.Errorf("an entry of %.40q: %w", e.Actor, err)
	}
	return nil
}

func checkStep(s *schemas.SchedulerStep) error {
	if q := s.Reserve; q != nil {
		if err := lengths("reserve", len(q.Seq), len(q.WantMax), len(q.MayPreempt)); err != nil {
			return err
		}
		if err := lengths("reserve.learn", len(q.LearnSeq), len(q.LearnCount)); err != nil {
			return err
		}
		if err := sums("reserve.learn", q.LearnCount, len(q.LearnTokens)); err != nil {
			return err
		}
	}
	if g := s.Grant; g != nil {
		if err := lengths("grant", len(g.Granted), len(g.Start), len(g.Cached), len(g.BlockFrom), len(g.BlockCount)); err != nil {
			return err
		}
		if err := sums("grant", g.BlockCount, len(g.Blocks)); err != nil {
			return err
		}
	}
	if p := s.Execute; p != nil {
		if err := checkPlan(p); err != nil {
			return err
		}
	}
	if d := s.Done; d != nil {
		if err := lengths("done", len(d.Row), len(d.Token)); err != nil {
			return err
		}
	}
	if e := s.Emit; e != nil {
		if err := lengths("emit", len(e.Seq), len(e.Index), len(e.Token), len(e.Finish)); err != nil {
			return err
		}
	}
	return nil
}

func checkPlan(p *schemas.StepPlan) error {
	if err := lengths("execute", len(p.Seq), len(p.Slot), len(p.Start), len(p.Count), len(p.Known), len(p.Sample), len(p.BlockFrom), len(p.BlockCount)); err != nil {
		return err
	}
	if err := lengths("execute.init", len(p.InitSlot), len(p.InitTemperature), len(p.InitTopP), len(p.InitTopK), len(p.InitMinP), len(p.InitSeed)); err != nil {
		return err
	}
	if err := sums("execute.tokens", p.Known, len(p.Tokens)); err != nil {
		return err
	}
	return sums("execute.blocks", p.BlockCount, len(p.Blocks))
}

// lengths refuses columns of different lengths.
func lengths(what string, n int, others ...int) error {
	for _, m := range others {
		if m != n {
			return fmt.Errorf("%s: columns of %d and of %d elements", what, n, m)
		}
	}
	return nil
}

// sums refuses counts that do not add up to what they count.
func sums(what string, counts schemas.I32, n int) error {
	sum := 0
	for _, c := range counts {
		if c < 0 {
			return fmt.Errorf("%s: a count of %d", what, c)
		}
		sum += int(c)
	}
	if sum != n {
		return fmt.Errorf("%s: counts of %d for %d elements", what, sum, n)
	}
	return nil
}
