package gateway

import (
	"context"
	"encoding/json"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/schemas"
)

const (
	debugAskTimeMax = 5 * time.Second
	countersTimeMax = time.Second
)

// debugVerbs are the exchanges that /debug/{service}/{verb} offers: what shows an actor's state without
// changing it, and (true) what may also be changed by POST.
var debugVerbs = map[string]bool{
	"gateway.state": false, "tokenizer.state": false, "scheduler.state": false, "scheduler.info": false, "scheduler.policy": true, "scheduler.shadow": true,
	"memory.state": false, "memory.eviction": true, "compute.state": false, "compute.kernels": true, submitKernel: true,
}

// submitKernel is the verb that only admins may use, and that takes its time.
const submitKernel = "compute.submit_kernel"

func init() {
	for _, e := range schemas.Endpoints() {
		if e.Verb == "try" || e.Verb == "health" {
			debugVerbs[e.Service+"."+e.Verb] = e.Verb == "try"
		}
	}
}

// debugEntry describes one exchange in the listing.
type debugEntry struct {
	Subject        string          `json:"subject"`
	Path           string          `json:"path,omitempty"` // over HTTP
	Doc            string          `json:"doc"`
	RequestSchema  json.RawMessage `json:"request_schema"`
	RequestExample any             `json:"request_example"`
	ReplySchema    json.RawMessage `json:"reply_schema"`
	ReplyExample   any             `json:"reply_example"`
	EventSchema    json.RawMessage `json:"event_schema,omitempty"`
	EventExample   any             `json:"event_example,omitempty"`
}

// serveDebug lists every exchange, with schemas and example data.
func (g *Gateway) serveDebug(w http.ResponseWriter, _ *http.Request) {
	var listing struct {
		Clients []debugEntry            `json:"clients"`
		Actors  map[string][]debugEntry `json:"actors"`
	}
	for _, e := range schemas.ClientEndpoints() {
		d := debugEntry{Subject: e.Subject(), Path: e.Path, Doc: e.Doc,
			RequestSchema: json.RawMessage(schemas.JSONSchema(e.Request)), RequestExample: e.RequestExample,
			ReplySchema: json.RawMessage(schemas.JSONSchema(e.Reply)), ReplyExample: e.ReplyExample}
		if e.Event != nil {
			d.EventSchema, d.EventExample = json.RawMessage(schemas.JSONSchema(e.Event)), e.EventExample
		}
		listing.Clients = append(listing.Clients, d)
	}
	listing.Actors = map[string][]debugEntry{}
	for _, e := range schemas.Endpoints() {
		d := debugEntry{Subject: e.Subject(), Doc: e.Doc,
			RequestSchema: json.RawMessage(schemas.JSONSchema(e.Request)), RequestExample: e.RequestExample,
			ReplySchema: json.RawMessage(schemas.JSONSchema(e.Reply)), ReplyExample: e.ReplyExample}
		if _, offered := debugVerbs[e.Service+"."+e.Verb]; offered {
			d.Path = "/debug/" + e.Service + "/" + e.Verb
		}
		listing.Actors[e.Service] = append(listing.Actors[e.Service], d)
	}
	g.writeJSON(w, http.StatusOK, listing)
}

// serveDebugVerb asks an actor over the bus, wherever it runs, and returns what it says. ?instance= chooses
// another actor than those this gateway works with.
func (g *Gateway) serveDebugVerb(w http.ResponseWriter, r *http.Request) {
	service, verb := r.PathValue("service"), r.PathValue("verb")
	if verb == "examples" && r.Method != http.MethodPost {
		g.serveExamples(w, service)
		return
	}
	mayChange, offered := debugVerbs[service+"."+verb]
	if _, actor := debugVerbs[service+".state"]; !offered && (verb != "counters" || !actor) {
		g.writeError(w, schemas.Errorf(schemas.KindNotFound, "debug", "there is no /debug/%s/%s", clip(service), clip(verb)).WithHint("GET /debug lists what there is"))
		return
	}
	limit := debugAskTimeMax
	if service+"."+verb == submitKernel {
		if err := g.mayAdminister(r.Context(), r.URL.Path); err != nil {
			g.writeError(w, err)
			return
		}
		limit = schemas.SubmitKernel.Timeout
	}
	instance, body, ok := g.debugRequest(w, r, g.debugInstance(service), mayChange)
	switch {
	case !ok:
	case verb == "counters":
		g.serveCounters(w, r, service, instance)
	default:
		g.askActor(r.Context(), w, schemas.SubjectPrefix+service+"."+verb+"."+string(instance), body, limit)
	}
}

// debugRequest reads which actor is asked, and what. If it reports false, it has answered.
func (g *Gateway) debugRequest(w http.ResponseWriter, r *http.Request, instance schemas.Instance, mayChange bool) (schemas.Instance, []byte, bool) {
	if asked := r.URL.Query().Get("instance"); asked != "" {
		if strings.ContainsAny(asked, ".*> \t\r\n") || len(asked) > 128 {
			g.writeError(w, invalid("instance", "instance is %q; expected a name such as replica0", clip(asked)))
			return "", nil, false
		}
		instance = schemas.Instance(asked)
	}
	if r.Method != http.MethodPost {
		return instance, []byte("{}"), true
	}
	if !mayChange {
		w.Header().Set("Allow", "GET, HEAD")
		g.writeErrorStatus(w, http.StatusMethodNotAllowed, schemas.Errorf(schemas.KindInvalid, "debug", "%s can only be read", clip(strings.TrimPrefix(r.URL.Path, "/debug/"))))
		return "", nil, false
	}
	// Browsers send other types to foreign sites without asking them.
	if kind, _, _ := mime.ParseMediaType(r.Header.Get(headerContentType)); kind != "application/json" {
		g.writeErrorStatus(w, http.StatusUnsupportedMediaType, invalid("", "Content-Type is %q; expected application/json", clip(kind)))
		return "", nil, false
	}
	body, ok := g.readBody(w, r)
	return instance, body, ok
}

// serveFaults shows and switches what a node does to its actors' messages: this gateway's, or ?instance=.
func (g *Gateway) serveFaults(w http.ResponseWriter, r *http.Request) {
	node, body, ok := g.debugRequest(w, r, schemas.Instance(g.node.ID()), true)
	if !ok {
		return
	}
	if r.Method == http.MethodDelete {
		body = mustJSON(&schemas.FaultsRequest{Off: true})
	}
	if !g.node.Served(schemas.Faults.Subject(node)) {
		g.writeError(w, schemas.Errorf(schemas.KindUnsupported, "faults", "faults are not enabled on node %s", node).WithHint("start it with --enable-faults"))
		return
	}
	g.askActor(r.Context(), w, schemas.Faults.Subject(node), body, debugAskTimeMax)
}

// serveExamples shows a message for each thing that a service can be asked.
func (g *Gateway) serveExamples(w http.ResponseWriter, service string) {
	type example struct {
		Request any `json:"request"`
		Reply   any `json:"reply"`
	}
	examples := map[string]example{}
	for _, e := range schemas.Endpoints() {
		if e.Service == service {
			examples[e.Verb] = example{e.RequestExample, e.ReplyExample}
		}
	}
	if len(examples) == 0 {
		g.writeError(w, schemas.Errorf(schemas.KindNotFound, "debug", "there is no actor %s", clip(service)).WithHint("GET /debug lists what there is"))
		return
	}
	if service == "gateway" {
		for _, e := range schemas.ClientEndpoints() {
			examples[e.Verb] = example{e.RequestExample, e.ReplyExample}
		}
	}
	g.writeJSON(w, http.StatusOK, examples)
}

// serveCounters shows what an actor's endpoints have counted, as `nats micro stats` does.
func (g *Gateway) serveCounters(w http.ResponseWriter, r *http.Request, service string, instance schemas.Instance) {
	stats, err := g.countersOf(r.Context(), service, instance)
	if err != nil {
		g.writeError(w, err)
		return
	}
	g.writeJSON(w, http.StatusOK, json.RawMessage(stats))
}

// countersOf asks all actors of a service, since only they know their instances, and picks one.
func (g *Gateway) countersOf(ctx context.Context, service string, instance schemas.Instance) ([]byte, *schemas.Error) {
	ctx, cancel := context.WithTimeout(ctx, countersTimeMax)
	defer cancel()
	conn, subject := g.node.Conn(), micro.APIPrefix+"."+micro.StatsVerb.String()+"."+service
	sub, err := conn.SubscribeSync(conn.NewInbox())
	if err == nil {
		defer func() { _ = sub.Unsubscribe() }() // an error means that the connection is gone
		err = conn.PublishRequest(subject, sub.Subject, nil)
	}
	for err == nil {
		var m *nats.Msg
		if m, err = sub.NextMsgWithContext(ctx); err != nil {
			break
		}
		var stats micro.Stats
		if json.Unmarshal(m.Data, &stats) == nil && stats.Metadata["instance"] == string(instance) {
			return m.Data, nil
		}
	}
	return nil, schemas.Errorf(schemas.KindUnavailable, "debug", "%s.%s does not say what it counts: %v", clip(service), instance, err).
		WithHint("`nats micro ls` lists the actors that run")
}

// debugInstance is the actor of a service that this gateway works with. A replica's actors share its name.
func (g *Gateway) debugInstance(service string) schemas.Instance {
	switch service {
	case "gateway":
		return g.cfg.Instance
	case "tokenizer":
		if t, err := g.tokenizers.pick(g.models.own, nil); err == nil {
			return t.name
		}
		return g.cfg.Tokenizer
	}
	if g.replicas != nil {
		if engine, err := g.replicas.engine(g.models.own); err == nil {
			return engine.Replica
		}
	}
	return g.cfg.Scheduler
}

func (g *Gateway) askActor(ctx context.Context, w http.ResponseWriter, subject string, body []byte, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	m := nats.NewMsg(subject)
	m.Header.Set(headerContentType, "application/json")
	m.Data = body
	reply, err := g.node.Conn().RequestMsgWithContext(ctx, m)
	if err != nil {
		g.writeError(w, schemas.Errorf(schemas.KindUnavailable, "debug", "%s: %v", subject, err).WithHint("`nats micro ls` lists the actors that run"))
		return
	}
	if reply.Header.Get(micro.ErrorCodeHeader) != "" {
		e := &schemas.Error{}
		if json.Unmarshal(reply.Data, e) != nil || e.Kind == "" {
			e = schemas.Errorf(schemas.KindInternal, "debug", "%s: %s", subject, reply.Header.Get(micro.ErrorHeader))
		}
		g.writeError(w, e)
		return
	}
	g.writeJSON(w, http.StatusOK, json.RawMessage(reply.Data))
}
