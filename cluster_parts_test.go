package troupe

import (
	"syscall"
	"testing"
)

// Each part may be a node of its own: a hub that only joins the others, gateways without tokenizers, a pool of
// tokenizers, a replica. Tokenizers that die are not missed, token for token.
func TestEachPartMayBeANodeOfItsOwn(t *testing.T) {
	list := asks(t, 6, 8, 700)
	hub := startHub(t, func(o *Options) { o.Tokenizers = TokenizersShared })
	if _, err := streamText(hub, list[0].body, nil); err == nil {
		t.Error("a gateway alone answers")
	}
	killed := startNode(t, "t1", hub.LeafURL(), RoleTokenizer)
	frozen := startNode(t, "t2", hub.LeafURL(), RoleTokenizer)
	startNode(t, "t3", hub.LeafURL(), RoleTokenizer)
	startChild(t, hub, "r1")
	second := openEngine(t, func(o *Options) {
		*o = clusterOptions()
		o.HTTP, o.Attach, o.Actors, o.Tokenizers, o.Node = "127.0.0.1:0", hub.LeafURL(), RoleGateway, TokenizersShared, "g2"
	})
	for _, g := range []*Engine{hub, second} {
		waitFor(t, "its gateway knows the replica and the tokenizers", func() bool { return len(reports(t, g)) == 1 && g.gateway.Tokenizers() == 3 })
	}
	for _, g := range []*Engine{hub, second} {
		askTogether(t, g, list, func() {})
	}
	askTogether(t, hub, list, func() {
		askTogether(t, second, list, func() {
			waitFor(t, "tokens come", func() bool { return reports(t, hub)["r1"].Running > 8 })
			killed.kill()
			frozen.signal(syscall.SIGSTOP)
		})
	})
	if moved := hub.gateway.Moved() + second.gateway.Moved(); moved < 2 {
		t.Errorf("%d requests moved; nothing was tested", moved)
	}
	waitHoldsNothing(t, hub.node, "r1")
}
