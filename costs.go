package troupe

import (
	"context"
	"time"

	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/internal/profile/bucket"
	"github.com/troupe-engine/troupe/schemas"
)

// StepCostsBucket is the value of Options.StepCosts that means the profile in the JetStream bucket.
const StepCostsBucket = "bucket"

// bucketTimeMax is how long a start may wait for the bucket.
const bucketTimeMax = 5 * time.Second

// stepCosts are what the scheduler's policies expect steps to take, nil without any. A bucket without a profile for this
// device and model is no error: there may be one later (troupe policy --costs).
func (e *Engine) stepCosts(device profile.Origin) (*schemas.StepCosts, error) {
	switch name := e.opts.StepCosts; name {
	case "":
		return nil, nil
	case StepCostsBucket:
		ctx, cancel := context.WithTimeout(context.Background(), bucketTimeMax)
		defer cancel()
		found, err := bucket.Find(ctx, e.node.Conn(), device)
		if err != nil {
			e.log.Warn().Err(err).Msg("step costs are not known: policies learn from answers only")
			return nil, nil
		}
		e.log.Info().Str("profile", found.Key).Uint64("revision", found.Revision).Msg("policies go by the bucket's step costs")
		return found.Profile.StepCosts(), nil
	default:
		p, err := profile.Named(name)
		if err != nil {
			return nil, schemas.AsError(err, "configuration").WithParam("step_costs")
		}
		return p.StepCosts(), nil
	}
}
