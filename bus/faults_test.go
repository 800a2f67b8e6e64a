package bus

import (
	"context"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/schemas"
)

// account is a little state machine with an idempotent endpoint, as the engine's actors have: number n+1
// is applied once, and whatever comes again or late gets an answer without effect.
type account struct {
	sums  map[int32]int64
	last  map[int32]int64
	calls int
}

func (a *account) apply(_ context.Context, p *probe) (*answer, error) {
	a.calls++
	switch last := a.last[p.Caller]; {
	case p.Number == last+1:
		a.last[p.Caller] = p.Number
		a.sums[p.Caller] += p.Number
	case p.Number > last+1:
		return nil, schemas.Errorf(schemas.KindInvalid, "apply", "%d follows %d", p.Number, last)
	}
	return &answer{Number: p.Number, Together: int32(a.sums[p.Caller])}, nil
}

func TestLossyNetworkHasOneLogicalEffect(t *testing.T) {
	for _, remote := range []bool{true, false} {
		t.Run(map[bool]string{true: "over NATS", false: "in process"}[remote], func(t *testing.T) { oneLogicalEffect(t, remote) })
	}
}

func oneLogicalEffect(t *testing.T, remote bool) {
	endpoint := schemas.Endpoint[probe, answer]{Service: "stage", Verb: "apply", Doc: "Idempotent.", Timeout: 25 * time.Millisecond, Attempts: 200}
	for _, seed := range []uint64{1, 2, uint64(time.Now().UnixNano())} {
		plan := LossyNetwork(seed, 0.2, 0.3, 0.5, 10*time.Millisecond)
		n := startNode(t, Options{RemoteOnly: remote, Faults: plan, AttemptTimeMax: 25 * time.Millisecond})
		a := NewActor(n, "stage", "stage", "")
		bank := &account{sums: map[int32]int64{}, last: map[int32]int64{}}
		Handle(a, endpoint, NewGroup(), bank.apply)
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		const callers, calls = 4, 25
		var all sync.WaitGroup
		for caller := range callers {
			all.Go(func() {
				ref := NewRef(n, endpoint, "stage")
				for i := int64(1); i <= calls; i++ {
					got, err := ref.Call(within(t, 30*time.Second), &probe{Caller: int32(caller), Number: i})
					if err != nil || got.Number != i {
						t.Errorf("seed %d: caller %d, number %d: %+v, %v", seed, caller, i, got, err)
						return
					}
				}
			})
		}
		all.Wait()
		time.Sleep(30 * time.Millisecond) // late duplicates
		a.Stop()
		for caller := range int32(callers) {
			if bank.sums[caller] != calls*(calls+1)/2 {
				t.Errorf("seed %d: caller %d added up to %d", seed, caller, bank.sums[caller])
			}
		}
		state := n.FaultsState()
		for _, r := range state.Rules {
			if r.Faults == 0 || bank.calls <= callers*calls {
				t.Errorf("%s: the network was too good: %+v; %d deliveries", plan, r, bank.calls)
			}
		}
		t.Logf("%s; %d deliveries for %d calls", plan, bank.calls, callers*calls)
	}
}

// recorded is a perfect network that remembers when what arrived.
type recorded struct {
	mu   sync.Mutex
	got  []string
	took []time.Duration
	zero time.Time
}

func (r *recorded) publish(m *nats.Msg) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got, r.took = append(r.got, string(m.Data)), append(r.took, time.Since(r.zero))
	return nil
}

func (r *recorded) request(_ context.Context, m *nats.Msg) (*nats.Msg, error) {
	return &nats.Msg{Data: m.Data}, r.publish(m)
}

func TestFaultsRepeatFromTheirSeed(t *testing.T) {
	const asked, told = "inf.v1.memory.reserve.r0", "inf.v1.node.report.n0"
	run := func(seed uint64, others int) (r *recorded, answered int, faulted []schemas.InjectedFault) {
		synctest.Test(t, func(t *testing.T) {
			r = &recorded{zero: time.Now()}
			plan := LossyNetwork(seed, 0.2, 0.2, 0.5, 50*time.Millisecond)
			plan.Rules = append(plan.Rules, schemas.FaultRule{Kind: schemas.FaultReorder, Subject: told, Probability: 0.2, DelayUs: 30_000})
			f, err := newFaults(plan, func(what *schemas.InjectedFault) {
				if what.Subject == asked || what.Subject == told || what.Subject == asked+".reply" {
					faulted = append(faulted, *what)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			defer f.end()
			for i := range 200 {
				for range others { // other traffic does not change the fates on a subject
					_ = f.publish(&nats.Msg{Subject: "inf.v1.replica.report.r1"}, func(*nats.Msg) error { return nil })
				}
				ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
				m := &nats.Msg{Subject: asked, Data: []byte{byte(i)}}
				if _, err := request(ctx, f, asked, time.Second, func(ctx context.Context) (*nats.Msg, error) { return r.request(ctx, m) }); err == nil {
					answered++
				}
				cancel()
				_ = f.publish(&nats.Msg{Subject: told, Data: []byte{byte(i)}}, r.publish)
				time.Sleep(5 * time.Millisecond)
			}
			time.Sleep(time.Second)
		})
		return r, answered, faulted
	}
	first, answered, faulted := run(7, 0)
	again, answeredAgain, faultedAgain := run(7, 3)
	other, _, _ := run(8, 0)
	if answered != answeredAgain || !reflect.DeepEqual(first.got, again.got) || !reflect.DeepEqual(first.took, again.took) || !reflect.DeepEqual(faulted, faultedAgain) {
		t.Errorf("the same seed gave %d answers and %d; the same arrivals: %v, the same faults: %v", answered, answeredAgain,
			reflect.DeepEqual(first.got, again.got), reflect.DeepEqual(faulted, faultedAgain))
	}
	if reflect.DeepEqual(first.got, other.got) {
		t.Error("another seed gave the same arrivals")
	}
	if answered < 90 || answered > 160 { // 0.8² of 200 is 128
		t.Errorf("%d of 200 requests were answered", answered)
	}
	disordered := false
	for i := 1; i < len(first.got); i++ {
		disordered = disordered || first.got[i] < first.got[i-1]
	}
	if !disordered {
		t.Error("nothing was reordered")
	}
}

// faultsOf makes a plan of rules as people write them.
func faultsOf(t testing.TB, seed uint64, rules ...string) *schemas.FaultPlan {
	t.Helper()
	plan := &schemas.FaultPlan{Seed: seed}
	for _, text := range rules {
		r, err := schemas.ParseFaultRule(text)
		if err != nil {
			t.Fatal(err)
		}
		plan.Rules = append(plan.Rules, *r)
	}
	return plan
}

// One message is held back until the next has been through, and no longer than the rule says.
func TestReorderedMessagesComeInAnotherOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const subject = "inf.v1.node.report.n0"
		f, err := newFaults(faultsOf(t, 1, "reorder "+subject+" delay=1s count=1"), func(*schemas.InjectedFault) {})
		if err != nil {
			t.Fatal(err)
		}
		defer f.end()
		r := &recorded{zero: time.Now()}
		for i := range 3 {
			_ = f.publish(&nats.Msg{Subject: subject, Data: []byte{'a' + byte(i)}}, r.publish)
			time.Sleep(10 * time.Millisecond)
		}
		if got := r.got; !reflect.DeepEqual(got, []string{"b", "a", "c"}) {
			t.Errorf("a, b and c came as %q", got)
		}
		if r.took[1] != 10*time.Millisecond {
			t.Errorf("the message that was held back came after %v; expected it right after the next", r.took[1])
		}
	})
	synctest.Test(t, func(t *testing.T) {
		f, err := newFaults(faultsOf(t, 1, "reorder inf.v1.memory.reserve.r0 delay=70ms"), func(*schemas.InjectedFault) {})
		if err != nil {
			t.Fatal(err)
		}
		defer f.end()
		began := time.Now()
		_, failed := request(context.Background(), f, "inf.v1.memory.reserve.r0", time.Second, func(context.Context) (int, error) { return 1, nil })
		if took := time.Since(began); failed != nil || took != 70*time.Millisecond {
			t.Errorf("a message without another after it: %v after %v; expected to come after 70 ms", failed, took)
		}
	})
}

// Faults are switched while calls run, in this process and over NATS: what they lose comes through once they are off.
func TestFaultsAreSwitchedLive(t *testing.T) {
	for _, remote := range []bool{false, true} {
		n := startNode(t, Options{RemoteOnly: remote, AttemptTimeMax: 20 * time.Millisecond})
		a := NewActor(n, "memory", "r0", "")
		Handle(a, schemas.Reserve, NewGroup(), func(_ context.Context, r *schemas.ReserveRequest) (*schemas.ReserveReply, error) {
			return &schemas.ReserveReply{Step: r.Step}, nil
		})
		if err := a.Start(); err != nil {
			t.Fatal(err)
		}
		if err := n.ServeFaults(); err != nil {
			t.Fatal(err)
		}
		control := NewRef(n, schemas.Faults, schemas.Instance(n.ID()))
		ref := NewRef(n, schemas.Reserve, "r0")
		call := func() error {
			_, err := ref.Call(within(t, 10*time.Second), &schemas.ReserveRequest{Step: 3})
			return err
		}
		set := func(rules ...string) *schemas.FaultsState {
			st, err := control.Call(within(t, 10*time.Second), &schemas.FaultsRequest{Plan: faultsOf(t, 1, rules...)})
			if err != nil {
				t.Fatal(err)
			}
			return st
		}
		if err := call(); err != nil {
			t.Fatal(err)
		}
		if st := set("error inf.v1.memory.*.r0 count=1"); !st.On || st.Rules[0].Faults != 0 {
			t.Errorf("switched on: %+v", st)
		}
		if err := schemas.AsError(call(), ""); err == nil || err.Kind != schemas.KindUnavailable || err.Op != "fault" {
			t.Errorf("remote %v: the call gave %v; expected the fault", remote, err)
		}
		if err := call(); err != nil {
			t.Errorf("remote %v: after the rule's count: %v", remote, err)
		}
		set("error inf.v1.memory.reserve.r0.reply count=1")
		if err := call(); err == nil {
			t.Errorf("remote %v: the reply was no error", remote)
		}
		set("drop inf.v1.memory.>")
		if err := schemas.AsError(call(), ""); err == nil || err.Kind != schemas.KindTimeout {
			t.Errorf("remote %v: everything lost, and the call gave %v", remote, err)
		}
		set("delay inf.v1.memory.> delay=10s")
		done := make(chan error, 1)
		go func() { done <- call() }()
		for n.FaultsState().Rules[0].Faults == 0 {
			time.Sleep(time.Millisecond)
		}
		st, err := control.Call(within(t, 10*time.Second), &schemas.FaultsRequest{Off: true})
		if err != nil || st.On {
			t.Fatalf("switched off: %+v, %v", st, err)
		}
		if err := <-done; err != nil {
			t.Errorf("remote %v: a message that was held back when faults ended: %v", remote, err)
		}
		bad := &schemas.FaultsRequest{Plan: &schemas.FaultPlan{Rules: []schemas.FaultRule{{Kind: "melt", Subject: "inf.v1.>", Probability: 1}}}}
		if _, err := control.Call(within(t, 10*time.Second), bad); schemas.AsError(err, "").Param != "plan.rules[0].kind" {
			t.Errorf("an unknown kind: %v", err)
		}
		if _, hit := n.Suffers(schemas.FaultOutOfBlocks, schemas.Reserve.Subject("r0")); hit {
			t.Error("a fault without faults")
		}
		set("out_of_blocks inf.v1.memory.> count=1", "slow_device inf.v1.compute.execute.* delay=3ms")
		_, first := n.Suffers(schemas.FaultOutOfBlocks, schemas.Reserve.Subject("r0"))
		_, second := n.Suffers(schemas.FaultOutOfBlocks, schemas.Reserve.Subject("r0"))
		slow, third := n.Suffers(schemas.FaultSlowDevice, schemas.Execute.Subject("r0"))
		if !first || second || !third || slow != 3*time.Millisecond {
			t.Errorf("actors' own faults: %v, %v, %v of %v", first, second, third, slow)
		}
	}
}

func TestFaultSubjectsMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, subject string
		want             bool
	}{{">", "a", true}, {"a.>", "a", false}, {"a.>", "a.b", true}, {"a.>", "a.b.c", true}, {"a.*", "a.b", true}, {"a.*", "a.b.c", false},
		{"a.*.c", "a.b.c", true}, {"a.*.c", "a.b.d", false}, {"a.b", "a.b", true}, {"a.b", "a", false}, {"a", "a.b", false}, {"*", "a", true}} {
		if got := matches(strings.Split(c.pattern, "."), c.subject); got != c.want {
			t.Errorf("%s and %s: %v", c.pattern, c.subject, got)
		}
	}
}
