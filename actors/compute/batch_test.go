package compute

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/actors/compute/model"
	"github.com/troupe-engine/troupe/schemas"
)

var testOptions = model.Options{SequencesMax: 4, TokensPerStepMax: 16, ContextMax: 32, BlockSize: 4, KVBlocks: 10}

const testVocab = 100

// twoRows decodes slot 2 at position 6 and prefills three tokens in slot 0.
func twoRows() *schemas.StepPlan {
	return &schemas.StepPlan{Epoch: 1, Step: 2, Copies: schemas.I32{1, 5}, InitSlot: schemas.I32{0}, InitTemperature: schemas.F32{0.5},
		InitTopP: schemas.F32{1}, InitTopK: schemas.I32{0}, InitMinP: schemas.F32{0}, InitSeed: schemas.U64{9},
		Seq: schemas.U64{0x100, 0x200}, Slot: schemas.I32{2, 0}, Start: schemas.I32{6, 0}, Count: schemas.I32{1, 3},
		Known: schemas.I32{0, 3}, Sample: schemas.U8{1, 1}, Tokens: schemas.I32{7, 8, 9},
		BlockFrom: schemas.I32{2, 0}, BlockCount: schemas.I32{0, 1}, Blocks: schemas.I32{4}}
}

func testTables() *tables {
	t := newTables(testOptions)
	t.blocks[2] = []int32{3, 1}
	return t
}

func TestPlanBecomesModelInput(t *testing.T) {
	tables, p := testTables(), twoRows()
	if err := tables.validate(p, testVocab); err != nil {
		t.Fatal(err)
	}
	tables.apply(p, nil, testVocab)
	var b batch
	b.fill(tables, p, false)
	want := model.StepInput{Tokens: []int32{-1, 7, 8, 9}, Positions: []int32{6, 0, 1, 2}, TokenSlots: []int32{2, 0, 0, 0},
		SlotMapping: []int32{1*4 + 2, 4 * 4, 4*4 + 1, 4*4 + 2}, Slots: []int32{2, 0}, QueryStart: []int32{0, 1, 4}, LogitRows: []int32{0, 3}}
	if !reflect.DeepEqual(b.input, want) {
		t.Errorf("got %+v\nwant %+v", b.input, want)
	}
	if len(b.params) != 2 || b.params[0].Position != 7 || b.params[1].Position != 3 || b.params[1].Seed != 9 || b.params[1].Temperature != 0.5 {
		t.Errorf("sampling %+v; want positions 7 and 3, and slot 0 as initialized", b.params)
	}
	b.fill(tables, p, true)
	if !slices.Equal(b.input.LogitRows, []int32{0, 1, 2, 3}) {
		t.Errorf("an observer sees rows %v; want all", b.input.LogitRows)
	}
}

func TestPlansThatPointOutsideAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(p *schemas.StepPlan)
		param  string
	}{
		"column too short":        {func(p *schemas.StepPlan) { p.Start = p.Start[:1] }, "start"},
		"no rows":                 {func(p *schemas.StepPlan) { *p = schemas.StepPlan{Epoch: 1, Step: 2} }, "seq"},
		"odd copies":              {func(p *schemas.StepPlan) { p.Copies = p.Copies[:1] }, "copies"},
		"copy outside the pool":   {func(p *schemas.StepPlan) { p.Copies[1] = 10 }, "copies"},
		"slot to initialize":      {func(p *schemas.StepPlan) { p.InitSlot[0] = 4 }, "init_slot"},
		"negative slot":           {func(p *schemas.StepPlan) { p.Slot[0] = -1 }, "slot"},
		"slot twice":              {func(p *schemas.StepPlan) { p.Slot[1] = 2 }, "slot"},
		"past the context":        {func(p *schemas.StepPlan) { p.Start[0] = 32 }, "start"},
		"position overflow":       {func(p *schemas.StepPlan) { p.Start[0] = 1<<31 - 1 }, "start"},
		"some tokens known":       {func(p *schemas.StepPlan) { p.Known[1] = 2 }, "known"},
		"sample 3":                {func(p *schemas.StepPlan) { p.Sample[0] = 3 }, "sample"},
		"more blocks than there":  {func(p *schemas.StepPlan) { p.BlockCount[1] = 2 }, "block_count"},
		"negative block count":    {func(p *schemas.StepPlan) { p.BlockCount[1] = -1 }, "block_count"},
		"gap in the table":        {func(p *schemas.StepPlan) { p.BlockFrom[1] = 1 }, "block_from"},
		"table too short":         {func(p *schemas.StepPlan) { p.Start[0] = 8 }, "blocks"},
		"table cut off":           {func(p *schemas.StepPlan) { p.BlockFrom[0] = 1 }, "blocks"},
		"block outside the pool":  {func(p *schemas.StepPlan) { p.Blocks[0] = 10 }, "blocks"},
		"token outside the vocab": {func(p *schemas.StepPlan) { p.Tokens[0] = testVocab }, "tokens"},
		"fewer tokens than known": {func(p *schemas.StepPlan) { p.Tokens = p.Tokens[:2] }, "tokens"},
		"more tokens than a step": {func(p *schemas.StepPlan) {
			p.Count[1], p.Known[1], p.BlockCount[1], p.Blocks = 16, 16, 4, schemas.I32{1, 2, 3, 4}
		}, "count"},
		"blocks that nobody takes": {func(p *schemas.StepPlan) { p.Blocks = append(p.Blocks, 1) }, "blocks"},
	} {
		p := twoRows()
		c.change(p)
		err := testTables().validate(p, testVocab)
		if err == nil || err.Param != c.param || err.Step != p.Step {
			t.Errorf("%s: got %v; want an error naming %s and the step", name, err, c.param)
		}
	}
}

// TestAnyValidPlanStaysInside mutates plans at random: whatever passes validation must fill without
// reaching outside, and give the model only numbers in range.
func TestAnyValidPlanStaysInside(t *testing.T) {
	valid := 0
	for seed := range uint64(20000) {
		rng := rand.New(rand.NewPCG(seed, 2))
		p := twoRows()
		v := reflect.ValueOf(p).Elem()
		for range 1 + rng.IntN(3) {
			f := v.Field(rng.IntN(v.NumField()))
			if f.Kind() != reflect.Slice || f.Len() == 0 {
				continue
			}
			if e := f.Index(rng.IntN(f.Len())); e.CanInt() {
				e.SetInt(int64(rng.IntN(24) - 4))
			}
		}
		tables := testTables()
		if tables.validate(p, testVocab) != nil {
			continue
		}
		valid++
		tables.apply(p, nil, testVocab)
		var b batch
		b.fill(tables, p, rng.IntN(2) == 0)
		for i, m := range b.input.SlotMapping {
			if m < 0 || int(m) >= testOptions.KVBlocks*testOptions.BlockSize || b.input.Tokens[i] < -1 || b.input.Tokens[i] >= testVocab {
				t.Fatalf("seed %d: token %d goes to place %d", seed, b.input.Tokens[i], m)
			}
		}
	}
	if valid < 500 {
		t.Errorf("only %d of the plans were valid: the test tests little", valid)
	}
}
