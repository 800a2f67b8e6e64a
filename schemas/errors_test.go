package schemas

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"
)

func TestErrorKinds(t *testing.T) {
	for kind, status := range kindStatus {
		if kind.HTTPStatus() != status {
			t.Errorf("%s: %d", kind, kind.HTTPStatus())
		}
		if back := KindOfStatus(status); back.HTTPStatus() != status {
			t.Errorf("status %d of %s is read as %s", status, kind, back)
		}
	}
	if Kind("of a later version").HTTPStatus() != 500 || KindOfStatus(418) != KindInvalid || KindOfStatus(599) != KindInternal || KindOfStatus(0) != KindInternal {
		t.Error("unknown kinds and statuses are not what fits best")
	}
}

func TestErrorText(t *testing.T) {
	e := Errorf(KindInvalid, "submit", "%d tokens; expected at most %d", 9, 8).WithHint("ask for %s", "less").WithParam("tokens")
	e.Actor, e.Request, e.Step = "scheduler.replica0", 0x100, 7
	want := "scheduler.replica0: submit: invalid_argument: 9 tokens; expected at most 8 (request 0000000000000100) (step 7); ask for less"
	if e.Error() != want || e.Param != "tokens" {
		t.Errorf("got  %s\nwant %s", e, want)
	}
}

func TestErrorIdentity(t *testing.T) {
	e := Errorf(KindTimeout, "call", "no answer")
	wrapped := fmt.Errorf("load: %w", e)
	if !errors.Is(wrapped, &Error{Kind: KindTimeout}) || errors.Is(wrapped, &Error{Kind: KindInvalid}) || !errors.Is(wrapped, context.DeadlineExceeded) || errors.Is(wrapped, context.Canceled) {
		t.Error("errors.Is does not compare kinds")
	}
	if AsError(wrapped, "x") != e || AsError(nil, "x") != nil {
		t.Error("AsError does not find the error inside")
	}
	for err, kind := range map[error]Kind{context.Canceled: KindCanceled, context.DeadlineExceeded: KindTimeout, errors.New("broken"): KindInternal} {
		if got := AsError(fmt.Errorf("deep: %w", err), "op"); got.Kind != kind || got.Op != "op" || !strings.HasPrefix(got.Detail, "deep: ") {
			t.Errorf("%v became %v", err, got)
		}
	}
}

func TestSamplingParams(t *testing.T) {
	good := SamplingParams{Temperature: 1, TopP: 1}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	nan := float32(math.NaN())
	for param, change := range map[string][]func(*SamplingParams){
		"temperature": {func(p *SamplingParams) { p.Temperature = -0.1 }, func(p *SamplingParams) { p.Temperature = 101 }, func(p *SamplingParams) { p.Temperature = nan }},
		"top_p":       {func(p *SamplingParams) { p.TopP = 0 }, func(p *SamplingParams) { p.TopP = 1.01 }, func(p *SamplingParams) { p.TopP = nan }},
		"top_k":       {func(p *SamplingParams) { p.TopK = -1 }},
		"min_p":       {func(p *SamplingParams) { p.MinP = -0.1 }, func(p *SamplingParams) { p.MinP = 2 }, func(p *SamplingParams) { p.MinP = nan }},
	} {
		for _, f := range change {
			p := good
			f(&p)
			if err := p.Validate(); err == nil || err.Param != param || err.Kind != KindInvalid {
				t.Errorf("%+v: got %v, want an error about %s", p, err, param)
			}
		}
	}
	if FinishStop.String() != "stop" || FinishReason(200).String() != "FinishReason(200)" {
		t.Error("finish reasons have other names")
	}
}
