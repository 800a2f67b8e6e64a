package schemas

import (
	"math"
	"strings"
	"testing"
)

func TestFaultRules(t *testing.T) {
	for text, want := range map[string]string{
		"drop inf.v1.memory.reserve.> p=0.05":                         "drop inf.v1.memory.reserve.> p=0.05",
		"  delay  inf.v1.tokenizer.tokens.* delay=30ms p=0.2 count=9": "delay inf.v1.tokenizer.tokens.* p=0.2 delay=30ms count=9",
		"duplicate >":                                  "duplicate > p=1",
		"reorder inf.v1.replica.report.*":              "reorder inf.v1.replica.report.* p=1 delay=20ms",
		"error inf.v1.*.*.replica0.reply":              "error inf.v1.*.*.replica0.reply p=1",
		"out_of_blocks inf.v1.memory.> p=1e-3":         "out_of_blocks inf.v1.memory.> p=0.001",
		"slow_device inf.v1.compute.execute delay=10s": "slow_device inf.v1.compute.execute p=1 delay=10s",
		"lose_device inf.v1.compute.> count=1":         "lose_device inf.v1.compute.> p=1 count=1",
	} {
		r, err := ParseFaultRule(text)
		if err != nil || r.String() != want {
			t.Errorf("%q: %v, %v; want %q", text, r, err, want)
		}
	}
	for text, param := range map[string]string{
		"": "rule", "drop": "rule", "melt inf.v1.>": "kind", "drop inf.v1.> p=0": "probability", "drop inf.v1.> p=1.5": "probability",
		"drop inf.v1.> p=NaN": "probability", "drop inf.v1.> p=-1": "probability", "drop inf.v1.> p=x": "p", "drop inf.v1.> p=1 p=1": "p",
		"drop inf.v1.> often": "rule", "drop inf.v1.> delay=1s": "delay_us", "delay inf.v1.> delay=11s": "delay_us", "delay inf.v1.> delay=-1s": "delay_us",
		"delay inf.v1.> delay=5": "delay", "drop inf.v1.> count=-1": "count_max", "drop inf.v1.> count=1.5": "count", "drop inf..v1": "subject",
		"drop inf.v1.*x": "subject", "drop inf.>.v1": "subject", "drop inf.v1.chat": "subject", "drop tap.>": "subject", "drop inf.v1.memory.reserves.>": "subject",
		"out_of_blocks inf.v1.compute.>": "subject", "slow_device inf.v1.memory.>": "subject", "lose_device inf.v1.memory.>": "subject", "lose_device inf.v1.> delay=1s": "delay_us", "drop " + strings.Repeat("a.", 200) + "b": "subject",
		"duplicate inf.v1.memory.reserve.r0.reply": "subject",
	} {
		if r, err := ParseFaultRule(text); err == nil || err.Param != param || err.Kind != KindInvalid {
			t.Errorf("%.80q: %v, %v; want an error of %s", text, r, err, param)
		}
	}
	plan := (*FaultPlan)(nil).Example()
	plan.Rules = append(plan.Rules, FaultRule{Kind: FaultDrop, Subject: "inf.v1.>", Probability: math.Inf(1)})
	if err := plan.Validate(); err == nil || err.Param != "plan.rules[1].probability" {
		t.Errorf("got %v", err)
	}
	if err := (&FaultPlan{}).Validate(); err == nil || err.Param != "plan.rules" {
		t.Errorf("got %v", err)
	}
}

func FuzzParseFaultRule(f *testing.F) {
	for _, text := range []string{"drop inf.v1.memory.reserve.> p=0.05", "delay inf.v1.tokenizer.tokens.* delay=30ms count=9", "slow_device > delay=1us", "x y z", "drop * p=0x1p-2 count=9223372036854775807"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r, err := ParseFaultRule(text)
		if err != nil {
			if err.Param == "" || err.Kind != KindInvalid || len(err.Detail) > 2000 {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		again, err := ParseFaultRule(r.String())
		if err != nil || *again != *r {
			t.Fatalf("%q is %q, which is read as %v, %v", text, r, again, err)
		}
	})
}
