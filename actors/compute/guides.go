package compute

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/troupe-engine/troupe/internal/guide"
	"github.com/troupe-engine/troupe/schemas"
)

// guidesBytesMax bounds the compiled guides that are kept; the one used longest ago goes first.
const guidesBytesMax = 512 << 20

// guides compiles constraints on answers and keeps the results, for the sequences of this compute.
type guides struct {
	vocabulary func() (*guide.Vocabulary, error) // made with the first guide

	mu      sync.Mutex
	kept    map[schemas.Guide]*keptGuide
	uses    int64                           // counts gets
	running map[schemas.Guide]chan struct{} // being compiled; closed when done
}

type keptGuide struct {
	grammar *guide.Grammar
	used    int64
}

func newGuides(vocabulary func() (*guide.Vocabulary, error)) *guides {
	return &guides{vocabulary: vocabulary, kept: map[schemas.Guide]*keptGuide{}, running: map[schemas.Guide]chan struct{}{}}
}

// get returns a compiled guide, compiling it if need be. Two callers with the same guide compile it once.
func (g *guides) get(source *schemas.Guide) (*guide.Grammar, *schemas.Error) {
	key := schemas.Guide{Kind: source.Kind, Source: source.Source}
	for {
		g.mu.Lock()
		if k := g.kept[key]; k != nil {
			g.uses++
			k.used = g.uses
			g.mu.Unlock()
			return k.grammar, nil
		}
		done := g.running[key]
		if done == nil {
			done = make(chan struct{})
			g.running[key] = done
			g.mu.Unlock()
			return g.compile(key, done)
		}
		g.mu.Unlock()
		<-done // and look again: it may have failed
	}
}

func (g *guides) compile(key schemas.Guide, done chan struct{}) (*guide.Grammar, *schemas.Error) {
	defer func() {
		g.mu.Lock()
		delete(g.running, key)
		g.mu.Unlock()
		close(done)
	}()
	if g.vocabulary == nil {
		return nil, schemas.Errorf(schemas.KindUnsupported, "guide", "this compute has no vocabulary").WithHint("put the model's tokenizer.json beside its weights")
	}
	vocabulary, err := g.vocabulary()
	if err != nil {
		return nil, schemas.Errorf(schemas.KindUnsupported, "guide", "%v", err)
	}
	grammar, err := guide.Compile(context.Background(), guide.Spec{Kind: guide.Kind(key.Kind), Source: key.Source}, vocabulary)
	if err != nil {
		return nil, schemas.Errorf(schemas.KindInvalid, "guide", "%v", err).WithParam("response_format")
	}
	g.keep(key, grammar)
	return grammar, nil
}

// keep adds a guide and forgets others while all together are too large: they grow as they are used.
func (g *guides) keep(key schemas.Guide, grammar *guide.Grammar) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.uses++
	g.kept[key] = &keptGuide{grammar, g.uses}
	total := 0
	for _, k := range g.kept {
		total += k.grammar.Bytes()
	}
	for total > guidesBytesMax && len(g.kept) > 1 {
		var oldest schemas.Guide
		least := int64(math.MaxInt64)
		for k, v := range g.kept {
			if v.used < least {
				oldest, least = k, v.used
			}
		}
		total -= g.kept[oldest].grammar.Bytes()
		delete(g.kept, oldest)
	}
}

// compileGuide makes a guide ready ahead of the sequences that use it, and refuses one that no answer could meet.
func (a *Actor) compileGuide(_ context.Context, req *schemas.CompileRequest) (*schemas.CompileReply, error) {
	began := time.Now()
	grammar, err := a.exec.guides.get(&req.Guide)
	if err != nil {
		return nil, err
	}
	shortest := grammar.MinTokens()
	if req.MaxTokens > 0 && shortest > int(req.MaxTokens) {
		return nil, schemas.Errorf(schemas.KindInvalid, "guide", "the shortest answer takes %d tokens; max_tokens is %d", shortest, req.MaxTokens).
			WithParam("max_tokens").WithHint("allow at least %d tokens", shortest)
	}
	return &schemas.CompileReply{MinTokens: int32(shortest), TookNs: time.Since(began).Nanoseconds(), Bytes: int64(grammar.Bytes())}, nil
}
