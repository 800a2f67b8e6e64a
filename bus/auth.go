package bus

import (
	"slices"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// Role is what the holder of a key may do on the bus: a program's part in a company of several machines. What a
// role may not publish or subscribe to, the server refuses, logs and counts.
type Role struct {
	Name, Doc string
	Publish   []string // subjects, with NATS's wildcards
	Subscribe []string
	Answer    bool // may answer what it is asked, once, wherever the answer is to go
}

// InboxPrefix starts the subjects on which replies come. Clients with a role that is no node's have a part of it to
// themselves: InboxPrefix + role + ".>".
const InboxPrefix = "_INBOX."

const discovery = "$SRV.>" // nats micro

// Roles lists the roles, the one that may do most last.
func Roles() []Role {
	// What each node does, whatever its part: it answers, reports, is asked how it is, and mirrors what its actors say.
	node := Role{Publish: append(readsBucket("troupe-cluster"), InboxPrefix+">", schemas.NodeReports.Subject(""), schemas.TapPrefix+">", schemas.PeekPrefix+">", schemas.JournalPrefix+">"),
		Subscribe: append(served("node"), InboxPrefix+">", discovery)}
	var ask, offer []string
	for _, e := range schemas.ClientEndpoints() {
		ask, offer = append(ask, e.Subject(), e.Subject()+".*"), append(offer, e.Subject(), e.Subject()+".*")
	}
	credit := creditSubject("*")
	roles := []Role{
		{Name: "replica", Doc: "a node with a scheduler, a memory manager and a computation manager",
			Publish:   append([]string{schemas.Tokens.Subject("*"), schemas.ReplicaReports.Subject(""), schemas.OfferKV.Subject("*"), schemas.Rank.Subject("*")}, node.Publish...),
			Subscribe: slices.Concat(served("scheduler", "memory", "compute"), node.Subscribe)},
		{Name: "scheduler", Doc: "a node with schedulers and memory managers, for computation managers on others",
			Publish: append([]string{schemas.Tokens.Subject("*"), schemas.ReplicaReports.Subject(""), schemas.ClaimDevice.Subject("*"), schemas.Execute.Subject("*"),
				schemas.ImportKV.Subject("*"), schemas.Rank.Subject("*")}, node.Publish...),
			Subscribe: append(served("scheduler", "memory"), node.Subscribe...)},
		{Name: "compute", Doc: "a node with a computation manager, for a scheduler on another",
			Publish:   append([]string{schemas.StepDone.Subject("*"), schemas.FindKV.Subject("*"), schemas.AdoptKV.Subject("*"), schemas.OfferKV.Subject("*")}, node.Publish...),
			Subscribe: append(served("device", "compute"), node.Subscribe...)},
		{Name: "tokenizer", Doc: "a node that turns text into tokens and back",
			Publish:   append([]string{schemas.Deltas.Subject("*"), schemas.CancelSeqs.Subject("*")}, node.Publish...),
			Subscribe: append(served("tokenizer"), node.Subscribe...)},
		{Name: "gateway", Doc: "a node that takes requests from clients and streams the answers",
			Publish: slices.Concat([]string{schemas.Submit.Subject("*"), schemas.CancelSeqs.Subject("*"), schemas.Engine.Subject("*"), schemas.SchedulerInfo.Subject("*"),
				schemas.Compile.Subject("*"), schemas.FetchKV.Subject("*"), schemas.ComputeInfo.Subject("*"), schemas.Prefixes.Subject("*"), schemas.MemoryInfo.Subject("*"),
				schemas.Encode.Subject("*"), schemas.Decode.Subject("*"), schemas.CloseSessions.Subject("*"), schemas.TokenizerInfo.Subject("*"),
				schemas.Route.Subject("*"), schemas.SubjectPrefix + "cancel.*"}, node.Publish),
			Subscribe: slices.Concat(served("gateway", "tokenizer"), offer, []string{schemas.ReplicaReports.Subject(""), credit}, node.Subscribe)},
		{Name: "policy", Doc: "a policy in another process: it is asked for an order or a route",
			Answer: true, Subscribe: []string{InboxPrefix + "policy.>", schemas.Rank.Subject("*"), schemas.Route.Subject("*")}},
		{Name: "client", Doc: "a tenant: asks gateways, and sees the answers to its own questions",
			Publish: append(ask, credit), Subscribe: []string{InboxPrefix + "client.>"}},
		{Name: "observer", Doc: "sees all and changes nothing: taps, journals, states, health, who plays what",
			Publish:   append(states(), "$SRV.PING", "$SRV.PING.>", "$SRV.INFO", "$SRV.INFO.>", "$SRV.STATS", "$SRV.STATS.>"),
			Subscribe: []string{InboxPrefix + "observer.>", schemas.TapPrefix + ">", schemas.PeekPrefix + ">", schemas.JournalPrefix + ">", schemas.NodeReports.Subject(""), schemas.ReplicaReports.Subject("")}},
		{Name: "admin", Doc: "may do everything", Publish: []string{">"}, Subscribe: []string{">"}},
	}
	return roles
}

// TenantPrefix starts the names of tenants' roles.
const TenantPrefix = "tenant-"

// TenantRole is what a client may do that shall see nothing of others: each has an inbox of its own.
func TenantRole(name string) Role {
	for _, r := range Roles() {
		if r.Name == "client" {
			role := TenantPrefix + name
			return Role{Name: role, Doc: "a client with an inbox of its own", Publish: r.Publish, Subscribe: []string{InboxPrefix + role + ".>"}}
		}
	}
	panic("bus: there is no role of clients")
}

// readsBucket are the requests that read and follow a key-value bucket (nats-architecture-and-design ADR-8).
func readsBucket(name string) []string {
	const api = "$JS." + JetStreamDomain + ".API."
	stream := "KV_" + name
	return []string{api + "STREAM.INFO." + stream, api + "DIRECT.GET." + stream + ".>", api + "CONSUMER.CREATE." + stream + ".>",
		api + "CONSUMER.INFO." + stream + ".*", api + "CONSUMER.DELETE." + stream + ".*", "$JS.FC." + stream + ".>"}
}

// checkReply refuses to answer where only the engine's own parts may speak: whoever asks could make an actor, which
// may publish more than he, do it for him.
func checkReply(subject string) error {
	for _, own := range []string{schemas.SubjectPrefix, schemas.TapPrefix, schemas.PeekPrefix, schemas.JournalPrefix, "$"} {
		if strings.HasPrefix(subject, own) {
			return schemas.Errorf(schemas.KindInvalid, "reply", "the reply subject %.80q is the engine's own", subject).WithHint("use an inbox, as %sNAME", InboxPrefix)
		}
	}
	return nil
}

// served are the subjects that actors of services are asked on, by instance and without.
func served(services ...string) (subjects []string) {
	for _, s := range services {
		subjects = append(subjects, schemas.SubjectPrefix+s+".*", schemas.SubjectPrefix+s+".*.*")
	}
	return subjects
}

// states are the subjects on which actors show themselves and say how they are.
func states() (subjects []string) {
	for _, e := range schemas.Endpoints() {
		if e.Verb == "state" || e.Verb == "info" || e.Verb == "health" {
			subjects = append(subjects, e.Subject(), e.Subject()+".*")
		}
	}
	return subjects
}
