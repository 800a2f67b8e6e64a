package compute

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/troupe-engine/troupe/gpu"
	"github.com/troupe-engine/troupe/gpu/examine"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	submissionsMax = 4                // that wait while one is tried
	trialTimeMax   = 60 * time.Second // to compile a submitted kernel and to try it
	slowerMax      = 1.02             // times as long as the kernel in use, for one that is as fast: medians differ by so much
)

// submitKernel compiles, checks and times an implementation of an op, and activates or refuses it.
func (a *Actor) submitKernel(ctx context.Context, req *schemas.SubmitKernelRequest) (*schemas.SubmitKernelReply, error) {
	if !a.cfg.SubmitKernels {
		return nil, schemas.Errorf(schemas.KindUnsupported, "submit kernel", "kernels cannot be submitted to this engine").WithHint("start it with --enable-kernel-submit")
	}
	dev := a.exec.dev
	submitter, ok := dev.(gpu.Submitter)
	if !ok {
		return nil, schemas.Errorf(schemas.KindUnsupported, "submit kernel", "the device %s takes no kernels in source", dev.Info().Name).
			WithHint("submitted kernels are CUDA C++: serve with --device cuda on a machine with an NVIDIA GPU")
	}
	s := &submission{a: a, dev: dev, submitter: submitter, evenIfSlower: req.EvenIfSlower, kernel: kernelOf(req),
		reply: &schemas.SubmitKernelReply{Op: req.Op, Name: req.Name}}
	if err := s.check(); err != nil {
		return nil, err
	}
	began := time.Now()
	if err := s.run(ctx); err != nil {
		return nil, deviceError(err)
	}
	a.log.Warn().Str("op", req.Op).Str("implementation", req.Name).Str("verdict", string(s.reply.Verdict)).Str("reason", s.reply.Reason).
		Dur("took", time.Since(began)).Msg("kernel submitted")
	return s.reply, nil
}

func kernelOf(r *schemas.SubmitKernelRequest) *gpu.KernelSource {
	return &gpu.KernelSource{Op: gpu.Op(r.Op), Name: r.Name, Source: r.Source, Entry: r.Entry, Threads: int(r.Threads), PerBlock: int(r.PerBlock), SharedBytes: int(r.SharedBytes),
		Overlap: r.Overlap, RowsMax: int(r.RowsMax), ColsMin: int(r.ColsMin), ColsMax: int(r.ColsMax), ColsMultiple: int(r.ColsMultiple)}
}

// submission is a kernel on its way.
type submission struct {
	a            *Actor
	dev          gpu.Device
	submitter    gpu.Submitter
	kernel       *gpu.KernelSource
	evenIfSlower bool
	shapes       []gpu.KernelShape
	loaded       gpu.LoadedKernel
	reply        *schemas.SubmitKernelReply
}

// check refuses what cannot be tried at all.
func (s *submission) check() error {
	k := s.kernel
	if !known(string(k.Op)) {
		return noSuchOp(string(k.Op))
	}
	if err := s.submitter.Submittable(k.Op); err != nil {
		return schemas.Errorf(schemas.KindUnsupported, "submit kernel", "%v", err).WithParam("op")
	}
	if err := k.Validate(); err != nil {
		return deviceError(err)
	}
	for _, im := range s.dev.Implementations(k.Op) {
		if im.Name == k.Name {
			return schemas.Errorf(schemas.KindInvalid, "submit kernel", "name is %q, which %s has already; expected a new one", k.Name, k.Op).WithParam("name")
		}
		if im.Active {
			s.reply.Against = im.Name
		}
	}
	if k.Op == gpu.OpRoPE && s.a.exec.model.Spec().QKNorm {
		return schemas.Errorf(schemas.KindUnsupported, "submit kernel", "the rotation of %s normalizes heads first, of which submitted kernels are told nothing", s.a.cfg.ModelName).WithParam("op")
	}
	s.shapes = examine.Shapes(k, s.a.asks())
	for _, shape := range s.shapes {
		if shape.Model {
			return nil
		}
	}
	return schemas.Errorf(schemas.KindInvalid, "submit kernel", "the kernel takes no size that the model %s has: %+v", s.a.cfg.ModelName, s.a.asks()).WithParam("cols_min").
		WithHint("see rows_max, cols_min, cols_max and cols_multiple; the op's first implementation does the rest")
}

// asks is what the model asks of kernels.
func (a *Actor) asks() examine.Model {
	spec, options := a.exec.model.Spec(), a.exec.model.Options()
	m := examine.Model{Hidden: spec.HiddenSize, Heads: spec.Heads, KVHeads: spec.KVHeads, HeadDim: spec.HeadDim,
		SequencesMax: options.SequencesMax, TokensMax: options.TokensPerStepMax}
	for _, l := range spec.Layers {
		m.Intermediate = max(m.Intermediate, l.Intermediate)
	}
	for _, r := range spec.RoPE {
		m.Rotated = max(m.Rotated, 2*len(r.InvFreq))
	}
	return m
}

// run tries the kernel in a process of its own and, if that comes out well, times and activates it here.
func (s *submission) run(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, trialTimeMax)
	defer cancel()
	trial, err := s.submitter.Try(ctx, s.kernel, s.shapes)
	if err != nil {
		return err
	}
	if !s.judge(trial) {
		return nil
	}
	if err := s.a.between(func() (err error) {
		s.loaded, err = s.submitter.Load(s.kernel, trial.Code)
		return err
	}); err != nil {
		return err
	}
	err = s.race()
	if err == nil && s.reply.Verdict == "" {
		err = s.a.between(s.activate)
	}
	if s.reply.Verdict != schemas.KernelActivated {
		return firstOf(err, s.a.between(s.loaded.Unload))
	}
	return err
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// judge turns what a trial found into a verdict, and reports whether the kernel is right.
func (s *submission) judge(trial *gpu.KernelTrial) bool {
	r, wrong := s.reply, 0
	for _, c := range trial.Cases {
		r.Cases = append(r.Cases, schemas.KernelCase{Rows: int32(c.Shape.Rows), Cols: int32(c.Shape.Cols), Heads: int32(c.Shape.Heads), HeadDim: int32(c.Shape.HeadDim),
			Outputs: int32(c.Shape.Outputs), Model: c.Shape.Model, Error: c.Error, Allowed: c.Allowed, Fault: c.Fault})
		r.ErrorMax = max(r.ErrorMax, c.Error)
		r.BatchVariant = r.BatchVariant || c.Varies
		if c.Fault != "" {
			if wrong++; wrong == 1 {
				r.Reason = fmt.Sprintf("%d rows of %d: %s", c.Shape.Rows, c.Shape.Cols, c.Fault)
			}
		}
	}
	switch {
	case trial.Log != "":
		r.Verdict, r.Log, r.Reason = schemas.KernelDoesNotCompile, trial.Log, "it does not compile"
	case trial.Ended != "":
		r.Verdict, r.Reason = schemas.KernelCrashed, trial.Ended
	case wrong > 0:
		r.Verdict, r.Reason = schemas.KernelWrong, fmt.Sprintf("%d of %d cases are wrong; %s", wrong, len(trial.Cases), r.Reason)
	case len(trial.Cases) != len(s.shapes):
		r.Verdict, r.Reason = schemas.KernelCrashed, fmt.Sprintf("%d of %d cases were tried", len(trial.Cases), len(s.shapes))
	}
	return r.Verdict == ""
}

// race times the kernel against the one in use at the model's sizes, one between two steps at a time, and refuses it if it is
// slower.
func (s *submission) race() error {
	logs, n := 0.0, 0
	for i, shape := range s.shapes {
		if !shape.Model {
			continue
		}
		c := &s.reply.Cases[i]
		if err := s.a.between(func() error {
			ours, theirs, err := examine.Race(s.dev, s.kernel.Op, shape, s.loaded.Launch, func(args any) error { return s.dev.Launch(s.kernel.Op, args) })
			c.TimeUs, c.AgainstUs = float64(ours.Nanoseconds())/1e3, float64(theirs.Nanoseconds())/1e3
			return err
		}); err != nil {
			return err
		}
		logs, n = logs+math.Log(c.TimeUs/c.AgainstUs), n+1
	}
	s.reply.Ratio = math.Exp(logs / float64(n))
	s.reply.Reason = fmt.Sprintf("it is right, and takes %.3f times as long as %s", s.reply.Ratio, s.reply.Against)
	if s.reply.Ratio > slowerMax && !s.evenIfSlower {
		s.reply.Verdict = schemas.KernelSlower
	}
	return nil
}

// activate registers and chooses the kernel. It runs between two steps.
func (s *submission) activate() error {
	doc := fmt.Sprintf("submitted; %.3f times the time of %s", s.reply.Ratio, s.reply.Against)
	if err := s.loaded.Register(doc, s.reply.BatchVariant); err != nil {
		return err
	}
	s.reply.Verdict = schemas.KernelActivated
	return s.a.choose(string(s.kernel.Op), s.kernel.Name)
}
