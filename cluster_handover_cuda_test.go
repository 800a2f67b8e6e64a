package troupe

import (
	"testing"

	"github.com/troupe-engine/troupe/internal/handover"
)

// KV goes by CUDA IPC from a process to another on one GPU: prompts are computed at one replica and answers go on at the other, token
// for token what one replica alone answers there.
func TestPromptsAndAnswersApartOnCUDA(t *testing.T) {
	needCUDA(t)
	t.Setenv(deviceVariable, "cuda")
	list := asksOn(t, "cuda", 31, 24, 80, 120)
	hub := startHub(t, nil)
	startPhase(t, hub, PhasePrefill, PhasePrefill)
	startPhase(t, hub, PhaseDecode, PhaseDecode)
	for _, a := range list[:6] { // nothing else runs, as when the answers were made
		askTogether(t, hub, []ask{a}, func() {})
	}
	askTogether(t, hub, list, func() {})
	moved, failed, blocks := hub.gateway.HandedOver()
	by := hub.gateway.HandedOverBy(handover.WayDevice)
	t.Logf("%d requests handed over with %d blocks, %d without; %d by way of the device's memory", moved, blocks, failed, by)
	if by < 4 || failed > 0 {
		t.Errorf("%d hand-overs by way of the device's memory, %d failed", by, failed)
	}
	if host := hub.gateway.HandedOverBy(handover.WayShared) + hub.gateway.HandedOverBy(handover.WayTCP); host > by/4 { // when all segments are lent
		t.Errorf("%d hand-overs went by way of the host", host)
	}
	if hub.gateway.Moved() > 0 {
		t.Errorf("%d requests moved for other reasons", hub.gateway.Moved())
	}
}

// Processes die whose memory others have mapped, and that have mapped others'. The rest goes on.
func TestEitherPhaseMayDieOnCUDA(t *testing.T) {
	needCUDA(t)
	t.Setenv(deviceVariable, "cuda")
	list := asksOn(t, "cuda", 33, 32, 300, 100) // of which each comes once: nothing has to be handed over of what a replica has
	hub := startHub(t, nil)
	startPhase(t, hub, "p1", PhasePrefill)
	startPhase(t, hub, "d1", PhaseDecode)
	prefill, decode := startPhase(t, hub, "p2", PhasePrefill), startPhase(t, hub, "d2", PhaseDecode)
	askTogether(t, hub, list[:8], func() {})
	before := hub.gateway.HandedOverBy(handover.WayDevice)
	askTogether(t, hub, list[8:24], func() {
		waitFor(t, "answers have begun", func() bool { r := reports(t, hub); return r["d2"].Progress > 100 && r["p2"].Progress > 100 })
		prefill.kill()
		decode.kill()
	})
	waitFor(t, "two are left", func() bool { return len(reports(t, hub)) == 2 })
	between := hub.gateway.HandedOverBy(handover.WayDevice)
	askTogether(t, hub, list[24:], func() {})
	after := hub.gateway.HandedOverBy(handover.WayDevice)
	t.Logf("by way of the device's memory %d, %d and %d hand-overs; %d by way of the host; %d requests moved", before, between-before, after-between,
		hub.gateway.HandedOverBy(handover.WayShared), hub.gateway.Moved())
	if before == 0 || after == between || hub.gateway.Moved() == 0 {
		t.Error("nothing was tested")
	}
}
