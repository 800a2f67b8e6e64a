package bus

import (
	"strings"
	"sync/atomic"
	"time"
)

// Refusal is why a node did not take what somebody sent.
type Refusal int

// The reasons, in the order of refusalNames.
const (
	RefusedPublish     Refusal = iota // the role may not publish there
	RefusedSubscribe                  // the role may not subscribe there
	RefusedCredentials                // none, or unknown ones
	RefusedCertificate                // no TLS, or a certificate that is foreign, expired or missing
	RefusedOversized                  // a message larger than the bus takes
	RefusedMalformed                  // bytes that are no message, or no NATS
	refusalsEnd
)

var refusalNames = [refusalsEnd]string{"publish", "subscribe", "credentials", "certificate", "oversized", "malformed"}

func (r Refusal) String() string { return refusalNames[r] }

// refusals counts them, and says when the next one is to be logged: a flood of them must not become one of lines.
type refusals struct {
	counts [refusalsEnd]atomic.Uint64
	logged [refusalsEnd]atomic.Int64 // unix nanoseconds
}

// refusalLogEvery is how often a node logs refusals of one kind.
const refusalLogEvery = time.Second

// add counts a refusal and reports whether to log it.
func (r *refusals) add(why Refusal) bool {
	r.counts[why].Add(1)
	now, last := time.Now().UnixNano(), r.logged[why].Load()
	return now-last >= refusalLogEvery.Nanoseconds() && r.logged[why].CompareAndSwap(last, now)
}

// Refusals counts what the node has refused, by reason. All reasons are in it.
func (n *Node) Refusals() map[string]uint64 {
	counts := make(map[string]uint64, refusalsEnd)
	for why := range refusalsEnd {
		counts[why.String()] = n.refusals.counts[why].Load()
	}
	return counts
}

// refuse counts a message that cannot be decoded or that is too large, and logs it unless there are many.
func (n *Node) refuse(why Refusal, subject string, err error) {
	if n.refusals.add(why) {
		n.log.Warn().Err(err).Str("reason", why.String()).Str("subject", subject).Uint64("so_far", n.refusals.counts[why].Load()).Msg("a message is refused")
	}
}

// serverRefusals are the server's words. The first that fits counts: what a parser did not understand may quote others.
var serverRefusals = []struct {
	text string
	why  Refusal
}{
	{"parser ERROR", RefusedMalformed},
	{"maximum control line exceeded", RefusedMalformed},
	{"maximum payload exceeded", RefusedOversized},
	{"handshake error", RefusedCertificate},
	{"authentication error", RefusedCredentials},
	{"authentication timeout", RefusedCredentials},
	{"Publish Violation", RefusedPublish},
	{"Subscription Violation", RefusedSubscribe},
}

// refusalOf reads the embedded server's log, the only place where it tells of all that it refuses.
func refusalOf(line string) (Refusal, bool) {
	for _, r := range serverRefusals {
		if strings.Contains(line, r.text) {
			return r.why, true
		}
	}
	return 0, false
}
