package troupe

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/link"
	"github.com/troupe-engine/troupe/schemas"
)

var (
	chaosDuration = flag.Duration("chaos.duration", 6*time.Second, "how long TestChaos disturbs the nodes")
	chaosSeed     = flag.Uint64("chaos.seed", 1, "seed of TestChaos's disturbances")
)

// chaos is a hub whose replicas are killed, frozen, cut off and replaced.
type chaos struct {
	t     *testing.T
	hub   *Engine
	rng   *rand.Rand
	nodes []*chaosNode
	made  int
	log   []string
}

type chaosNode struct {
	*child
	link *link.Link
}

// add attaches a replica over a link of its own.
func (c *chaos) add() *chaosNode {
	c.t.Helper()
	c.made++
	k, err := link.Listen("127.0.0.1:0", strings.TrimPrefix(c.hub.LeafURL(), "nats-leaf://"), c.rng.Uint64())
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(k.Close)
	return &chaosNode{link: k, child: startChildAt(c.t, c.hub, fmt.Sprintf("n%d", c.made), "nats-leaf://"+k.Addr())}
}

// disturb does something bad to one node. At least one stays as it is.
func (c *chaos) disturb() {
	i := 1 + c.rng.IntN(len(c.nodes)-1)
	n := c.nodes[i]
	what := []string{"kill", "stop", "freeze", "cut", "jitter", "drain"}[c.rng.IntN(6)]
	c.log = append(c.log, what+" "+n.name)
	pause := time.Duration(100+c.rng.IntN(2400)) * time.Millisecond // some are noticed, some not
	switch what {
	case "kill":
		n.kill()
		c.nodes[i] = c.add()
	case "stop":
		n.signal(syscall.SIGSTOP)
		time.Sleep(pause)
		n.signal(syscall.SIGCONT)
	case "freeze":
		n.link.Freeze(true)
		time.Sleep(pause)
		n.link.Freeze(false)
	case "cut":
		n.link.Cut()
	case "jitter":
		n.link.SetDelay(time.Millisecond, 50*time.Millisecond)
		time.Sleep(pause)
		n.link.SetDelay(0, 0)
	case "drain":
		c.nodes[i] = c.add()
		n.leave()
	}
}

// TestChaos holds every answer to what one undisturbed node says while others are killed, frozen, cut off, slowed down and
// replaced. Run it longer with -chaos.duration=10m.
func TestChaos(t *testing.T) {
	list := asks(t, *chaosSeed, 12, 300)
	c := &chaos{t: t, hub: startHub(t, nil), rng: rand.New(rand.NewPCG(*chaosSeed, 31))}
	for range 3 {
		c.nodes = append(c.nodes, c.add())
	}
	var answered, unavailable atomic.Int64
	over := make(chan struct{})
	var load sync.WaitGroup
	for i := range 4 {
		load.Go(func() {
			for n := i; ; n++ {
				select {
				case <-over:
					return
				default:
				}
				a := list[n%len(list)]
				switch got, err := streamText(c.hub, a.body, nil); {
				case err != nil && strings.HasPrefix(err.Error(), "unavailable: "):
					unavailable.Add(1) // named; counted below
				case err != nil:
					t.Errorf("%s: %v", a.body, err)
				case got != a.want:
					t.Errorf("%s:\ngot  %q\nwant %q", a.body, got, a.want)
				default:
					answered.Add(1)
				}
			}
		})
	}
	for end := time.Now().Add(*chaosDuration); time.Now().Before(end) && !t.Failed(); {
		c.disturb()
	}
	close(over)
	load.Wait()
	t.Logf("seed %d: %d answers, %d unavailable, %d requests moved; %s", *chaosSeed, answered.Load(), unavailable.Load(), c.hub.gateway.Moved(), strings.Join(c.log, ", "))
	if answered.Load() == 0 {
		t.Error("nothing was answered")
	}
	if unavailable.Load() > 0 { // one node was left alone all the time
		t.Errorf("%d requests ended with an error although a node was there", unavailable.Load())
	}
	c.checkSurvivors()
}

// checkSurvivors finds sequences and blocks that nobody has any use for.
func (c *chaos) checkSurvivors() {
	for _, n := range c.nodes {
		waitHoldsNothing(c.t, c.hub.node, n.name)
	}
}

// waitHoldsNothing finds sequences and blocks that nobody has any use for.
func waitHoldsNothing(t *testing.T, node *bus.Node, replica string) {
	t.Helper()
	waitFor(t, replica+" holds no blocks", func() bool { return holdsNothing(node, schemas.Instance(replica)) })
}

func holdsNothing(node *bus.Node, replica schemas.Instance) bool {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	s, err := bus.NewRef(node, schemas.MemoryInfo, replica).Call(ctx, &schemas.InfoRequest{})
	return err == nil && s.Used == 0 && s.Seqs == 0
}
