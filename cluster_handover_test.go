package troupe

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/gputest"
	"github.com/troupe-engine/troupe/internal/handover"
	"github.com/troupe-engine/troupe/schemas"
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
	t.Setenv(deviceVariable, "cpu") // also where there is a GPU, which has a test of its own
	list := asksOn(t, "cpu", 31, 24, 80, 120)
	for name, start := range map[string]func(t *testing.T, hub *Engine, phase string){
		"device memory": func(t *testing.T, hub *Engine, phase string) {
			openOn(t, network{chooseDevice: sharing(len(phase))}, func(o *Options) {
				*o = clusterOptions()
				o.HTTP, o.Attach, o.Actors, o.Node, o.ReplicaPhase = "none", hub.LeafURL(), RoleReplica, phase, phase
			})
			waitFor(t, phase+" is known", func() bool { return reports(t, hub)[phase] != nil })
		},
		"shared memory": func(t *testing.T, hub *Engine, phase string) { startPhase(t, hub, phase, phase) },
		"tcp": func(t *testing.T, hub *Engine, phase string) {
			openOn(t, network{kvWay: handover.WayTCP}, func(o *Options) {
				*o = clusterOptions()
				o.HTTP, o.Attach, o.Actors, o.Node, o.ReplicaPhase = "none", hub.LeafURL(), RoleReplica, phase, phase
			})
			waitFor(t, phase+" is known", func() bool { return reports(t, hub)[phase] != nil })
		},
	} {
		t.Run(name, func(t *testing.T) {
			hub := startHub(t, nil)
			start(t, hub, PhasePrefill)
			start(t, hub, PhaseDecode)
			askTogether(t, hub, list, func() {})
			moved, failed, blocks := hub.gateway.HandedOver()
			t.Logf("%d requests handed over with %d blocks, %d without", moved, blocks, failed)
			if moved < 4 || blocks < moved || failed > 0 { // some may be answered before their KV has come
				t.Errorf("%d requests were handed over with %d blocks, %d without", moved, blocks, failed)
			}
			if by := hub.gateway.HandedOverBy(name); by < 4 || !strings.Contains(metrics(t, hub), fmt.Sprintf(`troupe_handovers_total{way="%s"} %d`, name, by)) {
				t.Errorf("%d hand-overs by %s", by, name)
			}
			if hub.gateway.Moved() > 0 {
				t.Errorf("%d requests moved for other reasons", hub.gateway.Moved())
			}
		})
	}
}

// sharing is a device that stands for one of a process of its own, and shares its memory with others that do.
func sharing(process int) func(Options) (gpu.Device, string, error) {
	return func(o Options) (gpu.Device, string, error) {
		d, why, err := ChooseDevice(o)
		return &gputest.Sharing{Device: d, Process: process, Place: "gpu"}, why, err
	}
}

// With hardly room for what runs, blocks that are handed over are evicted before and after, on both sides, and steps are planned
// in between. Nothing of it shows in the answers, also where all actors are processes of their own and messages are lost.
func TestHandoversUnderPressure(t *testing.T) {
	t.Setenv(deviceVariable, "cpu") // also where there is a GPU, which has a test of its own
	list := asksOn(t, "cpu", 32, 24, 80, 100)
	for name, n := range map[string]network{
		"one process each": {},
		"device memory":    {},
		"actors apart":     {remoteOnly: true},
		"bad network": {remoteOnly: true, attemptTimeMax: 100 * time.Millisecond, faults: &schemas.FaultPlan{Seed: 5, Rules: []schemas.FaultRule{
			{Kind: schemas.FaultDrop, Subject: "inf.v1.memory.>", Probability: 0.02}, {Kind: schemas.FaultDrop, Subject: "inf.v1.compute.>", Probability: 0.02},
			{Kind: schemas.FaultDelay, Subject: "inf.v1.memory.adopt.>", Probability: 0.2, DelayUs: 150_000}, {Kind: schemas.FaultDelay, Subject: "inf.v1.compute.import.>", Probability: 0.2, DelayUs: 150_000}}}},
	} {
		t.Run(name, func(t *testing.T) {
			hub := openOn(t, network{}, func(o *Options) {
				*o = clusterOptions()
				o.HTTP, o.Leaf, o.Actors = "127.0.0.1:0", "127.0.0.1:0", RoleGateway
			})
			for _, phase := range []string{PhasePrefill, PhaseDecode} {
				if name == "device memory" {
					n.chooseDevice = sharing(len(phase))
				}
				openOn(t, n, func(o *Options) {
					*o = clusterOptions()
					o.HTTP, o.Attach, o.Actors, o.Node, o.ReplicaPhase, o.KVBlocks = "none", hub.LeafURL(), RoleReplica, phase, phase, 40
				})
			}
			waitFor(t, "both are known", func() bool { return len(reports(t, hub)) == 2 })
			for range 2 {
				askTogether(t, hub, list, func() {})
			}
			moved, failed, blocks := hub.gateway.HandedOver()
			t.Logf("%d requests handed over with %d blocks, %d without", moved, blocks, failed)
			if moved == 0 || blocks == 0 {
				t.Error("nothing was handed over")
			}
			for _, replica := range []schemas.Instance{PhasePrefill, PhaseDecode} {
				waitFor(t, "no block is left behind", func() bool {
					state, err := bus.NewRef(hub.node, schemas.MemoryInfo, replica).Call(t.Context(), &schemas.InfoRequest{})
					return err == nil && state.Used == 0 && state.Free+state.Cached == 40
				})
			}
		})
	}
}

// Either side may die at any moment.
func TestEitherPhaseMayDie(t *testing.T) {
	list := asksOf(t, 33, 16, 300, 100)
	hub := startHub(t, nil)
	startPhase(t, hub, "p1", PhasePrefill)
	startPhase(t, hub, "d1", PhaseDecode)
	prefill, decode := startPhase(t, hub, "p2", PhasePrefill), startPhase(t, hub, "d2", PhaseDecode)
	askTogether(t, hub, list[:4], func() {})
	askTogether(t, hub, list, func() {
		waitFor(t, "answers have begun", func() bool { r := reports(t, hub); return r["d2"].Progress > 100 && r["p2"].Progress > 100 })
		prefill.kill()
		decode.kill()
	})
	askTogether(t, hub, list[:8], func() {})
	waitFor(t, "two are left", func() bool { return len(reports(t, hub)) == 2 })
	handed, failed, blocks := hub.gateway.HandedOver()
	t.Logf("%d requests handed over with %d blocks, %d without; %d moved", handed, blocks, failed, hub.gateway.Moved())
	if handed == 0 || hub.gateway.Moved() == 0 {
		t.Error("nothing was tested")
	}
}

// Where a phase has no replica, those for the other do its work, and replicas whose tokens might differ take nothing.
func TestOnePhaseAlone(t *testing.T) {
	list := asksOf(t, 34, 6, 60, 60)
	for _, phase := range []string{PhasePrefill, PhaseDecode} {
		hub := startHub(t, nil)
		startPhase(t, hub, phase, phase)
		if phase == PhasePrefill {
			stranger := openEngine(t, func(o *Options) {
				*o = clusterOptions()
				o.HTTP, o.Attach, o.Actors, o.Node, o.ReplicaPhase, o.KVDType = "none", hub.LeafURL(), RoleReplica, "stranger", PhaseDecode, "bf16"
			})
			waitFor(t, "the stranger is known", func() bool { return reports(t, hub)[string(stranger.node.ID())] != nil })
		}
		askTogether(t, hub, list, func() {})
		if handed, _, _ := hub.gateway.HandedOver(); handed > 0 {
			t.Errorf("%d requests were handed over", handed)
		}
	}
}

// What asks for KV and must not have it gets a reason, and what cannot be is refused.
func TestHandoversAreRefused(t *testing.T) {
	hub := startHub(t, nil)
	for _, phase := range []string{PhasePrefill, PhaseDecode} {
		startPhase(t, hub, phase, phase)
	}
	waitFor(t, "both have planned a step", func() bool {
		complete(t, hub, `{"prompt":"Once upon a time there was a king who had three sons and a daughter in the house by the sea","max_tokens":300,"ignore_eos":true}`)
		handed, _, _ := hub.gateway.HandedOver()
		return handed > 0
	})
	tokens := make(schemas.I32, 32)
	offer := bus.NewRef(hub.node, schemas.OfferKV, PhasePrefill)
	fetch := bus.NewRef(hub.node, schemas.FetchKV, PhaseDecode)
	adopt := bus.NewRef(hub.node, schemas.AdoptKV, PhaseDecode)
	fill := bus.NewRef(hub.node, schemas.ImportKV, PhaseDecode)
	for name, c := range map[string]struct {
		call func(context.Context) error
		says string
	}{
		"another model": {func(ctx context.Context) error {
			_, err := offer.Call(ctx, &schemas.KVOfferRequest{Tokens: tokens, Identity: "x"})
			return err
		}, "keys and values would be others"},
		"from nobody": {func(ctx context.Context) error {
			_, err := fetch.Call(ctx, &schemas.KVFetchRequest{Tokens: tokens})
			return err
		}, "expected another replica"},
		"from itself": {func(ctx context.Context) error {
			_, err := fetch.Call(ctx, &schemas.KVFetchRequest{From: PhaseDecode, Tokens: tokens})
			return err
		}, "expected another replica"},
		"from the absent": {func(ctx context.Context) error {
			_, err := fetch.Call(ctx, &schemas.KVFetchRequest{From: "absent", Tokens: tokens})
			return err
		}, "offer.absent"},
		"from a bad name": {func(ctx context.Context) error {
			_, err := fetch.Call(ctx, &schemas.KVFetchRequest{From: "a.>", Tokens: tokens})
			return err
		}, "instance"},
		"without content": {func(ctx context.Context) error {
			_, err := adopt.Call(ctx, &schemas.KVAdoptRequest{Tokens: tokens, Count: 2, Ticket: 9})
			return err
		}, "ticket 9"},
		"without ticket": {func(ctx context.Context) error {
			_, err := fill.Call(ctx, &schemas.KVImportRequest{Ticket: 9, Blocks: schemas.I32{1 << 30}})
			return err
		}, "ticket 9"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err := c.call(ctx)
		cancel()
		var e *schemas.Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v; want %q", name, err, c.says)
		}
	}
	state, err := bus.NewRef(hub.node, schemas.MemoryInfo, PhaseDecode).Call(t.Context(), &schemas.InfoRequest{})
	if err != nil || state.Used != 0 {
		t.Errorf("%+v, %v", state, err)
	}
	found, err := bus.NewRef(hub.node, schemas.FindKV, PhaseDecode).Call(t.Context(), &schemas.KVFindRequest{Tokens: tokens})
	if err != nil || len(found.Blocks) != 0 {
		t.Errorf("blocks without content are found: %+v, %v", found, err)
	}
	for _, bad := range []func(*Options){
		func(o *Options) { o.ReplicaPhase = "both, please" },
		func(o *Options) { o.ReplicaPhase = PhaseDecode },
		func(o *Options) { o.ReplicaPhase, o.Leaf, o.PrefixCache = PhaseDecode, "127.0.0.1:0", false },
		func(o *Options) { o.ReplicaPhase, o.Leaf, o.Actors = PhasePrefill, "127.0.0.1:0", RoleGateway },
	} {
		o := DefaultOptions()
		bad(&o)
		var e *schemas.Error
		if err := o.Validate(); !errors.As(err, &e) || e.Param != "replica_phase" {
			t.Errorf("%+v: %v", o, err)
		}
	}
}
