package measure

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/internal/profile"
	"github.com/troupe-engine/troupe/schemas"
)

// takeEvery is how often what was seen is read: it is kept as it was on the wire until then.
const takeEvery = 5 * time.Second

// infoTimeMax is how long a running engine may take to describe itself.
const infoTimeMax = 5 * time.Second

// Live makes a profile of the steps that a running engine takes meanwhile, for whoever sends it requests. An empty replica is
// any one of the engine's.
func Live(ctx context.Context, conn *nats.Conn, replica schemas.Instance, watch time.Duration, quantile float64) (*profile.Profile, error) {
	info, err := infoOf(ctx, conn, replica)
	if err != nil {
		return nil, err
	}
	w, err := WatchReplica(conn, info.Replica)
	if err != nil {
		return nil, err
	}
	var steps []Step
	for end := time.Now().Add(watch); ; {
		select {
		case <-time.After(min(takeEvery, max(0, time.Until(end)))):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
		more, err := w.Take()
		if err != nil {
			return nil, err
		}
		if steps = append(steps, more...); !time.Now().Before(end) {
			break
		}
	}
	var state schemas.ComputeState
	if err := askJSON(ctx, conn, schemas.ComputeInfo.Subject(info.Replica), &state); err != nil {
		return nil, err
	}
	p, err := Learn(info, state.Device+": "+state.Description, steps, quantile)
	if err != nil {
		return nil, fmt.Errorf("%w: does the engine get requests?", err)
	}
	return p, nil
}

func infoOf(ctx context.Context, conn *nats.Conn, replica schemas.Instance) (*schemas.EngineInfo, error) {
	var info schemas.EngineInfo
	if err := askJSON(ctx, conn, schemas.Engine.Subject(replica), &info); err != nil {
		return nil, err
	}
	return &info, nil
}

// askJSON asks an actor that takes an empty request.
func askJSON(ctx context.Context, conn *nats.Conn, subject string, reply any) error {
	ctx, cancel := context.WithTimeout(ctx, infoTimeMax)
	defer cancel()
	m, err := conn.RequestWithContext(ctx, subject, []byte("{}"))
	if err == nil {
		err = json.Unmarshal(m.Data, reply)
	}
	if err != nil {
		return schemas.Errorf(schemas.KindUnavailable, "profile", "%s: %v", subject, err).WithHint("is an engine running there? `troupe nodes` lists what is")
	}
	return nil
}
