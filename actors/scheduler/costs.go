package scheduler

import "github.com/troupe-engine/troupe/schemas"

// CostAware is a policy that goes by what steps are expected to take. It hears of it when it is chosen and when the
// expectation changes; nil means that nothing is known.
type CostAware interface {
	Costs(c *schemas.StepCosts, cfg *Config)
}

// tellCosts gives a policy what is expected.
func tellCosts(p Policy, cfg *Config) {
	if q, ok := p.(CostAware); ok {
		q.Costs(cfg.Costs, cfg)
	}
}

// costsGiven makes all policies go by other costs.
func (c *Core) costsGiven(costs *schemas.StepCosts) {
	c.cfg.Costs = costs
	tellCosts(c.policy, &c.cfg)
	if c.shadow != nil {
		tellCosts(c.shadow.policy, &c.cfg)
	}
	c.rekey()
}

// expectation foretells times from step costs. The zero value knows nothing.
type expectation struct {
	costs      *schemas.StepCosts
	tokensStep int32 // budget of a step
	rowsMax    int32

	decodeNs int64 // of a step in which all that run decode
	rows     int32 // of that step
	promptNs int64 // of one prompt token in a full step
}

func (e *expectation) set(costs *schemas.StepCosts, cfg *Config) {
	*e = expectation{}
	if costs == nil {
		return
	}
	*e = expectation{costs: costs, tokensStep: cfg.TokensStepMax, rowsMax: cfg.SequencesMax}
	full := int64(cfg.TokensStepMax)
	e.promptNs = min(max(1, costs.StepNs(1, cfg.TokensStepMax, 1, 0, full*(full+1)/2)/full), paceMaxNs)
	e.refresh(nil)
}

// refresh looks at what runs: a step's time is shared by its rows.
func (e *expectation) refresh(running []*Sequence) {
	if e.costs == nil {
		return
	}
	context := int64(0)
	for _, s := range running {
		context += int64(s.total())
	}
	e.rows = min(max(int32(len(running)), 1), e.rowsMax)
	e.decodeNs = min(max(1, e.costs.StepNs(e.rows, e.rows, e.rows, context, 0)), paceMaxNs)
}

func (e *expectation) known() bool { return e.costs != nil }

// remainingNs is how long a sequence is expected to take from now on if it runs at once with those that do.
func (e *expectation) remainingNs(prompt, output int32) int64 {
	return int64(prompt)*e.promptNs + int64(output)*e.decodeNs
}

// promptTokensPerOutput is how many prompt tokens cost as much as one output token of one sequence; at least 1.
func (e *expectation) promptTokensPerOutput() int64 {
	if !e.known() {
		return prefillPerOutput
	}
	return max(1, e.decodeNs/int64(e.rows)/e.promptNs)
}
