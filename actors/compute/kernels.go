package compute

import (
	"context"
	"errors"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/schemas"
)

// choosersMax bounds the requests that wait for a choice of kernels to take effect.
const choosersMax = 4

// serveKernels lets others list, choose and submit kernels. None of that has the mailbox's turn while it waits for the device:
// a step that has to finish before may need it.
func (a *Actor) serveKernels() {
	bus.Handle(a.actor, schemas.Kernels, bus.NewPool(choosersMax), a.kernels)
	one := bus.NewPool(1)
	one.WaitingMax = submissionsMax
	bus.Handle(a.actor, schemas.SubmitKernel, one, a.submitKernel)
}

// kernels lists implementations, and chooses one between two steps.
func (a *Actor) kernels(_ context.Context, req *schemas.KernelsRequest) (*schemas.KernelsReply, error) {
	if req.Op != "" && !known(req.Op) {
		return nil, noSuchOp(req.Op)
	}
	if req.Select != "" {
		if err := a.between(func() error { return a.choose(req.Op, req.Select) }); err != nil {
			return nil, err
		}
	}
	return &schemas.KernelsReply{Kernels: a.list(req.Op, false)}, nil
}

func known(op string) bool {
	for _, o := range gpu.Ops {
		if op == string(o) {
			return true
		}
	}
	return false
}

func noSuchOp(op string) *schemas.Error {
	return schemas.Errorf(schemas.KindNotFound, "kernels", "op is %.80q, which there is none of", op).WithParam("op").WithHint("ask without op to list all")
}

// choose makes an implementation the one that runs, and tells who records. It runs between two steps.
func (a *Actor) choose(op, name string) error {
	if err := a.exec.dev.Select(gpu.Op(op), name); err != nil {
		return schemas.Errorf(schemas.KindNotFound, "kernels", "%v", err).WithParam("select").WithHint("ask without select to list what there is")
	}
	a.log.Info().Str("op", op).Str("implementation", name).Msg("kernel selected")
	node, subject := a.actor.Node(), schemas.Kernels.Subject(a.actor.Instance())
	if !node.Journaling() {
		return nil
	}
	body, err := bus.Marshal(&schemas.KernelsRequest{Op: op, Select: name})
	if err != nil {
		return err
	}
	node.Journal(schemas.JournalEntry{Actor: a.actor.Name(), Delivery: &schemas.Delivery{Subject: subject, Message: body}})
	return nil
}

// between runs f on the executor's goroutine, which alone uses the device, between two steps.
func (a *Actor) between(f func() error) error {
	done, refused := make(chan error, 1), error(stopping())
	a.inTurn(func() {
		refused = nil
		if err := a.queueJob(job{do: func() { done <- recovered(f) }}); err != nil {
			refused = err
		}
	})
	if refused != nil {
		return refused
	}
	select {
	case err := <-done:
		return err
	case <-a.ctx.Done():
		return stopping()
	}
}

func stopping() *schemas.Error {
	return schemas.Errorf(schemas.KindUnavailable, "kernels", "compute is stopping")
}

// list describes the implementations of op (all ops if ""), only the active ones on request.
func (a *Actor) list(op string, activeOnly bool) (list []schemas.KernelInfo) {
	for _, o := range gpu.Ops {
		if op != "" && op != string(o) {
			continue
		}
		for _, k := range a.exec.dev.Implementations(o) {
			if k.Active || !activeOnly {
				list = append(list, schemas.KernelInfo{Op: string(o), Name: k.Name, Doc: k.Doc, Active: k.Active, BatchVariant: k.BatchVariant})
			}
		}
	}
	return list
}

// deviceError gives an error of the device the kind that it deserves.
func deviceError(err error) error {
	if err == nil {
		return nil
	}
	var kind schemas.Kind
	var field *gpu.KernelFieldError
	switch {
	case errors.As(err, &field):
		return schemas.Errorf(schemas.KindInvalid, "submit kernel", "%s", field.Text).WithParam(field.Field)
	case errors.Is(err, gpu.ErrNotSupported):
		kind = schemas.KindUnsupported
	case errors.Is(err, gpu.ErrOutOfMemory):
		kind = schemas.KindNoMemory
	case errors.Is(err, gpu.ErrDeviceLost):
		kind = schemas.KindDeviceLost
	default:
		return schemas.AsError(err, "submit kernel")
	}
	return schemas.Errorf(kind, "submit kernel", "%v", err)
}
