package schemas

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// FaultKind is what a fault does to a message, or has its receiver do.
type FaultKind string

// The kinds. Requests and announcements suffer all of the first five; replies, whose subject is the request's with
// ReplySuffix, are dropped, delayed or turned into errors.
const (
	FaultDrop        FaultKind = "drop"          // it is lost: the sender waits for an attempt's time, and repeats it
	FaultDelay       FaultKind = "delay"         // it is late, by a part of the rule's delay that is drawn
	FaultDuplicate   FaultKind = "duplicate"     // it comes twice, the second time within the rule's delay
	FaultReorder     FaultKind = "reorder"       // it comes after the next one on its subject, or after the rule's delay
	FaultError       FaultKind = "error"         // the sender gets an error of KindUnavailable instead
	FaultOutOfBlocks FaultKind = "out_of_blocks" // memory grants no row of a step; on the subjects of memory.reserve
	FaultSlowDevice  FaultKind = "slow_device"   // a step takes longer by the rule's delay; on those of compute.execute
	FaultLoseDevice  FaultKind = "lose_device"   // a step finds its device lost, as after a fault of CUDA's; on those of compute.execute
)

var faultKinds = []FaultKind{FaultDrop, FaultDelay, FaultDuplicate, FaultReorder, FaultError, FaultOutOfBlocks, FaultSlowDevice, FaultLoseDevice}

// Limits of a FaultPlan.
const (
	FaultRulesMax        = 32
	FaultSubjectBytesMax = 256
	FaultDelayUsMax      = 10_000_000
	faultDelayUsDefault  = 20_000 // of kinds that are nothing without a delay
)

// FaultRule says which messages suffer what.
type FaultRule struct {
	_msgpack struct{} `msgpack:",as_array"`

	Kind        FaultKind `json:"kind"`
	Subject     string    `json:"subject"`             // of messages between actors, with NATS's wildcards: inf.v1.memory.>
	Probability float64   `json:"probability"`         // more than 0, at most 1
	DelayUs     int64     `json:"delay_us,omitempty"`  // microseconds, at most FaultDelayUsMax; see the kinds
	CountMax    int64     `json:"count_max,omitempty"` // the rule ends after so many faults; 0 is never
}

// FaultPlan is what a node does to its actors' messages. The n-th message on a subject that a rule is about suffers
// or does not, by Seed, the rule's place, the subject and n alone: the same messages suffer the same.
type FaultPlan struct {
	_msgpack struct{} `msgpack:",as_array"`

	Seed  uint64      `json:"seed"`
	Rules []FaultRule `json:"rules"`
}

// FaultsRequest switches a node's faults. An empty one only asks.
type FaultsRequest struct {
	_msgpack struct{} `msgpack:",as_array"`

	Plan *FaultPlan `json:"plan,omitempty"` // in place of the one before; counts start anew
	Off  bool       `json:"off,omitempty"`
}

// FaultsState says what a node does to its actors' messages, and what has happened so far.
type FaultsState struct {
	_msgpack struct{} `msgpack:",as_array"`

	Node   NodeID           `json:"node"`
	On     bool             `json:"on"`
	Seed   uint64           `json:"seed,omitempty"`
	Rules  []FaultRuleState `json:"rules,omitempty"`
	Recent []InjectedFault  `json:"recent,omitempty"` // the last FaultsRecentMax, the oldest first
}

// FaultsRecentMax bounds the faults that a FaultsState lists.
const FaultsRecentMax = 32

// FaultRuleState is a rule and what it did.
type FaultRuleState struct {
	_msgpack struct{} `msgpack:",as_array"`

	Rule     FaultRule `json:"rule"`
	Messages uint64    `json:"messages"` // that it is about
	Faults   uint64    `json:"faults"`   // of these, those that suffered
}

// InjectedFault is one message that suffered.
type InjectedFault struct {
	_msgpack struct{} `msgpack:",as_array"`

	Kind    FaultKind `json:"kind"`
	Subject string    `json:"subject"`            // with ReplySuffix for a reply
	Rule    int32     `json:"rule"`               // its place in the plan, from 0
	Message uint64    `json:"message"`            // counts what the rule saw on this subject, from 1
	DelayUs int64     `json:"delay_us,omitempty"` // that was drawn
}

// Faults shows and switches the faults of a node. Only nodes that were started with faults enabled serve it.
var Faults = define[FaultsRequest, FaultsState]("node", "faults", askTimeout, 1,
	"Show or switch what this node does to its actors' messages, where that is enabled.")

// Validate names the first field that makes no sense, and fills in delays that were left out.
func (p *FaultPlan) Validate() *Error {
	if n := len(p.Rules); n < 1 || n > FaultRulesMax {
		return Errorf(KindInvalid, "faults", "plan.rules has %d elements; expected 1 to %d", n, FaultRulesMax).WithParam("plan.rules")
	}
	for i := range p.Rules {
		if err := p.Rules[i].Validate(); err != nil {
			err.Detail = fmt.Sprintf("plan.rules[%d].%s", i, err.Detail)
			return err.WithParam(fmt.Sprintf("plan.rules[%d].%s", i, err.Param))
		}
	}
	return nil
}

// Validate names the first field that makes no sense, and fills in a delay that was left out.
func (r *FaultRule) Validate() *Error {
	bad := func(param, format string, args ...any) *Error {
		return Errorf(KindInvalid, "faults", param+" "+format, args...).WithParam(param)
	}
	delayed := r.Kind != FaultDrop && r.Kind != FaultError && r.Kind != FaultOutOfBlocks && r.Kind != FaultLoseDevice
	switch {
	case !slices.Contains(faultKinds, r.Kind):
		return bad("kind", "is %.40q; expected one of %s", r.Kind, kindNames())
	case !(r.Probability > 0 && r.Probability <= 1):
		return bad("probability", "is %v; expected more than 0 and at most 1", r.Probability)
	case r.DelayUs < 0 || r.DelayUs > FaultDelayUsMax:
		return bad("delay_us", "is %d; expected 0 to %d", r.DelayUs, FaultDelayUsMax)
	case r.DelayUs > 0 && !delayed:
		return bad("delay_us", "is %d; a fault of kind %s takes none", r.DelayUs, r.Kind)
	case r.CountMax < 0:
		return bad("count_max", "is %d; expected 0 (no limit) or a count", r.CountMax)
	}
	if r.DelayUs == 0 && delayed && r.Kind != FaultDuplicate {
		r.DelayUs = faultDelayUsDefault
	}
	return r.validateSubject(bad)
}

func (r *FaultRule) validateSubject(bad func(param, format string, args ...any) *Error) *Error {
	if len(r.Subject) == 0 || len(r.Subject) > FaultSubjectBytesMax {
		return bad("subject", "has %d bytes; expected 1 to %d", len(r.Subject), FaultSubjectBytesMax)
	}
	tokens := strings.Split(r.Subject, ".")
	for i, token := range tokens {
		switch {
		case token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }):
			return bad("subject", "is %.80q, whose part %d is empty or has characters that subjects have not", r.Subject, i+1)
		case strings.ContainsAny(token, "*>") && len(token) > 1, token == ">" && i < len(tokens)-1:
			return bad("subject", "is %.80q; expected * alone between dots, and > at the end", r.Subject)
		}
	}
	if !slices.ContainsFunc(r.disturbs(), func(subject string) bool { return SubjectsMeet(tokens, strings.Split(subject, ".")) }) {
		return bad("subject", "is %.80q, on which no actor is sent what %s is about", r.Subject, r.Kind).
			WithHint("`troupe schema` lists the subjects; what clients send, as %schat, is not disturbed", SubjectPrefix)
	}
	return nil
}

// disturbs lists patterns of the subjects that a rule of its kind can be about.
func (r *FaultRule) disturbs() (patterns []string) {
	for _, e := range Endpoints() {
		request := e.Subject()
		switch r.Kind {
		case FaultOutOfBlocks:
			if request != Reserve.Subject("") {
				continue
			}
		case FaultSlowDevice, FaultLoseDevice:
			if request != Execute.Subject("") {
				continue
			}
		case FaultDrop, FaultDelay, FaultError:
			patterns = append(patterns, request+ReplySuffix, request+".*"+ReplySuffix)
		}
		patterns = append(patterns, request, request+".*")
	}
	if r.Kind != FaultOutOfBlocks && r.Kind != FaultSlowDevice && r.Kind != FaultLoseDevice {
		patterns = append(patterns, NodeReports.Subject(""), ReplicaReports.Subject(""))
	}
	return patterns
}

// SubjectsMeet reports whether some subject matches both patterns, which are given by their tokens.
func SubjectsMeet(a, b []string) bool {
	for i := 0; ; i++ {
		switch {
		case i == len(a) || i == len(b):
			return len(a) == len(b)
		case a[i] == ">" || b[i] == ">":
			return true
		case a[i] != "*" && b[i] != "*" && a[i] != b[i]:
			return false
		}
	}
}

func kindNames() string {
	names := make([]string, len(faultKinds))
	for i, k := range faultKinds {
		names[i] = string(k)
	}
	return strings.Join(names, ", ")
}

// ParseFaultRule reads a rule as people write it: a kind, a subject and, in any order, p= its probability (1 if it is
// left out), delay= a duration and count= how many faults at most. FaultRule.String writes it.
//
//	drop inf.v1.memory.reserve.> p=0.05
//	delay inf.v1.tokenizer.tokens.* p=0.2 delay=30ms count=10
func ParseFaultRule(text string) (*FaultRule, *Error) {
	bad := func(param, format string, args ...any) *Error {
		return Errorf(KindInvalid, "faults", format, args...).WithParam(param).
			WithHint(`write it as "drop inf.v1.memory.reserve.> p=0.05"; options are p=, delay= and count=`)
	}
	words := strings.Fields(text)
	if len(words) < 2 {
		return nil, bad("rule", "the rule %.80q has %d words; expected a kind and a subject", text, len(words))
	}
	r, given := &FaultRule{Kind: FaultKind(words[0]), Subject: words[1], Probability: 1}, map[string]bool{}
	for _, word := range words[2:] {
		key, value, _ := strings.Cut(word, "=")
		if given[key] {
			return nil, bad(key, "the rule has %.20s= twice", key)
		}
		given[key] = true
		var err error
		switch key {
		case "p":
			r.Probability, err = strconv.ParseFloat(value, 64)
		case "delay":
			var d time.Duration
			d, err = time.ParseDuration(value)
			r.DelayUs = d.Microseconds()
		case "count":
			r.CountMax, err = strconv.ParseInt(value, 10, 64)
		default:
			return nil, bad("rule", "the rule has %.40q; expected p=, delay= or count=", word)
		}
		if err != nil {
			return nil, bad(key, "%.40q cannot be read: %.80v", word, err)
		}
	}
	if err := r.Validate(); err != nil {
		return nil, err
	}
	return r, nil
}

// String writes the rule as ParseFaultRule reads it.
func (r FaultRule) String() string {
	s := fmt.Sprintf("%s %s p=%v", r.Kind, r.Subject, r.Probability)
	if r.DelayUs != 0 {
		s += fmt.Sprintf(" delay=%s", time.Duration(r.DelayUs)*time.Microsecond)
	}
	if r.CountMax != 0 {
		s += fmt.Sprintf(" count=%d", r.CountMax)
	}
	return s
}

// String says what a plan does, and how to repeat it.
func (p *FaultPlan) String() string {
	if p == nil {
		return "no faults"
	}
	parts := make([]string, len(p.Rules))
	for i := range p.Rules {
		parts[i] = p.Rules[i].String()
	}
	return fmt.Sprintf("faults of seed %d: %s", p.Seed, strings.Join(parts, "; "))
}
