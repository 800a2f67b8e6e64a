package bus

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nkeys"

	"github.com/troupe-engine/troupe/schemas"
)

// Security is how a node and others know each other. The zero value is for one machine alone.
type Security struct {
	// Insecure lets the node listen beyond this machine without TLS and credentials: whoever reaches the port
	// controls the engine, and reads what everybody asks of it.
	Insecure bool
	CA       string // PEM file with whom to trust; both ends of a connection between nodes are checked
	Cert     string // PEM file with who we are …
	Key      string // … and the key to it
	Seed     string // file with the nkey seed to join others with, or …
	SeedText string // … the seed itself
	// JoinTimeMax is how long Start waits until the node has joined its Leafs; 0 does not wait. Refused credentials
	// and certificates end the wait at once.
	JoinTimeMax time.Duration
}

const (
	seedBytesMax = 256
	tlsTimeout   = 5 * time.Second
)

// apply gives the connections between nodes their TLS and credentials.
func (s *Security) apply(o *server.Options) error {
	config, err := s.tls()
	if err != nil {
		return err
	}
	seed, err := s.seed()
	if err != nil {
		return err
	}
	if config != nil && o.LeafNode.Port != 0 && o.LeafNode.TLSConfig == nil {
		own := config.Clone()
		own.ClientAuth = tls.RequireAndVerifyClientCert
		o.LeafNode.TLSConfig, o.LeafNode.TLSTimeout = own, tlsTimeout.Seconds()
	}
	for _, r := range o.LeafNode.Remotes {
		r.Nkey = seed
		if config != nil {
			r.TLS, r.TLSConfig, r.TLSTimeout = true, config.Clone(), tlsTimeout.Seconds()
		}
	}
	return nil
}

// tls is nil if nothing is said about it.
func (s *Security) tls() (*tls.Config, error) {
	bad := func(param, format string, args ...any) error {
		return schemas.Errorf(schemas.KindInvalid, "TLS", format, args...).WithParam(param).WithHint("`troupe keys` makes certificates")
	}
	if s.CA == "" && s.Cert == "" && s.Key == "" {
		return nil, nil
	}
	c := &tls.Config{MinVersion: tls.VersionTLS13}
	if s.CA != "" {
		pem, err := os.ReadFile(s.CA)
		if err != nil {
			return nil, bad("tls_ca", "tls_ca: %v", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, bad("tls_ca", "%s has no certificate", s.CA)
		}
		c.ClientCAs = c.RootCAs
	}
	if s.Cert != "" || s.Key != "" {
		pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
		if err != nil {
			return nil, bad("tls_cert", "tls_cert: %v", err)
		}
		if now := time.Now(); now.After(pair.Leaf.NotAfter) || now.Before(pair.Leaf.NotBefore) {
			return nil, bad("tls_cert", "%s is valid from %s to %s only", s.Cert, pair.Leaf.NotBefore.Format(time.DateTime), pair.Leaf.NotAfter.Format(time.DateTime))
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

func (s *Security) seed() (string, error) {
	if s.SeedText != "" {
		return s.SeedText, nil
	}
	if s.Seed == "" {
		return "", nil
	}
	bad := func(format string, args ...any) error {
		return schemas.Errorf(schemas.KindInvalid, "credentials", format, args...).WithParam("credentials").WithHint("`troupe keys` makes them")
	}
	info, err := os.Stat(s.Seed)
	if err != nil {
		return "", bad("credentials: %v", err)
	}
	if info.Size() > seedBytesMax {
		return "", bad("%s has %d bytes; a seed has 58", s.Seed, info.Size())
	}
	if info.Mode().Perm()&0o037 != 0 { // a group may read it: containers get secrets that way
		return "", bad("%s is open to others (mode %04o): chmod 600 it", s.Seed, info.Mode().Perm())
	}
	raw, err := os.ReadFile(s.Seed)
	if err != nil {
		return "", bad("credentials: %v", err)
	}
	seed := strings.TrimSpace(string(raw))
	pair, err := nkeys.FromSeed([]byte(seed))
	if err != nil {
		return "", bad("%s is no nkey seed: %v", s.Seed, err)
	}
	pair.Wipe()
	return seed, nil
}

// checkListeners refuses what listens beyond this machine and takes everybody.
func checkListeners(o *server.Options, insecure bool) error {
	if insecure {
		return nil
	}
	known := len(o.Users)+len(o.Nkeys) > 0 || o.Username != "" || o.Authorization != ""
	leaf, ws, mqtt := &o.LeafNode, &o.Websocket, &o.MQTT
	for _, l := range []struct {
		param, what, host string
		port              int
		tls, known        bool
	}{
		{"nats_listen", "NATS", o.Host, portOf(o), o.TLSConfig != nil, known},
		{"leaf", "other nodes", leaf.Host, leaf.Port, leaf.TLSConfig != nil, known || leaf.Username != "" || leaf.Nkey != "" || len(leaf.Users) > 0},
		{"nats_config", "the NATS cluster", o.Cluster.Host, o.Cluster.Port, o.Cluster.TLSConfig != nil, o.Cluster.Username != ""},
		{"nats_config", "the NATS gateway", o.Gateway.Host, o.Gateway.Port, o.Gateway.TLSConfig != nil, o.Gateway.Username != ""},
		{"nats_config", "websockets", ws.Host, ws.Port, ws.TLSConfig != nil, known || ws.Username != "" || ws.Token != ""},
		{"nats_config", "MQTT", mqtt.Host, mqtt.Port, mqtt.TLSConfig != nil, known || mqtt.Username != "" || mqtt.Token != ""},
		{"nats_config", "NATS's monitor", o.HTTPHost, max(o.HTTPPort, o.HTTPSPort), false, false},
	} {
		if l.port == 0 || isLoopback(l.host) || l.tls && l.known {
			continue
		}
		lacks := "has neither TLS nor credentials"
		switch {
		case l.tls:
			lacks = "has no credentials"
		case l.known:
			lacks = "has no TLS"
		}
		return schemas.Errorf(schemas.KindInvalid, "listen", "the address for %s, %s, is reachable from other machines and %s",
			l.what, net.JoinHostPort(l.host, fmt.Sprint(l.port)), lacks).WithParam(l.param).
			WithHint("`troupe keys` makes keys and a configuration; --insecure-network listens all the same, and then whoever reaches the port controls the engine")
	}
	return nil
}

// portOf is where clients connect; 0 if nowhere.
func portOf(o *server.Options) int {
	if o.DontListen {
		return 0
	}
	if o.Port == 0 {
		return server.DEFAULT_PORT
	}
	return o.Port
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// leafClosed is what the server logs when the other end of a leaf connection has closed it without a word.
const leafClosed = "Leafnode connection closed"

const joinPoll = 5 * time.Millisecond

// join waits until the node is connected to those it is to join. What the server logs says why it is not.
func (n *Node) join(trouble func() string) error {
	limit := n.opts.Security.JoinTimeMax
	if limit == 0 || len(n.opts.Leafs) == 0 {
		return nil
	}
	for end := time.Now().Add(limit); n.server.NumLeafNodes() < len(n.opts.Leafs); time.Sleep(joinPoll) {
		why := trouble()
		refused := refusal(why)
		if s := &n.opts.Security; strings.Contains(why, leafClosed) && s.CA != "" && s.Cert == "" {
			refused = errors.New("the other node closed the connection: it wants a certificate (tls_cert, tls_key)")
		}
		if refused == nil && time.Now().Before(end) {
			continue
		}
		e := schemas.Errorf(schemas.KindUnavailable, "join", "%s: %s", strings.Join(n.opts.Leafs, ", "), why).WithParam("attach").
			WithHint("is `troupe serve --leaf` running there?")
		switch {
		case refused != nil:
			e.Kind = schemas.KindInvalid
			e = e.WithHint("%v", refused)
		case why == "":
			e.Detail = fmt.Sprintf("%s: no answer within %s", strings.Join(n.opts.Leafs, ", "), limit)
		}
		return e
	}
	return nil
}

// refusal tells what to do about trouble that waiting does not mend, nil if waiting may.
func refusal(why string) error {
	switch {
	case strings.Contains(why, "Authorization Violation"), strings.Contains(why, "authentication"):
		return errors.New("the other node does not know these credentials: set credentials (an nkey seed) to one of its configuration's")
	case strings.Contains(why, "x509"), strings.Contains(why, "certificate"), strings.Contains(why, "tls:"), strings.Contains(why, "TLS handshake"):
		return errors.New("the certificates do not fit: tls_ca, tls_cert and tls_key must be of the other node's authority, and the address a name in its certificate")
	case strings.Contains(why, "Permissions Violation"):
		return errors.New("the other node's configuration does not let this role do that")
	}
	return nil
}
