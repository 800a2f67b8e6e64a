package conform

import (
	"errors"
	"io"

	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/internal/replay"
	"github.com/troupe-engine/troupe/schemas"
)

// Recorded returns at most about most queues of two sequences or more that a recording's schedulers chose from, spread
// over all of it.
func Recorded(path string, most int) ([]*schemas.RankRequest, error) {
	reader, err := recording.Open(path, true)
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	kept := thinned{most: max(most, 1), stride: 1}
	actors := map[string]*replay.Scheduler{}
	for {
		e, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if e.Scheduler == nil {
			continue
		}
		actor := actors[e.Actor]
		if actor == nil {
			actor = &replay.Scheduler{Look: func(_ *recording.Entry, core *scheduler.Core, fx *scheduler.Effects, _ *replay.Divergence) error {
				if fx.Execute != nil {
					kept.add(core)
				}
				return nil
			}}
			actor.Report.Actor = e.Actor
			actors[e.Actor] = actor
		}
		if err := actor.Take(e); err != nil {
			return nil, err
		}
	}
	if len(kept.queues) == 0 {
		return nil, schemas.Errorf(schemas.KindNotFound, "conform", "%s holds no queue of two sequences", path).
			WithHint("record under load: `troupe record --to FILE`")
	}
	for i, q := range kept.queues {
		q.Number = uint64(i + 1)
	}
	return kept.queues, nil
}

// thinned keeps every stride-th queue; the stride doubles whenever there are too many.
type thinned struct {
	most, stride, seen int
	queues             []*schemas.RankRequest
}

func (k *thinned) add(core *scheduler.Core) {
	if k.seen++; k.seen%k.stride != 0 {
		return
	}
	q := core.Queue()
	if len(q.Seq) < 2 {
		return
	}
	if k.queues = append(k.queues, q); len(k.queues) <= k.most {
		return
	}
	half := k.queues[:0]
	for i, q := range k.queues {
		if i%2 == 1 {
			half = append(half, q)
		}
	}
	clear(k.queues[len(half):])
	k.queues, k.stride = half, 2*k.stride
}
