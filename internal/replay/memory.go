package replay

import (
	"fmt"
	"strings"

	"github.com/troupe-engine/troupe/actors/memory"
	"github.com/troupe-engine/troupe/internal/recording"
	"github.com/troupe-engine/troupe/schemas"
)

// MemoryReport says how a memory manager's replay went.
type MemoryReport struct {
	Actor       string       `json:"actor"`
	Eviction    string       `json:"eviction"`
	Runs        int          `json:"runs"`
	Events      uint64       `json:"events"` // questions whose answers were compared
	Skipped     uint64       `json:"skipped"`
	Divergences []Divergence `json:"divergences"`
	Gaps        int          `json:"gaps,omitempty"`
}

// Memory replays the memory manager of one replica: what its scheduler asked it, and what it answered, is in the steps of
// the scheduler.
type Memory struct {
	Scheduler string // whose: "scheduler.replica0"
	Eviction  string // instead of the recorded policy; "" is that of the manifest

	Report MemoryReport

	core     *memory.Core
	switched string // to which policy, while it was recorded
	asked    *schemas.ReserveRequest
	refused  bool // a fault let the question go without a grant
	beganNs  int64
	thread   thread
}

// Take replays an entry of the recording.
func (m *Memory) Take(e *recording.Entry) error {
	if m.thread.lost(e) && m.core != nil {
		m.core = nil
		m.Report.Gaps++
	}
	step := e.Scheduler
	if e.Delivery != nil {
		return m.told(e)
	}
	m.refused = m.refused || refusal(e, m.Scheduler)
	if e.Actor != m.Scheduler || step == nil {
		return nil
	}
	if p := step.Checkpoint; p != nil {
		core, err := memory.NewCore(m.config(&p.Info, e.Manifest))
		if err != nil {
			return fmt.Errorf("replay: entry %d: %w", e.Number, err)
		}
		m.core, m.asked, m.beganNs = core, nil, step.NowNs
		m.thread.begin(e)
		m.Report.Runs++
	}
	if step.Grant != nil {
		m.answer(e)
	}
	m.asked, m.refused = step.Reserve, false
	return nil
}

// State is the manager's after the last question, or nil where no run goes on.
func (m *Memory) State() *schemas.MemoryState {
	if m.core == nil {
		return nil
	}
	return m.core.State()
}

// told follows what the manager was told by others than its scheduler: adoptions, and the policy as it was switched.
func (m *Memory) told(e *recording.Entry) error {
	replica := schemas.Instance(strings.TrimPrefix(m.Scheduler, "scheduler."))
	if e.Delivery.Subject == schemas.AdoptKV.Subject(replica) && m.core != nil {
		if q, ok := recording.Message(e.Delivery).(*schemas.KVAdoptRequest); ok {
			m.core.Replay(q)
		}
	}
	if e.Delivery.Subject != schemas.Eviction.Subject(replica) {
		return nil
	}
	if q, ok := recording.Message(e.Delivery).(*schemas.PolicyRequest); ok && q.Name != "" {
		m.switched = q.Name
		if m.core != nil && m.Eviction == "" {
			m.Report.Eviction = q.Name
			return m.core.SetEviction(q.Name)
		}
	}
	return nil
}

// config is what the checkpoint and the manifest say of the pool.
func (m *Memory) config(info *schemas.EngineInfo, manifest *recording.Manifest) memory.Config {
	cfg := memory.Config{Blocks: info.Blocks, BlockSize: info.BlockSize, PrefixCacheOff: info.PrefixCacheOff, Eviction: m.Eviction}
	for i := range manifest.Schedulers {
		if s := &manifest.Schedulers[i]; s.Info.Replica == info.Replica && s.Memory != nil && cfg.Eviction == "" {
			cfg.Eviction = s.Memory.Policy
		}
	}
	if m.switched != "" && m.Eviction == "" {
		cfg.Eviction = m.switched
	}
	m.Report.Eviction = cfg.Eviction
	return cfg
}

// answer compares the core's answer to the question before with the recorded one.
func (m *Memory) answer(e *recording.Entry) {
	if m.core == nil || m.asked == nil {
		m.Report.Skipped++
		return
	}
	m.Report.Events++
	reply, refused := reserve(m.core, m.asked, m.refused)
	if refused == nil {
		if same, err := equal(reply, e.Scheduler.Grant); err == nil && same {
			return
		}
	}
	d := Divergence{Entry: e.Number, AtMs: float64(e.Scheduler.NowNs-m.beganNs) / 1e6, Step: m.asked.Step, Event: "reserve", What: "grant",
		Recorded: granted(m.asked, e.Scheduler.Grant)}
	if refused != nil {
		d.Replayed = "refuses: " + refused.Error()
	} else {
		d.Replayed, d.Why = granted(m.asked, reply), grantsDiffer(m.asked, e.Scheduler.Grant, reply)
	}
	m.Report.Divergences = append(m.Report.Divergences, d)
	m.core = nil
}

// refusal reports whether an entry is a fault that made the memory of a scheduler grant nothing.
func refusal(e *recording.Entry, scheduler string) bool {
	return e.Fault != nil && e.Fault.Kind == schemas.FaultOutOfBlocks && e.Actor == "memory."+strings.TrimPrefix(scheduler, "scheduler.")
}

// reserve asks a core as it was asked when it was recorded, with or without a fault.
func reserve(core *memory.Core, q *schemas.ReserveRequest, refused bool) (*schemas.ReserveReply, *schemas.Error) {
	if refused {
		return core.Refuse(q)
	}
	return core.Reserve(q)
}

// granted tells what memory answered, in a line.
func granted(q *schemas.ReserveRequest, r *schemas.ReserveReply) string {
	text := fmt.Sprintf("grants%s; %d new blocks; %d of %d free, %d cached", rows(q.Seq, r.Granted), len(r.Blocks), r.Free, r.Total, r.Evictable)
	if len(r.Preempted) > 0 {
		text += fmt.Sprintf("; takes the blocks of %d", len(r.Preempted))
	}
	return text
}

// grantsDiffer names the first row, or count, that differs.
func grantsDiffer(q *schemas.ReserveRequest, a, b *schemas.ReserveReply) string {
	at, bt := 0, 0
	for i := range q.Seq {
		if i >= len(a.Granted) || i >= len(b.Granted) || i >= len(a.BlockCount) || i >= len(b.BlockCount) {
			return "the answers have rows for different sequences"
		}
		id := name(schemas.SeqID(q.Seq[i]))
		switch {
		case a.Granted[i] != b.Granted[i]:
			return fmt.Sprintf("row %d, %s: %d tokens were granted; now %d", i, id, a.Granted[i], b.Granted[i])
		case a.Cached[i] != b.Cached[i]:
			return fmt.Sprintf("row %d, %s: %d tokens came from the prefix cache; now %d", i, id, a.Cached[i], b.Cached[i])
		case a.BlockCount[i] != b.BlockCount[i]:
			return fmt.Sprintf("row %d, %s: %d blocks changed; now %d", i, id, a.BlockCount[i], b.BlockCount[i])
		}
		n := int(a.BlockCount[i])
		for j := range n {
			if at+j < len(a.Blocks) && bt+j < len(b.Blocks) && a.Blocks[at+j] != b.Blocks[bt+j] {
				return fmt.Sprintf("row %d, %s: block %d was %d; now %d", i, id, int(a.BlockFrom[i])+j, a.Blocks[at+j], b.Blocks[bt+j])
			}
		}
		at, bt = at+n, bt+n
	}
	return "the rows are the same; other counts differ"
}
