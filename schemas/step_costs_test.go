package schemas

import (
	"math"
	"testing"
)

func TestStepCosts(t *testing.T) {
	c := &StepCosts{Tokens: I32{1, 11}, TokensNs: []int64{100, 1100}, Sampled: I32{2}, SampledNs: []int64{7}, RowNs: 3, DecodePs: 2000, PrefillPs: 500}
	for _, q := range []struct {
		rows, tokens, sampled int32
		decode, pairs, want   int64
	}{{0, 0, 0, 0, 0, 100}, {1, 1, 0, 0, 0, 103}, {1, 6, 0, 0, 0, 603}, {1, 21, 1, 0, 0, 2110}, {2, 1, 2, 10, 4, 135}} {
		if got := c.StepNs(q.rows, q.tokens, q.sampled, q.decode, q.pairs); got != q.want {
			t.Errorf("%+v takes %d", q, got)
		}
	}
	most := &StepCosts{Tokens: I32{0, 1}, TokensNs: []int64{0, StepCostsNsMax}, RowNs: StepCostsPsMax, DecodePs: StepCostsPsMax, PrefillPs: StepCostsPsMax}
	if err := most.Validate(); err != nil {
		t.Fatal(err)
	}
	if got := most.StepNs(math.MaxInt32, math.MaxInt32, math.MaxInt32, math.MaxInt64, math.MaxInt64); got != StepCostsNsMax {
		t.Errorf("the most there is takes %d", got)
	}
	if got := (&StepCosts{Tokens: I32{0, 1}, TokensNs: []int64{StepCostsNsMax, 0}}).StepNs(1, math.MaxInt32, 0, -5, -5); got != 0 {
		t.Errorf("a falling curve comes to %d", got)
	}
	for name, bad := range map[string]*StepCosts{"no values": {Tokens: I32{1}}, "descending": {Tokens: I32{2, 1}, TokensNs: []int64{1, 1}}, "twice": {Sampled: I32{1, 1}, SampledNs: []int64{1, 1}},
		"negative": {Tokens: I32{1}, TokensNs: []int64{-1}}, "long": {Tokens: I32{1}, TokensNs: []int64{StepCostsNsMax + 1}}, "rows": {RowNs: -1}, "decode": {DecodePs: StepCostsPsMax + 1}} {
		if err := bad.Validate(); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}
