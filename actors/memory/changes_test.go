package memory

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	"github.com/troupe-engine/troupe/schemas"
)

// router knows a pool's prefixes from the changes that it is told.
type router struct {
	serial uint64
	keys   map[uint64]bool
}

// follow asks for changes, if it is time, and compares what is known then with what the pool has.
func (r *router) follow(now bool, c *Core) error {
	if !now {
		return nil
	}
	reply := c.Prefixes(r.serial)
	if reply.All {
		clear(r.keys)
	}
	for _, k := range reply.Removed {
		delete(r.keys, k)
	}
	for _, k := range reply.Added {
		r.keys[k] = true
	}
	r.serial = reply.Serial
	all := c.Prefixes(0)
	want := slices.Sorted(slices.Values(all.Added))
	if got := slices.Sorted(maps.Keys(r.keys)); !all.All || all.Serial != r.serial || !slices.Equal(got, want) {
		return fmt.Errorf("changes lead to prefixes %x, the pool has %x", got, want)
	}
	if all.Available != c.pool.available() {
		return fmt.Errorf("%d blocks are available, told %d", c.pool.available(), all.Available)
	}
	return nil
}

// What routers compute from a prompt is what memory calls its blocks.
func TestPrefixesAreNamedByTheirTokens(t *testing.T) {
	c, err := NewCore(Config{Blocks: 8, BlockSize: 2})
	if err != nil {
		t.Fatal(err)
	}
	first := c.Prefixes(0)
	for step, req := range []*schemas.ReserveRequest{
		{Admit: []schemas.Admission{{Seq: 0x100, Tokens: schemas.I32{5, 6, 7, 8, 9}, Salt: 3}}, TokensMax: 8, Seq: schemas.U64{0x100}, WantMax: schemas.I32{5}, MayPreempt: schemas.U8{0}},
		{TokensMax: 8},
	} {
		req.Epoch, req.Step = 1, schemas.StepID(step+1)
		if _, err := c.Reserve(req); err != nil {
			t.Fatal(err)
		}
	}
	one := schemas.PrefixKey(schemas.FirstPrefixKey(3), []int32{5, 6})
	want := schemas.U64{one, schemas.PrefixKey(one, []int32{7, 8})}
	if got := c.Prefixes(first.Serial); !got.All || !slices.Equal(got.Added, want) { // the epoch is another
		t.Errorf("got %+v, want all of %x", got, want)
	}
	if got := c.Prefixes(c.changes.serial - 1); got.All || !slices.Equal(got.Added, want[1:]) {
		t.Errorf("got %+v, want the last of %x", got, want)
	}
	if got := c.Prefixes(1 << 60); !got.All {
		t.Error("a serial from the future is answered with changes")
	}
}

func TestNothingIsRememberedUntilSomebodyAsks(t *testing.T) {
	l := &changes{}
	l.note(1, true)
	if len(l.recent) != 0 {
		t.Error("a change is remembered that nobody will ask for")
	}
	l.watched = true
	for i := range uint64(3 * changesMax) {
		l.note(i, true)
	}
	if len(l.recent) > changesMax {
		t.Errorf("%d changes are remembered; the limit is %d", len(l.recent), changesMax)
	}
	if _, _, ok := l.since(1); ok {
		t.Error("changes that are forgotten were found")
	}
}
