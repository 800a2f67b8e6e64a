package bus

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/schemas"
)

// Limits of a node. They bound memory, not throughput.
const (
	PayloadBytesMax     = 8 << 20          // largest message; also the server's max_payload
	connectTimeout      = 2 * time.Second  // an in-process connect with bad credentials would hang for 10 s
	serverReadyTimeout  = 10 * time.Second // the embedded server's listeners
	serverReadyPoll     = 50 * time.Millisecond
	drainTimeout        = 2 * time.Second
	reconnectWait       = 20 * time.Millisecond
	subPendingMsgsMax   = 64 << 10  // per subscription; beyond it NATS drops and reports a slow consumer
	subPendingBytesMax  = 64 << 20  // per subscription
	serverPendingMax    = 256 << 20 // bytes the server buffers for one slow client before it disconnects it
	serverWriteDeadline = 10 * time.Second
)

// Options configure a Node.
type Options struct {
	ID     schemas.NodeID // default: "node-" + random
	Config string         // text of a nats.conf for the embedded server; "" is nats-server's defaults
	// Listen overrides the configuration's client listener: "host:port", port -1 for any free
	// one, "none" to accept no connections from outside the process. "" keeps the configuration.
	Listen     string
	LeafListen string   // accept other nodes as leaf nodes here; "" does not
	LeafKey    string   // public nkey of the only one that may join there (see NewKey); "" leaves it to the configuration
	StoreDir   string   // JetStream keeps streams here; "" leaves JetStream to the configuration
	Leafs      []string // join other nodes: "nats-leaf://host:7422"
	// Security is how nodes on different machines know each other.
	Security Security
	// Account names the NATS account of Config that the actors live in. "" is the only one there is, or
	// the server's global account.
	Account string
	Log     zerolog.Logger
	// RemoteOnly makes every Ref go over NATS, also to actors in this process. For tests and for
	// measuring what the in-process path saves. Actors that call each other then need mailboxes of their own.
	RemoteOnly bool
	// Faults, if set, are switched on from the start. For tests.
	Faults *schemas.FaultPlan
	// AttemptTimeMax shortens the wait of each attempt of a call over NATS, and makes as many more of them; 0
	// leaves it to the endpoints. On a network that loses messages but is quick, it is the price of each loss.
	AttemptTimeMax time.Duration
}

// Node is a process on the bus: an embedded NATS server and the actors it hosts.
type Node struct {
	id   schemas.NodeID
	opts Options
	log  zerolog.Logger

	server  *server.Server
	routed  bool // the configuration makes it one of a NATS cluster
	logger  natsLogger
	account *server.Account
	login   []nats.Option // how the process identifies itself to its own server
	store   *os.File      // locked while the server keeps streams; nil without JetStream

	data    *nats.Conn // calls and streams
	mirror  *nats.Conn // taps: a slow recorder must not delay calls
	taps    *tapper
	journal *journal
	faults  atomic.Pointer[faults] // nil: none
	// refusals counts what others sent in vain.
	refusals refusals

	mu     sync.Mutex
	routes map[string][]any // subject -> *port[Req, Resp] that answer it here
	// version changes with routes, so that Refs know when to look again.
	version atomic.Uint64
	actors  []*Actor
	closed  bool
}

// Start runs an embedded NATS server and connects to it in process.
func Start(opts Options) (*Node, error) {
	if opts.ID == "" {
		opts.ID = schemas.NodeID("node-" + strings.ToLower(rand.Text()[:8]))
	}
	n := &Node{id: opts.ID, opts: opts, log: opts.Log.With().Str("node", string(opts.ID)).Logger(), routes: map[string][]any{}}
	sopts, err := serverOptions(opts)
	if err != nil {
		return nil, err
	}
	accountName, login, err := ownLogin(sopts, opts.Account)
	if err != nil {
		return nil, err
	}
	n.login, n.routed = login, sopts.Cluster.Port != 0 || len(sopts.Routes) > 0
	if sopts.JetStream && sopts.StoreDir != "" {
		if n.store, err = lockStore(sopts.StoreDir); err != nil {
			return nil, err
		}
	}
	if n.server, err = server.NewServer(sopts); err != nil {
		n.unlockStore()
		return nil, fmt.Errorf("bus: embedded NATS server: %w", err)
	}
	if err := n.startServer(sopts); err != nil {
		n.unlockStore()
		return nil, err
	}
	if err := n.join(n.logger.trouble); err != nil {
		n.Close()
		return nil, err
	}
	if n.account, err = n.server.LookupAccount(accountName); err != nil {
		n.Close()
		return nil, fmt.Errorf("bus: NATS account %q: %w", accountName, err)
	}
	if err := n.connect(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// startServer returns when the server listens, or with the reason why it does not.
func (n *Node) startServer(sopts *server.Options) error {
	log := natsLogger{n.log, make(chan string, 1), &atomic.Pointer[string]{}, &n.refusals}
	n.logger = log
	n.server.SetLoggerV2(log, false, false, false)
	n.server.Start()
	why := fmt.Sprintf("it is not ready after %s", serverReadyTimeout)
	for end, waiting := time.Now().Add(serverReadyTimeout), true; waiting && time.Now().Before(end); {
		if n.server.ReadyForConnections(serverReadyPoll) {
			return nil
		}
		select {
		case why = <-log.fatal:
			waiting = false
		default:
		}
	}
	n.server.Shutdown()
	n.server.WaitForShutdown()
	return schemas.Errorf(schemas.KindUnavailable, "listen", "NATS on %s:%d: %s", sopts.Host, sopts.Port, why).WithParam("nats_listen").
		WithHint("choose another address with --nats-listen host:port, port 0 for any free one, or none")
}

func (n *Node) connect() (err error) {
	if n.data, err = n.connection("data"); err != nil {
		return err
	}
	if n.mirror, err = n.connection("mirror"); err != nil {
		return err
	}
	n.taps = newTapper(n.id, n.mirror, n.account.SubscriptionInterest, n.log)
	n.journal = newJournal(n.id, n.mirror, n.account.SubscriptionInterest, n.log)
	return n.SetFaults(n.opts.Faults)
}

func (n *Node) connection(role string) (*nats.Conn, error) {
	options := append([]nats.Option{nats.InProcessServer(n.server), nats.Name(string(n.id) + "/" + role),
		nats.Timeout(connectTimeout), nats.MaxReconnects(-1), nats.ReconnectWait(reconnectWait),
		nats.ReconnectJitter(reconnectWait, reconnectWait), nats.DrainTimeout(drainTimeout),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil { // nil: closed on purpose
				n.log.Warn().Err(err).Str("connection", role).Msg("bus connection lost; reconnecting")
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			n.log.Warn().Err(err).Str("connection", role).Str("subject", subject).Msg("bus connection error")
		})}, n.login...)
	conn, err := nats.Connect("", options...)
	if err != nil {
		return nil, fmt.Errorf("bus: in-process %s connection: %w", role, err)
	}
	return conn, nil
}

// Routed reports whether the node's server is one of a NATS cluster, whose other nodes hear what this one's actors are told.
func (n *Node) Routed() bool { return n.routed }

// ID names the node.
func (n *Node) ID() schemas.NodeID { return n.id }

// URL is where clients outside the process connect; "" if they cannot.
func (n *Node) URL() string {
	addr, ok := n.server.Addr().(*net.TCPAddr)
	if !ok {
		return ""
	}
	return "nats://" + reachable(addr.IP.String(), addr.Port)
}

// reachable is the address of a listener as a client on this machine can use it.
func reachable(host string, port int) string {
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

// LeafURL is where other nodes join this one; "" if they cannot.
func (n *Node) LeafURL() string {
	if o := n.opts.LeafListen; o == "" {
		return ""
	}
	v, err := n.server.Varz(nil)
	if err != nil {
		return ""
	}
	return "nats-leaf://" + reachable(v.LeafNode.Host, v.LeafNode.Port)
}

// Subscriptions counts those of all clients of the node's server.
func (n *Node) Subscriptions() int { return int(n.server.NumSubscriptions()) }

// Actors lists the actors that run here, in the order in which they started.
func (n *Node) Actors() []schemas.ActorReport {
	n.mu.Lock()
	defer n.mu.Unlock()
	list := make([]schemas.ActorReport, len(n.actors))
	for i, a := range n.actors {
		list[i] = schemas.ActorReport{Service: a.service, Instance: a.instance}
	}
	return list
}

// Conn is the node's connection for publishing and subscribing beyond typed endpoints.
func (n *Node) Conn() *nats.Conn { return n.data }

// Connection opens one more in-process connection, for a client that must not share buffers with
// the actors. The caller closes it.
func (n *Node) Connection(role string) (*nats.Conn, error) { return n.connection(role) }

// Close stops the node's actors, the last started first, then its connections and server. Calls that are
// waiting fail with KindUnavailable.
func (n *Node) Close() {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return
	}
	n.closed = true
	actors := slices.Clone(n.actors)
	n.mu.Unlock()
	_ = n.SetFaults(nil) // to none, which is a valid plan
	for _, a := range slices.Backward(actors) {
		a.Stop()
	}
	if n.taps != nil {
		n.taps.close()
		n.journal.close()
	}
	if n.data != nil {
		_ = n.data.FlushTimeout(drainTimeout) // the last replies; an error means that nobody gets them
	}
	for _, c := range []*nats.Conn{n.mirror, n.data} {
		if c != nil {
			c.Close()
		}
	}
	n.server.Shutdown()
	n.server.WaitForShutdown()
	n.unlockStore()
}

// Served reports whether somebody subscribes to subject, on this node or on one that is connected now.
func (n *Node) Served(subject string) bool { return n.account.SubscriptionInterest(subject) }

// interestPoll is how often WaitForService looks.
const interestPoll = 5 * time.Millisecond

// WaitForService returns when an actor on any node serves subject, or ctx ends.
func (n *Node) WaitForService(ctx context.Context, subject string) error {
	for !n.Served(subject) {
		if sleep(ctx, interestPoll); ctx.Err() != nil {
			return schemas.Errorf(schemas.KindUnavailable, "wait for "+subject, "nobody serves it: %v", ctx.Err()).
				WithHint("`nats micro ls` lists the actors that run")
		}
	}
	return nil
}

func (n *Node) addActor(a *Actor) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return false
	}
	n.actors = append(n.actors, a)
	return true
}

func (n *Node) removeActor(a *Actor) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.actors = slices.DeleteFunc(n.actors, func(b *Actor) bool { return a == b })
}

// addRoute lets port answer subject in process, alone or after others that do.
func (n *Node) addRoute(subject string, port any, alone bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return schemas.Errorf(schemas.KindUnavailable, "register "+subject, "the node is closed")
	}
	if alone && len(n.routes[subject]) > 0 {
		return schemas.Errorf(schemas.KindInvalid, "register "+subject, "an actor of this node has the subject already").
			WithHint("give the actors different instance names")
	}
	n.routes[subject] = append(n.routes[subject], port)
	n.version.Add(1)
	return nil
}

func (n *Node) removeRoute(subject string, port any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	left := slices.DeleteFunc(n.routes[subject], func(p any) bool { return p == port })
	if n.routes[subject] = left; len(left) == 0 {
		delete(n.routes, subject)
	}
	n.version.Add(1)
}

// route is the port that answers subject in this process, the first started, or nil.
func (n *Node) route(subject string) any {
	n.mu.Lock()
	defer n.mu.Unlock()
	if ports := n.routes[subject]; len(ports) > 0 {
		return ports[0]
	}
	return nil
}
