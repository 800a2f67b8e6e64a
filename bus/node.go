package bus

import (
	"context"
	"errors"
	"fmt"
	"net/url"
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
	drainTimeout        = 2 * time.Second
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
	Leafs      []string // join other nodes: "nats-leaf://host:7422"
	Log        zerolog.Logger
	// RemoteOnly makes every Ref go over NATS, also to actors in this process. For tests and for
	// measuring what the in-process path saves.
	RemoteOnly bool
	// Faults, if set, disturbs all messages that leave this node. For tests.
	Faults *Faults
}

// Node is a process on the bus: an embedded NATS server and the actors it hosts.
type Node struct {
	id   schemas.NodeID
	opts Options
	log  zerolog.Logger

	server *server.Server
	data   *nats.Conn // calls and streams
	mirror *nats.Conn // taps: a slow recorder must not delay calls
	taps   *tapper
	net    transport

	mu     sync.Mutex
	routes map[string]any // subject -> *port[Req, Resp]
	// version changes with routes, so that Refs know when to look again.
	version atomic.Uint64
	actors  []*Actor
	closed  bool
}

// Start runs an embedded NATS server and connects to it in process.
func Start(opts Options) (*Node, error) {
	if opts.ID == "" {
		opts.ID = schemas.NodeID("node-" + strings.ToLower(nats.NewInbox()[len("_INBOX."):][:8]))
	}
	n := &Node{id: opts.ID, opts: opts, log: opts.Log.With().Str("node", string(opts.ID)).Logger(), routes: map[string]any{}}
	sopts, err := serverOptions(opts)
	if err != nil {
		return nil, err
	}
	if n.server, err = server.NewServer(sopts); err != nil {
		return nil, fmt.Errorf("bus: embedded NATS server: %w", err)
	}
	n.server.SetLoggerV2(natsLogger{n.log}, false, false, false)
	n.server.Start()
	if !n.server.ReadyForConnections(serverReadyTimeout) {
		n.server.Shutdown()
		return nil, fmt.Errorf("bus: the embedded NATS server could not listen on %s:%d within %s: is the port taken? choose another with --nats-listen host:port, or \"none\"",
			sopts.Host, sopts.Port, serverReadyTimeout)
	}
	if err := n.connect(); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (n *Node) connect() (err error) {
	if n.data, err = n.connection("data"); err != nil {
		return err
	}
	if n.mirror, err = n.connection("mirror"); err != nil {
		return err
	}
	account := n.server.GlobalAccount()
	n.taps = newTapper(n.mirror, account.SubscriptionInterest, n.log)
	n.net = natsTransport{n.data}
	if n.opts.Faults != nil {
		n.net = n.opts.Faults.wrap(n.net)
	}
	return nil
}

func serverOptions(opts Options) (*server.Options, error) {
	sopts := &server.Options{}
	if opts.Config != "" {
		if err := sopts.ProcessConfigString(opts.Config); err != nil {
			return nil, fmt.Errorf("bus: NATS configuration: %w", err)
		}
	}
	sopts.ServerName = string(opts.ID)
	sopts.NoSigs = true              // the process handles signals, not a library in it
	sopts.NoFastProducerStall = true // an outside subscriber must never slow a step
	if sopts.MaxPayload == 0 {
		sopts.MaxPayload = PayloadBytesMax
	}
	if sopts.MaxPending == 0 {
		sopts.MaxPending = serverPendingMax
	}
	if sopts.WriteDeadline == 0 {
		sopts.WriteDeadline = serverWriteDeadline
	}
	if opts.Listen == "none" {
		sopts.DontListen = true
	} else if opts.Listen != "" {
		host, port, err := splitHostPort(opts.Listen)
		if err != nil {
			return nil, fmt.Errorf("bus: nats listen address: %w", err)
		}
		sopts.Host, sopts.Port = host, port
	}
	if opts.LeafListen != "" {
		host, port, err := splitHostPort(opts.LeafListen)
		if err != nil {
			return nil, fmt.Errorf("bus: leaf listen address: %w", err)
		}
		sopts.LeafNode.Host, sopts.LeafNode.Port = host, port
	}
	for _, leaf := range opts.Leafs {
		u, err := url.Parse(leaf)
		if err != nil {
			return nil, fmt.Errorf("bus: leaf %q: %w", leaf, err)
		}
		sopts.LeafNode.Remotes = append(sopts.LeafNode.Remotes, &server.RemoteLeafOpts{URLs: []*url.URL{u}})
	}
	return sopts, nil
}

func splitHostPort(address string) (host string, port int, err error) {
	i := strings.LastIndexByte(address, ':')
	if i < 0 {
		return "", 0, fmt.Errorf("%q: want host:port", address)
	}
	if _, err := fmt.Sscanf(address[i+1:], "%d", &port); err != nil || port < -1 || port > 65535 {
		return "", 0, fmt.Errorf("%q: want a port from 1 to 65535, or -1 for any free one", address)
	}
	if port == 0 {
		port = -1
	}
	return strings.Trim(address[:i], "[]"), port, nil
}

func (n *Node) connection(role string) (*nats.Conn, error) {
	conn, err := nats.Connect("", nats.InProcessServer(n.server), nats.Name(string(n.id)+"/"+role),
		nats.Timeout(connectTimeout), nats.MaxReconnects(-1), nats.DrainTimeout(drainTimeout),
		nats.ErrorHandler(func(_ *nats.Conn, sub *nats.Subscription, err error) {
			subject := ""
			if sub != nil {
				subject = sub.Subject
			}
			n.log.Warn().Err(err).Str("connection", role).Str("subject", subject).Msg("bus connection error")
		}))
	if err != nil {
		return nil, fmt.Errorf("bus: in-process %s connection: %w", role, err)
	}
	return conn, nil
}

// ID names the node.
func (n *Node) ID() schemas.NodeID { return n.id }

// URL is where clients outside the process connect; "" if they cannot.
func (n *Node) URL() string {
	if addr := n.server.Addr(); addr != nil {
		return "nats://" + addr.String()
	}
	return ""
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
	return fmt.Sprintf("nats-leaf://%s:%d", v.LeafNode.Host, v.LeafNode.Port)
}

// Conn is the node's connection for publishing and subscribing beyond typed endpoints.
func (n *Node) Conn() *nats.Conn { return n.data }

// Connection opens one more in-process connection, for a client that must not share buffers with
// the actors. The caller closes it.
func (n *Node) Connection(role string) (*nats.Conn, error) { return n.connection(role) }

// Close stops the node's actors, then its connections and server. Calls that are waiting fail with
// KindUnavailable.
func (n *Node) Close() {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return
	}
	n.closed = true
	actors := n.actors
	n.mu.Unlock()
	for i := len(actors) - 1; i >= 0; i-- {
		actors[i].stop()
	}
	if n.taps != nil {
		n.taps.close()
	}
	for _, c := range []*nats.Conn{n.mirror, n.data} {
		if c != nil {
			c.Close()
		}
	}
	n.server.Shutdown()
	n.server.WaitForShutdown()
}

// WaitForService returns when an actor answers on subject, from any node, or ctx ends.
func (n *Node) WaitForService(ctx context.Context, subject string) error {
	for {
		attempt, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		_, err := n.data.RequestWithContext(attempt, subject, nil)
		cancel()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return schemas.Errorf(schemas.KindUnavailable, "wait for "+subject, "nobody answers: %v", err)
		}
		if errors.Is(err, nats.ErrNoResponders) {
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

func (n *Node) addRoute(subject string, port any) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return schemas.Errorf(schemas.KindUnavailable, "register "+subject, "the node is closed")
	}
	if _, taken := n.routes[subject]; taken {
		return schemas.Errorf(schemas.KindInvalid, "register "+subject, "an actor of this node has the subject already").
			WithHint("give the actors different instance names")
	}
	n.routes[subject] = port
	n.version.Add(1)
	return nil
}

func (n *Node) removeRoute(subject string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.routes, subject)
	n.version.Add(1)
}

func (n *Node) route(subject string) any {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.routes[subject]
}

// natsLogger sends the server's log to ours: its notices are our debug lines.
type natsLogger struct{ log zerolog.Logger }

func (l natsLogger) Noticef(f string, v ...any) { l.log.Debug().Msgf("nats: "+f, v...) }
func (l natsLogger) Warnf(f string, v ...any)   { l.log.Warn().Msgf("nats: "+f, v...) }
func (l natsLogger) Errorf(f string, v ...any)  { l.log.Error().Msgf("nats: "+f, v...) }
func (l natsLogger) Fatalf(f string, v ...any)  { l.log.Error().Msgf("nats: fatal: "+f, v...) }
func (l natsLogger) Debugf(f string, v ...any)  { l.log.Trace().Msgf("nats: "+f, v...) }
func (l natsLogger) Tracef(f string, v ...any)  { l.log.Trace().Msgf("nats: "+f, v...) }
