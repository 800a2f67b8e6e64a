package troupe

import (
	"context"
	"time"

	"github.com/troupe-engine/troupe/internal/cluster"
	"github.com/troupe-engine/troupe/schemas"
)

// stateRetryEvery is how often a node looks for decisions where none can be had: nobody may ever make any.
const stateRetryEvery = 5 * time.Second

// placementWaitMax is how long a node that has just joined may not know yet that another one keeps decisions.
const placementWaitMax = time.Second

// followDecisions does what operators decide for all nodes, until the node closes. While the servers that keep the
// decisions cannot be reached, the last ones hold.
func (e *Engine) followDecisions() {
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	e.stopFollowing = func() { stop(); <-done }
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if state, err := cluster.OpenState(ctx, e.node.Conn(), false); err == nil {
				err = state.Follow(ctx, e.decide)
				e.log.Debug().Err(err).Msg("decisions are not followed for the moment")
			}
			select {
			case <-ctx.Done():
			case <-time.After(stateRetryEvery):
			}
		}
	}()
}

// decide takes one decision, "" for one that was taken back.
func (e *Engine) decide(key, value string) {
	switch {
	case key == cluster.KeyRouting && e.gateway != nil:
		if value == "" {
			value = e.opts.Routing
		}
		if err := e.gateway.SetRouting(value); err != nil {
			e.log.Warn().Err(err).Msg("a decision cannot be followed")
		}
	case key == cluster.PlacementPrefix+e.opts.Node && value != "" && value != e.model.Name && value != e.opts.Model:
		e.log.Warn().Str("decided", value).Str("serving", e.model.Name).Msg("this node is to serve another model: it does once it is restarted")
	}
}

// placedModel is the model that the node is to serve by decision, "" if there is none.
func (e *Engine) placedModel(ctx context.Context) string {
	if e.opts.Attach == "" || e.opts.Node == "" {
		return ""
	}
	var state *cluster.State
	var err error
	for end := time.Now().Add(placementWaitMax); ; time.Sleep(placementWaitMax / 20) {
		state, err = cluster.OpenState(ctx, e.node.Conn(), false)
		if err == nil || schemas.AsError(err, "place").Kind != schemas.KindUnsupported || time.Now().After(end) {
			break
		}
	}
	if err == nil {
		var model string
		if model, err = state.Get(ctx, cluster.PlacementPrefix+e.opts.Node); err == nil {
			return model
		}
	}
	if k := schemas.AsError(err, "place").Kind; k != schemas.KindNotFound && k != schemas.KindUnsupported {
		e.log.Warn().Err(err).Msg("which model this node is to serve cannot be found out")
	}
	return ""
}
