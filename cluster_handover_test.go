package troupe

import (
	"testing"
)

// startPhase attaches a replica that is for one phase of requests.
func startPhase(t *testing.T, hub *Engine, name, phase string) *child {
	t.Helper()
	c := startNode(t, name, hub.LeafURL(), RoleReplica+" "+phase)
	waitFor(t, name+" is known", func() bool { return reports(t, hub)[name] != nil })
	return c
}

// Prompts are computed at one replica and answers go on at another, with the prompts' KV: token for token what one node alone
// answers.
func TestPromptsAndAnswersApart(t *testing.T) {
	list := asksOf(t, 31, 24, 80, 120)
	for name, ways := range map[string]func(t *testing.T){
		"shared memory": func(*testing.T) {},
		"tcp":           func(t *testing.T) { t.Setenv("TMPDIR", "/nowhere") }, // where the socket for shared memory would be
	} {
		t.Run(name, func(t *testing.T) {
			hub := startHub(t, nil)
			ways(t)
			startPhase(t, hub, "p", PhasePrefill)
			startPhase(t, hub, "d", PhaseDecode)
			askTogether(t, hub, list[:4], func() {}) // before the first step nothing can be handed over
			askTogether(t, hub, list[4:], func() {})
			moved, failed, blocks := hub.gateway.HandedOver()
			t.Logf("%d requests handed over with %d blocks, %d failed", moved, blocks, failed)
			if moved < 20 || blocks < 20 || failed > 4 {
				t.Errorf("%d requests were handed over with %d blocks, %d not", moved, blocks, failed)
			}
			if hub.gateway.Moved() > 0 {
				t.Errorf("%d requests moved for other reasons", hub.gateway.Moved())
			}
		})
	}
}
