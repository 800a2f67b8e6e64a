package troupe

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/link"
	"github.com/troupe-engine/troupe/schemas"
)

// BenchmarkStepApart measures what it costs a step that scheduler and compute are processes of their own, over the loopback, and
// how much of it pipelining hides. ns/op is a whole round of answers.
//
//	go test -run XXX -bench StepApart -benchtime 4x -count 3 .
func BenchmarkStepApart(b *testing.B) {
	for _, sequences := range []int{1, 16, 64} {
		tokens := 500 / max(1, sequences/8)
		for _, topology := range []struct {
			name, hub string
			nodes     [][2]string   // name and role
			delay     time.Duration // of the network between them and the hub, each way
		}{
			{"together", RoleGateway, [][2]string{{"g1", RoleReplica}}, 0},
			{"scheduler on the hub", RoleGateway + "," + RoleScheduler, [][2]string{{"g1", RoleCompute}}, 0},
			{"apart", RoleGateway, [][2]string{{"s1", RoleScheduler}, {"g1", RoleCompute}}, 0},
			{"scheduler 1 ms away", RoleGateway + "," + RoleScheduler, [][2]string{{"g1", RoleCompute}}, time.Millisecond},
		} {
			for _, depth := range []int{1, 2} {
				b.Run(fmt.Sprintf("%d sequences/%s/depth %d", sequences, topology.name, depth), func(b *testing.B) {
					b.Setenv(depthVariable, fmt.Sprint(depth))
					hub := openEngine(b, func(o *Options) {
						listen := o.NATSListen
						*o = clusterOptions()
						o.HTTP, o.NATSListen, o.Leaf, o.Actors = "127.0.0.1:0", listen, "127.0.0.1:0", topology.hub
					})
					way, err := link.Listen("127.0.0.1:0", strings.TrimPrefix(hub.LeafURL(), "nats-leaf://"), 1)
					if err != nil {
						b.Fatal(err)
					}
					b.Cleanup(way.Close)
					way.SetDelay(topology.delay, 0)
					for _, n := range topology.nodes {
						startNode(b, n[0], "nats-leaf://"+way.Addr(), n[1])
					}
					waitFor(b, "the replica is known", func() bool { return len(reports(b, hub)) == 1 })
					round := func() {
						var running sync.WaitGroup
						for i := range sequences {
							running.Go(func() {
								body := fmt.Sprintf(`{"prompt":"Once upon a time","max_tokens":%d,"ignore_eos":true,"seed":%d,"stream":true}`, tokens, i)
								if text, err := streamText(hub, body, nil); err != nil || strings.Trim(text, "|") == "" {
									b.Errorf("%q, %v", text, err)
								}
							})
						}
						running.Wait()
					}
					round() // pages, caches
					steps := func() schemas.StepID {
						for name := range reports(b, hub) {
							state, err := bus.NewRef(hub.node, schemas.SchedulerInfo, schemas.Instance(name)).Call(b.Context(), &schemas.InfoRequest{})
							if err != nil {
								b.Fatal(err)
							}
							return state.Step
						}
						b.Fatal("the replica is gone")
						return 0
					}
					before, from := steps(), time.Now()
					for b.Loop() {
						round()
					}
					b.ReportMetric(time.Since(from).Seconds()*1e3/float64(steps()-before), "ms/step")
				})
			}
		}
	}
}
