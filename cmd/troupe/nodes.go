package main

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

const (
	nodesListenTime = 1300 * time.Millisecond // nodes report every second
	nodeAskTimeMax  = 2 * time.Second
	clockAsks       = 5 // the quickest of so many answers tells the clock best
)

func newNodesCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "nodes", Short: "List the nodes that work together: actors, load, version, clock.", Args: cobra.NoArgs,
		Example: "  troupe nodes --nats nats://127.0.0.1:4222"}
	address, asJSON := addNATS(cmd.Flags(), natsURLDefault, natsDoc), addJSON(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		conn, err := address.connect("nodes")
		if err != nil {
			return err
		}
		defer conn.Close()
		nodes, err := listNodes(cmd.Context(), conn)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(cmd.OutOrStdout(), nodes)
		}
		return table(cmd.OutOrStdout(), nodeRows(nodes))
	}
	return cmd
}

// node is what is known of one node.
type node struct {
	schemas.NodeReport
	// Replicas are those whose scheduler or whose compute is on the node.
	Replicas      []*schemas.ReplicaReport `json:"replicas,omitempty"`
	ClockOffsetNs int64                    `json:"clock_offset_ns"` // of its clock from ours
	ClockErrorNs  int64                    `json:"clock_error_ns"`  // the offset is right within so much
}

// listNodes listens to reports, and asks each node for its clock.
func listNodes(ctx context.Context, conn *nats.Conn) ([]*node, error) {
	var mu sync.Mutex
	nodes, replicas := map[schemas.NodeID]*node{}, map[schemas.Instance]*schemas.ReplicaReport{}
	listen := func(subject string, take func(m *nats.Msg)) error {
		_, err := conn.Subscribe(subject, func(m *nats.Msg) {
			mu.Lock()
			defer mu.Unlock()
			take(m)
		})
		return err
	}
	if err := listen(schemas.NodeReports.Subject(""), func(m *nats.Msg) {
		r := &node{}
		if schemas.Unmarshal(m.Data, &r.NodeReport) == nil {
			nodes[r.Node] = r
		}
	}); err != nil {
		return nil, err
	}
	if err := listen(schemas.ReplicaReports.Subject(""), func(m *nats.Msg) {
		r := &schemas.ReplicaReport{}
		if schemas.Unmarshal(m.Data, r) == nil {
			r.Added, r.Removed = nil, nil
			if replicas[r.Replica] = r; r.Leaving {
				delete(replicas, r.Replica)
			}
		}
	}); err != nil {
		return nil, err
	}
	select {
	case <-time.After(nodesListenTime):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	mu.Lock()
	defer mu.Unlock()
	list := make([]*node, 0, len(nodes))
	for id, n := range nodes {
		for _, r := range replicas {
			if r.Node == id || r.Compute == id {
				n.Replicas = append(n.Replicas, r)
			}
		}
		slices.SortFunc(n.Replicas, func(a, b *schemas.ReplicaReport) int { return cmp.Compare(a.Replica, b.Replica) })
		n.askClock(ctx, conn)
		list = append(list, n)
	}
	slices.SortFunc(list, func(a, b *node) int { return cmp.Compare(a.Node, b.Node) })
	if len(list) == 0 {
		return nil, schemas.Errorf(schemas.KindNotFound, "nodes", "no node reported within %s", nodesListenTime).
			WithHint("nodes report when they were started with --leaf or by `troupe attach`")
	}
	return list, nil
}

// askClock compares a node's clock with ours as NTP does (RFC 5905): the node read its clock at some time between
// question and answer.
func (n *node) askClock(ctx context.Context, conn *nats.Conn) {
	n.ClockErrorNs = math.MaxInt64
	for range clockAsks {
		ask, cancel := context.WithTimeout(ctx, nodeAskTimeMax)
		from := time.Now()
		m, err := conn.RequestWithContext(ask, schemas.NodeInfo.Subject(schemas.Instance(n.Node)), []byte{0x90})
		took := time.Since(from)
		cancel()
		var r schemas.NodeReport
		if err != nil || schemas.Unmarshal(m.Data, &r) != nil {
			return
		}
		if half := took.Nanoseconds() / 2; half < n.ClockErrorNs {
			n.ClockOffsetNs, n.ClockErrorNs = r.UnixNs-from.UnixNano()-half, half
		}
	}
}

// nodeRows is the table of nodes. A node's version is told if it is not this program's.
func nodeRows(nodes []*node) [][]string {
	rows := [][]string{{"NODE", "ACTORS", "MODEL", "RUN", "WAIT", "FREE", "CLOCK", "STATE"}}
	for _, n := range nodes {
		run, wait, free, state := "-", "-", "-", "serving"
		if len(n.Replicas) > 0 {
			run, wait, free = n.load()
		} else if !slices.ContainsFunc(n.Roles, func(r string) bool { return r == troupe.RoleGateway || r == troupe.RoleTokenizer }) {
			state = "idle" // it waits for its other part
		}
		if n.Draining {
			state = "draining"
		}
		if n.Version != bus.BuildVersion {
			state += ", " + shorten(printable(n.Version), 12)
		}
		rows = append(rows, []string{printable(string(n.Node)), printable(n.roles()), printable(n.Model), run, wait, free, n.clock(), state})
	}
	return fit(rows, 0, 1, 2)
}

// load is that of the node's replicas.
func (n *node) load() (run, wait, free string) {
	var running, waiting, freeBlocks, blocks int64
	for _, r := range n.Replicas {
		running, waiting = running+int64(r.Running), waiting+int64(r.Waiting)
		freeBlocks, blocks = freeBlocks+int64(r.FreeBlocks), blocks+int64(r.Blocks)
	}
	return fmt.Sprint(running), fmt.Sprint(waiting), fmt.Sprintf("%d%%", 100*freeBlocks/max(blocks, 1))
}

// roles are what the node plays, with the phase of requests that its device is for.
func (n *node) roles() string {
	list := slices.Clone(n.Roles)
	for i, role := range list {
		if list[i] = shorten(role, 10); role != troupe.RoleReplica && role != troupe.RoleCompute {
			continue
		}
		for _, r := range n.Replicas {
			if r.Phase != "" && (role == troupe.RoleCompute) == (r.Compute == n.Node) {
				list[i] += " (" + shorten(r.Phase, 10) + ")"
			}
		}
	}
	return strings.Join(list, ",")
}

// clock is the offset of a node's clock with its error.
func (n *node) clock() string {
	if n.ClockErrorNs == math.MaxInt64 {
		return "no answer"
	}
	return fmt.Sprintf("%+.1f±%.1fms", float64(n.ClockOffsetNs)/1e6, float64(n.ClockErrorNs)/1e6)
}
