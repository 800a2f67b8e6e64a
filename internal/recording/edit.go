package recording

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// editor leaves out of batches what is not to be recorded.
type editor struct {
	filter  Filter
	serving map[string]bool // schedulers that serve Filter.Model; nil: all
	redact  *redactor       // nil: nothing is hidden
	decoder bus.JournalDecoder
	left    map[schemas.NodeID]leftOut
}

func newEditor(opts Options, sources []SchedulerSource) *editor {
	e := &editor{filter: opts.Filter, left: map[schemas.NodeID]leftOut{}}
	if opts.Filter.Model != "" {
		e.serving = map[string]bool{}
		for i := range sources {
			if info := &sources[i].Info; info.Model == opts.Filter.Model {
				e.serving["scheduler."+string(info.Replica)] = true
			}
		}
	}
	if opts.Redact {
		e.redact = newRedactor()
	}
	return e
}

// batch returns what is to be recorded of a batch: one batch per run of entries that follow each other, which says how many
// were left out before it. So a reader tells what was left out from what was lost.
func (e *editor) batch(wire []byte) ([][]byte, error) {
	b, err := e.decoder.Decode(wire)
	if err != nil || b == nil {
		return nil, err
	}
	var out [][]byte
	add := func(run schemas.JournalBatch) error {
		wire, err := bus.PackJournal(&run)
		if err == nil {
			out = append(out, wire)
		}
		return err
	}
	left := e.left[b.Node]
	if left.entries > 0 && (left.started != b.Started || left.next != b.Number) { // entries are lost: they begin where those end
		head := left.head
		head.Number, head.Left, head.Entries = left.next, left.entries, nil
		if err := add(head); err != nil {
			return nil, err
		}
		left.entries = 0
	}
	for at := 0; at < len(b.Entries); {
		end := at
		for end < len(b.Entries) && e.keeps(&b.Entries[end]) {
			if e.redact != nil {
				e.redact.entry(&b.Entries[end])
			}
			end++
		}
		if end > at {
			run := *b
			run.Number, run.Entries, run.Left = b.Number+uint64(at), b.Entries[at:end], left.entries
			if err := add(run); err != nil {
				return nil, err
			}
			left.entries = 0
		}
		if end < len(b.Entries) {
			left.entries++
		}
		at = end + 1
	}
	left.started, left.next, left.head = b.Started, b.Number+uint64(len(b.Entries)), *b
	left.head.Entries = nil
	e.left[b.Node] = left
	return out, nil
}

// leftOut is what was left out of the end of what came of a node.
type leftOut struct {
	started int64
	next    uint64 // number of the entry that comes next
	entries uint64 // that were left out before it
	head    schemas.JournalBatch
}

func (e *editor) keeps(entry *schemas.JournalEntry) bool {
	if e.serving != nil && strings.HasPrefix(entry.Actor, "scheduler.") && !e.serving[entry.Actor] {
		return false
	}
	return e.filter.keepsEntry(entry)
}

// redactor hides what was said and keeps how it went: texts go, and token ids are exchanged by a permutation that nobody
// keeps, the same for all entries, so that equal prefixes stay equal and a scheduler decides as before.
type redactor struct {
	key    [4]uint32 // of the permutation's rounds
	secret [16]byte  // of users' names
}

func newRedactor() *redactor {
	var r redactor
	var seed [16]byte
	rand.Read(seed[:]) // never fails
	rand.Read(r.secret[:])
	for i := range r.key {
		r.key[i] = binary.LittleEndian.Uint32(seed[4*i:])
	}
	return &r
}

// tokenBits is the width of the permutation: ids below 1<<tokenBits are exchanged among themselves.
const tokenBits = 30

// token is another id for an id; negative ones, which mean no token, stay.
func (r *redactor) token(t int32) int32 {
	if t < 0 || t >= 1<<tokenBits {
		return t
	}
	// A Feistel network over two halves of 15 bits (Luby and Rackoff 1988): a permutation, whatever its rounds compute.
	const half, mask = tokenBits / 2, 1<<(tokenBits/2) - 1
	left, right := uint32(t)>>half, uint32(t)&mask
	for _, k := range r.key {
		x := (right ^ k) * 0x9e3779b1
		x ^= x >> 15
		x *= 0x85ebca77
		left, right = right, left^(x>>13)&mask
	}
	return int32(left<<half | right)
}

// tokens is a copy of a column: messages may be shared.
func (r *redactor) tokens(c schemas.I32) schemas.I32 {
	c = slices.Clone(c)
	for i, t := range c {
		c[i] = r.token(t)
	}
	return c
}

// entry changes e in place; what it points to is decoded for us alone.
func (r *redactor) entry(e *schemas.JournalEntry) {
	if s := e.Scheduler; s != nil {
		r.step(s)
	}
	if e.Request != nil {
		e.Request.Body = ""
	}
	if e.Answer != nil {
		e.Answer.Error = RedactError(e.Answer.Error)
	}
	if e.Delivery != nil {
		e.Delivery.Message = nil
	}
}

func (r *redactor) step(s *schemas.SchedulerStep) {
	if s.Submit != nil {
		r.submit(s.Submit)
	}
	if s.Reserve != nil {
		s.Reserve.LearnTokens = r.tokens(s.Reserve.LearnTokens)
		for i := range s.Reserve.Admit {
			s.Reserve.Admit[i].Tokens = r.tokens(s.Reserve.Admit[i].Tokens)
		}
	}
	if p := s.Execute; p != nil {
		p.Tokens = r.tokens(p.Tokens)
		for i := range p.Rules {
			rules := &p.Rules[i]
			rules.Tokens, rules.StopTokens = r.tokens(rules.Tokens), r.tokens(rules.StopTokens)
			r.rules(&rules.Rules)
		}
	}
	if d := s.Done; d != nil {
		d.Token, d.Logprobs, d.Embeddings, d.Error = r.tokens(d.Token), nil, nil, RedactError(d.Error)
		for i := range d.Failed {
			d.Failed[i].Error = *RedactError(&d.Failed[i].Error)
		}
	}
	s.Refused, s.Lost, s.GaveUp = RedactError(s.Refused), RedactError(s.Lost), RedactError(s.GaveUp)
	if s.Ranked != nil {
		s.Ranked.Error = RedactError(s.Ranked.Error)
	}
	if s.Emit != nil {
		s.Emit.Token = r.tokens(s.Emit.Token)
	}
	if c := s.Checkpoint; c != nil {
		c.Info.EndTokens = r.tokens(c.Info.EndTokens)
		c.Info.VocabSize = 1 << tokenBits
		for i := range c.Requests {
			r.submit(&c.Requests[i])
		}
		for i := range c.Seqs {
			c.Seqs[i].Output, c.Seqs[i].PromptLogprobs = r.tokens(c.Seqs[i].Output), nil
		}
	}
}

func (r *redactor) submit(s *schemas.SubmitRequest) {
	s.Tokens, s.StopTokens, s.User = r.tokens(s.Tokens), r.tokens(s.StopTokens), r.user(s.User)
	if s.Resume != nil {
		s.Resume.Tokens = r.tokens(s.Resume.Tokens)
	}
	if s.Sampling.Rules != nil {
		r.rules(s.Sampling.Rules)
	}
}

func (r *redactor) rules(rules *schemas.SamplingRules) {
	rules.BiasTokens = r.tokens(rules.BiasTokens)
	rules.Logprobs, rules.PromptLogprobs, rules.Guide = 0, 0, nil
}

// user is another name for a user: fair sharing goes on among as many.
func (r *redactor) user(name string) string {
	if name == "" {
		return ""
	}
	h := hmac.New(sha256.New, r.secret[:])
	h.Write([]byte(name))
	return hex.EncodeToString(h.Sum(nil)[:8])
}

// RedactError keeps the kind and where it happened: details quote what was sent.
func RedactError(e *schemas.Error) *schemas.Error {
	if e == nil {
		return nil
	}
	return &schemas.Error{Kind: e.Kind, Op: e.Op, Actor: e.Actor, Param: e.Param, Detail: "redacted"}
}
