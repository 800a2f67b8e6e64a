package gateway

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/troupe-engine/troupe/internal/toolcalls"
	"github.com/troupe-engine/troupe/schemas"
)

// modelsMax bounds the models that a gateway knows, those included that are gone.
const modelsMax = 256

// modelNameMax bounds the bytes of a model's name in a report.
const modelNameMax = 256

// isModelName reports whether a report can name a model so: names are shown in metrics, which refuse what is no text.
func isModelName(name string) bool {
	return name != "" && len(name) <= modelNameMax && utf8.ValidString(name)
}

// model is one that requests can ask for: the gateway's own or, in a cluster, another that replicas serve and that a tokenizer of
// the pool reads and writes.
type model struct {
	name    string // "": what the own engine calls it
	own     bool
	metrics func() *modelMetrics

	engine atomic.Pointer[schemas.EngineInfo]     // as a replica described it last; nil until one has
	speech atomic.Pointer[schemas.TokenizerState] // as a tokenizer described it last; nil until one has

	turns turns // guarded by requests.mu
}

// title is what the model is called, "" if that is not known yet.
func (m *model) title() string {
	if m.name == "" {
		if engine := m.engine.Load(); engine != nil {
			return engine.Model
		}
	}
	return m.name
}

// models are those that a gateway knows.
type models struct {
	g   *Gateway
	own *model

	mu     sync.Mutex
	others map[string]*model
}

func newModels(g *Gateway) *models {
	ms := &models{g: g, others: map[string]*model{}}
	ms.own = ms.make(g.cfg.ModelName)
	ms.own.own = true
	return ms
}

func (ms *models) make(name string) *model {
	m := &model{name: name}
	m.metrics = sync.OnceValue(func() *modelMetrics { return ms.g.metrics.of(modelLabel(m.title())) })
	ms.g.requests.know(m)
	return m
}

// of returns the model of that name, which a node of the cluster has. It is nil if there are too many.
func (ms *models) of(name string) *model {
	if name == ms.own.title() {
		return ms.own
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	m := ms.others[name]
	if m == nil && len(ms.others) < modelsMax {
		m = ms.make(name)
		ms.others[name] = m
	}
	return m
}

// find returns the model of that name, nil if there is none.
func (ms *models) find(name string) *model {
	if name == ms.own.title() || slices.Contains(ms.g.cfg.Aliases, name) {
		return ms.own
	}
	ms.mu.Lock()
	defer ms.mu.Unlock()
	return ms.others[name]
}

// all lists the models, the own first and the others by name.
func (ms *models) all() []*model {
	ms.mu.Lock()
	defer ms.mu.Unlock()
	list := make([]*model, 0, 1+len(ms.others))
	for _, m := range ms.others {
		list = append(list, m)
	}
	slices.SortFunc(list, func(a, b *model) int { return strings.Compare(a.name, b.name) })
	return slices.Insert(list, 0, ms.own)
}

// served lists the models that requests can have now.
func (g *Gateway) served() (list []*model) {
	for _, m := range g.models.all() {
		if _, err := g.available(m); err == nil {
			list = append(list, m)
		}
	}
	return list
}

// chosen is the model that a request names, and what its answer calls it. A request that names none gets the gateway's own, or,
// where nobody serves that, the only one that is served.
func (g *Gateway) chosen(name string) (*model, string, *schemas.Error) {
	if name == "" {
		m := g.models.own
		if _, err := g.available(m); err != nil && g.replicas != nil {
			if list := g.served(); len(list) == 1 {
				m = list[0]
			}
		}
		return m, m.title(), nil
	}
	if m := g.models.find(name); m != nil {
		return m, name, nil
	}
	if g.replicas != nil && time.Since(g.startedAt) < g.replicas.cfg.SilenceMax { // its replicas have not reported yet, perhaps
		return nil, "", notYet("no replica of %q has reported since this gateway started", clip(name))
	}
	return nil, "", schemas.Errorf(schemas.KindNotFound, schemas.OpModel, "there is no model %q here", clip(name)).
		WithParam("model").WithHint("this server has %s", g.names())
}

// names lists what is served for somebody who has asked for something else.
func (g *Gateway) names() string {
	var names []string
	for _, m := range g.served() {
		names = append(names, fmt.Sprintf("%q", m.title()))
	}
	if len(names) == 0 {
		return fmt.Sprintf("%q", g.models.own.title())
	}
	return strings.Join(names, ", ")
}

// notYet is why a request cannot be taken for the moment.
func notYet(format string, args ...any) *schemas.Error {
	e := schemas.Errorf(schemas.KindUnavailable, "admit", format, args...).WithHint("try again later")
	e.RetryAfterMs = retryAfterMs
	return e
}

// available returns what the replicas of a model serve, or why requests for it cannot be taken.
func (g *Gateway) available(m *model) (*schemas.EngineInfo, *schemas.Error) {
	if closed := g.requests.refusal(); closed != nil {
		return nil, closed
	}
	if g.replicas != nil { // which know at once who comes and goes
		engine, err := g.replicas.engine(m)
		if err != nil {
			if why := g.replicas.coming(); why != "" {
				return nil, notYet("%s: %s", err.Detail, why)
			}
			return nil, notYet("%s", err.Detail)
		}
		_, none := g.tokenizers.pick(m, nil)
		return engine, none
	}
	engine := m.engine.Load()
	if engine == nil {
		return nil, notYet("the engine %s has not answered yet", g.cfg.Scheduler)
	}
	if silence := g.silence.Load(); silence != nil {
		return nil, notYet("the engine %s does not answer: %s", g.cfg.Scheduler, silence.Detail)
	}
	return engine, nil
}

// ready says why no request can be taken, or nil: the gateway's own model, or another, is served.
func (g *Gateway) ready() *schemas.Error {
	_, err := g.available(g.models.own)
	if err != nil && g.replicas != nil && len(g.served()) > 0 {
		return nil
	}
	return err
}

// toolFormat is how a model writes calls.
func (g *Gateway) toolFormat(m *model) toolcalls.Format {
	if m.own && g.cfg.ToolFormat != "" {
		return g.cfg.ToolFormat
	}
	if said := m.speech.Load(); said != nil {
		return cmp.Or(toolcalls.Format(said.ToolFormat), toolcalls.Hermes)
	}
	return toolcalls.Hermes
}

// read turns a client's request into a job. What it leaves out is as the model that it names has it.
func (g *Gateway) read(a *api, f fields) (*job, *schemas.Error) {
	var name string
	_ = json.Unmarshal(f["model"], &name) // parsing says what is wrong with it
	m, _, err := g.chosen(name)
	if err != nil || m.own {
		return a.read(f, &g.cfg)
	}
	cfg := g.cfg
	cfg.Defaults = schemas.SamplingParams{Temperature: 1, TopP: 1}
	if said := m.speech.Load(); said != nil && said.Sampling != nil {
		cfg.Defaults = *said.Sampling
	}
	return a.read(f, &cfg)
}

// list shows the models that are served, under all their names. Those of the gateway's own stay listed.
func (g *Gateway) list() *schemas.ModelList {
	list := &schemas.ModelList{Object: "list", Data: []schemas.ModelCard{}}
	show := func(name, root string, engine *schemas.EngineInfo) {
		list.Data = append(list.Data, schemas.ModelCard{ID: name, Object: "model", Created: g.startedAt.Unix(), OwnedBy: "troupe", Root: root, MaxModelLen: engine.ContextMax})
	}
	if engine := g.models.own.engine.Load(); engine != nil {
		show(g.models.own.title(), "", engine)
		for _, alias := range g.cfg.Aliases {
			show(alias, g.models.own.title(), engine)
		}
	}
	for _, m := range g.served() {
		if engine := m.engine.Load(); !m.own && engine != nil {
			show(m.name, "", engine)
		}
	}
	return list
}
