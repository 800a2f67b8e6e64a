package troupe

import (
	"errors"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/internal/cluster"
	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/replica"
	"github.com/troupe-engine/troupe/schemas"
)

// A replica in two parts: a node that plays compute has the device and the model, one that plays scheduler, for each such
// device, a scheduler and a memory manager. What they say to each other is what they say within a replica.

// openCompute loads the model, and waits for a scheduler.
func (e *Engine) openCompute(progress func(done, total int64)) error {
	dev, cfg, err := e.chooseReplica(progress)
	if err != nil {
		return err
	}
	part := replica.ComputeConfig{Phase: e.phase(), SilenceMax: e.opts.ReplicaSilence}
	if part.Numerics, err = numerics(e.model.Files, &e.opts, dev.Info()); err != nil {
		return errors.Join(err, dev.Close())
	}
	e.compute, err = replica.OpenCompute(e.node, dev, cfg, part, e.log)
	return err
}

// serveDevices gives the devices of other nodes their schedulers.
func (e *Engine) serveDevices() (err error) {
	e.schedulers, err = cluster.Serve(e.member, cluster.SchedulersConfig{Model: e.model.Name, SilenceMax: e.opts.ReplicaSilence, Log: e.log,
		Open: func(device *schemas.ClaimReply) (func(), error) {
			cfg, err := e.schedulerConfig(profile.Origin{Model: device.Model, Device: profile.DeviceText(gpu.Info{Name: device.Device, Description: device.Description}),
				SequencesMax: int(device.SequencesMax), TokensStepMax: int(device.TokensStepMax), BlockSize: int(device.BlockSize)})
			if err != nil {
				return nil, err
			}
			s, err := replica.OpenScheduler(e.node, device, cfg, e.log)
			if err != nil {
				return nil, err
			}
			return s.Close, nil
		}})
	return err
}
