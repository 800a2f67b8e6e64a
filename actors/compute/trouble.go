package compute

import (
	"errors"
	"fmt"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// errLostOnRequest is what a step gets whose device a fault has taken away.
var errLostOnRequest = fmt.Errorf("%w on request (troupe faults)", gpu.ErrDeviceLost)

// fault makes a step fail as one whose device is lost, from the first on that was asked to.
func (x *executor) fault() error {
	if x.loses != nil && !x.lost {
		x.lost = x.loses()
	}
	if x.lost {
		return errLostOnRequest
	}
	return nil
}

// trouble tells why a step was not done: a lost device by its kind, and exhausted memory with who asked for most of it.
func (x *executor) trouble(p *schemas.StepPlan, op string, err error) *schemas.Error {
	switch {
	case errors.Is(err, gpu.ErrDeviceLost):
		return schemas.Errorf(schemas.KindDeviceLost, op, "%v", err).WithHint("the process has to be restarted, as service managers do, and `troupe serve --isolate`")
	case errors.Is(err, gpu.ErrOutOfMemory) && len(p.Seq) > 0:
		return x.outOfMemory(p, op, err)
	}
	return schemas.AsError(err, op)
}

// outOfMemory names the request that asks for most of a step's work space, the sizes, and what to change.
func (x *executor) outOfMemory(p *schemas.StepPlan, op string, err error) *schemas.Error {
	logits := map[int32]int{} // rows of them, by row of the plan
	for _, row := range x.batch.rows {
		logits[row]++
	}
	for _, prompt := range x.batch.prompts {
		logits[prompt.row] += len(prompt.tokens)
	}
	tokens, most := 0, 0
	for i, n := range p.Count {
		tokens += int(n)
		if l, m := logits[int32(i)], logits[int32(most)]; l > m || l == m && n > p.Count[most] {
			most = i
		}
	}
	e := schemas.Errorf(schemas.KindNoMemory, op, "a step of %d tokens does not fit into the device's memory: %v; %d of the tokens are this request's, with %d rows of logits of %d numbers",
		tokens, err, p.Count[most], logits[int32(most)], x.model.Spec().VocabSize).
		WithHint("lower kv_bytes_max or kv_blocks, which leaves more for steps, or tokens_step_max (now %d)", x.model.Options().TokensPerStepMax)
	e.Request = schemas.SeqID(p.Seq[most]).Request()
	return e
}
