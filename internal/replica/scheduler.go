package replica

import (
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

// Scheduler is a running scheduler and memory manager, in one inline group, whose computation manager is on another node.
type Scheduler struct {
	scheduler *scheduler.Actor
	memory    *bus.Actor
}

// OpenScheduler starts them for a device that was claimed, under the name of the claim. The device decides all sizes and is
// valid; cfg says the rest, and nothing of models.
func OpenScheduler(node *bus.Node, device *schemas.ClaimReply, cfg Config, log zerolog.Logger) (*Scheduler, error) {
	cfg.Name, cfg.ModelName, cfg.ContextMax, cfg.SequencesMax, cfg.TokensStepMax = device.Replica, device.Model, int(device.ContextMax), int(device.SequencesMax), int(device.TokensStepMax)
	cfg.BlockSize, cfg.KVBlocks = int(device.BlockSize), int(device.Blocks)
	cfg.setDefaults()
	ahead := 1 // of the version before, which would not miss a plan that was lost
	if device.InOrder {
		ahead = scheduler.PlansAheadMax
	}
	group := bus.NewGroup()
	s := &Scheduler{}
	var err error
	if s.memory, err = cfg.newMemory(node, group, device.BlockBytes); err != nil {
		return nil, err
	}
	if s.scheduler, err = cfg.newScheduler(node, group, device.Device, ahead, device.VocabSize, device.EndTokens, log); err != nil {
		return nil, err
	}
	if err := s.memory.Start(); err != nil {
		return nil, err
	}
	if err := s.scheduler.Start(); err != nil {
		s.memory.Stop()
		return nil, err
	}
	return s, nil
}

// Close stops both. Sequences that still run are abandoned.
func (s *Scheduler) Close() {
	s.scheduler.Stop()
	s.memory.Stop()
}
