package replay

import (
	"testing"

	"github.com/troupe-engine/troupe/actors/memory"
	"github.com/troupe-engine/troupe/actors/scheduler"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/schemas"
)

// KV that came from another replica changes what memory answers: a replay takes it from the journal, and one that computes tokens again
// cannot go on.
func TestAdoptions(t *testing.T) {
	live, err := memory.NewCore(memory.Config{Blocks: 20, BlockSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	info := schemas.EngineInfo{Replica: "r", Blocks: 20, BlockSize: 2}
	manifest := &recording.Manifest{}
	tokens := schemas.I32{1, 2, 3, 4, 5}
	ask := func(step schemas.StepID, seq schemas.SeqID, prompt schemas.I32) *schemas.ReserveRequest {
		return &schemas.ReserveRequest{Epoch: 1, Step: step, TokensMax: 100, Admit: []schemas.Admission{{Seq: seq, Tokens: prompt}},
			Seq: schemas.U64{uint64(seq)}, WantMax: schemas.I32{int32(len(prompt))}, MayPreempt: schemas.U8{0}}
	}
	first, second := ask(1, 256, schemas.I32{9, 9, 9}), ask(2, 512, tokens)
	firstReply, _ := live.Reserve(first)
	kept, undone := schemas.KVAdoptRequest{Tokens: tokens[:4], Count: 2}, schemas.KVAdoptRequest{Tokens: schemas.I32{7, 7}, Count: 1, Undone: true}
	live.Replay(&kept)
	live.Replay(&undone)
	secondReply, _ := live.Reserve(second)
	if secondReply == nil || secondReply.Cached[0] != 4 {
		t.Fatalf("%+v: nothing was adopted", secondReply)
	}
	step := func(s schemas.SchedulerStep) schemas.JournalEntry {
		return schemas.JournalEntry{Actor: "scheduler.r", Scheduler: &s}
	}
	adopt := func(r schemas.KVAdoptRequest) schemas.JournalEntry {
		body, err := bus.Marshal(&r)
		if err != nil {
			t.Fatal(err)
		}
		return schemas.JournalEntry{Actor: "memory.r", Delivery: &schemas.Delivery{Subject: schemas.AdoptKV.Subject("r"), Message: body}}
	}
	entries := []schemas.JournalEntry{step(schemas.SchedulerStep{Checkpoint: &schemas.SchedulerCheckpoint{Info: info, Epoch: 1}, Reserve: first}), step(schemas.SchedulerStep{Grant: firstReply}),
		adopt(kept), adopt(undone), step(schemas.SchedulerStep{Reserve: second}), step(schemas.SchedulerStep{Grant: secondReply})}
	for name, c := range map[string]struct {
		without int // entry
		differ  int
	}{"all": {-1, 0}, "without the adoption": {2, 1}} {
		m := Memory{Scheduler: "scheduler.r"}
		number := uint64(1)
		for i, e := range entries {
			if i == c.without {
				continue
			}
			if err := m.Take(&recording.Entry{JournalEntry: e, Number: number, Manifest: manifest}); err != nil {
				t.Fatal(err)
			}
			number++
		}
		if r := m.Report; len(r.Divergences) != c.differ || r.Events != 2 {
			t.Errorf("%s: %+v", name, r)
		}
	}
	engine := Engine{Scheduler: "scheduler.r", core: &scheduler.Core{}}
	for i, want := range []int{0, 1, 1} { // one that was undone, one that was not, and none that goes on
		if err := engine.Take(&recording.Entry{JournalEntry: entries[3-i%2], Manifest: manifest}); err != nil {
			t.Fatal(err)
		}
		if engine.Report.Adopted != want || (engine.core == nil) != (want > 0) {
			t.Errorf("after %d adoptions %d runs have ended", i+1, engine.Report.Adopted)
		}
	}
}
