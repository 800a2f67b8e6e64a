package scheduler

import "github.com/troupe-engine/troupe/schemas"

// What policies may know of a sequence, and how they hear of it.

// ID names the sequence.
func (s *Sequence) ID() schemas.SeqID { return s.id }

// Request is what was asked for. Policies read it; its tokens are shared.
func (s *Sequence) Request() *schemas.SubmitRequest { return s.request }

// Arrival orders sequences by when they came; unique.
func (s *Sequence) Arrival() uint64 { return s.arrival }

// ArrivedNs is when the request came, on the events' clock.
func (s *Sequence) ArrivedNs() int64 { return s.arrivedNs }

// StartedNs is when the first tokens were granted; 0 before that.
func (s *Sequence) StartedNs() int64 { return s.startedNs }

// Priority is the request's; lower runs earlier.
func (s *Sequence) Priority() int32 { return s.request.Priority }

// PromptTokens is the length of the prompt.
func (s *Sequence) PromptTokens() int32 { return int32(len(s.request.Tokens)) }

// OutputTokens counts the tokens known so far.
func (s *Sequence) OutputTokens() int32 { return int32(len(s.output)) }

// MaxTokens is the largest number of output tokens, within the context.
func (s *Sequence) MaxTokens() int32 { return s.maxTokens }

// ComputedTokens counts the tokens whose keys and values exist or are planned; 0 while the sequence waits.
func (s *Sequence) ComputedTokens() int32 { return s.planned }

// CachedTokens counts the prompt tokens that came from the prefix cache at the first grant.
func (s *Sequence) CachedTokens() int32 { return s.cached }

// Running reports whether the sequence has a slot.
func (s *Sequence) Running() bool { return s.slot != noSlot }

// User is the request's user, for fair sharing.
func (s *Sequence) User() string { return s.request.User }

// Finish says how the sequence ended; FinishNone while it has not.
func (s *Sequence) Finish() schemas.FinishReason { return s.finish }

// Note is a number that the policy keeps with the sequence; 0 on arrival.
func (s *Sequence) Note() int64 { return s.note }

// SetNote changes it.
func (s *Sequence) SetNote(note int64) { s.note = note }

// arrived tells the policies of a new sequence.
func (c *Core) arrived(s *Sequence) {
	if o, ok := c.policy.(Observer); ok {
		o.Arrived(s, c.now)
	}
	if c.shadow != nil {
		c.shadow.arrived(s, c.now)
	}
}

// plannedRow tells the policies what a row computes that was not computed before.
func (c *Core) plannedRow(s *Sequence, start, end int32, sample bool) {
	from := max(start, s.reached)
	if end <= from {
		return // again, after a preemption
	}
	s.reached = end
	prompt, output := max(0, min(end, s.PromptTokens())-from), int32(0)
	if sample {
		output = 1
	}
	if o, ok := c.policy.(Observer); ok {
		o.Planned(s, prompt, output, c.now)
	}
	if c.shadow != nil {
		c.shadow.planned(s, prompt, output, c.now)
	}
}

// endedSequence tells the policies that s is over.
func (c *Core) endedSequence(s *Sequence) {
	if o, ok := c.policy.(Observer); ok {
		o.Ended(s, c.now)
	}
	if c.shadow != nil {
		c.shadow.ended(s, c.now)
	}
}
