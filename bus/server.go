package bus

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe/schemas"
)

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
	if sopts.DontListen && sopts.Cluster.Port != 0 { // the server would wait for a listener for ever
		return nil, schemas.Errorf(schemas.KindInvalid, "configuration", "NATS configuration: a cluster needs a listener for clients").WithParam("nats_listen").
			WithHint("set nats_listen, as 127.0.0.1:0, instead of none")
	}
	if opts.StoreDir != "" {
		sopts.JetStream, sopts.StoreDir = true, opts.StoreDir
		if sopts.JetStreamDomain == "" { // other nodes reach it by its domain
			sopts.JetStreamDomain = JetStreamDomain
		}
	}
	if opts.LeafListen != "" {
		host, port, err := splitHostPort(opts.LeafListen)
		if err != nil {
			return nil, fmt.Errorf("bus: leaf listen address: %w", err)
		}
		if err := keyLeafs(sopts, opts); err != nil {
			return nil, err
		}
		sopts.LeafNode.Host, sopts.LeafNode.Port = host, port
	}
	for _, leaf := range opts.Leafs {
		u, err := url.Parse(leaf)
		if err != nil {
			return nil, fmt.Errorf("bus: leaf %q: %w", leaf, err)
		}
		if u.Hostname() == "" {
			return nil, fmt.Errorf("bus: leaf %q: want nats-leaf://host:port", leaf)
		}
		sopts.LeafNode.Remotes = append(sopts.LeafNode.Remotes, &server.RemoteLeafOpts{URLs: []*url.URL{u}})
	}
	// Tokens are few bytes: compressing them costs the hub more than it saves the network.
	for _, c := range leafCompressions(sopts) {
		if c.Mode == "" {
			c.Mode = server.CompressionOff
		}
	}
	if err := opts.Security.apply(sopts); err != nil {
		return nil, err
	}
	if err := checkListeners(sopts, opts.Security.Insecure); err != nil {
		return nil, err
	}
	return sopts, nil
}

// keyLeafs lets in only the one node that has a key.
func keyLeafs(sopts *server.Options, opts Options) error {
	if opts.LeafKey == "" {
		return nil
	}
	leaf := &sopts.LeafNode
	if leaf.Port != 0 || leaf.TLSConfig != nil || leaf.Username != "" || leaf.Nkey != "" || len(leaf.Users) > 0 {
		return schemas.Errorf(schemas.KindInvalid, "configuration", "NATS configuration: it has leafnodes of its own, where one process alone is to join").WithParam("nats_config").
			WithHint("leave leafnodes out of it, or do without isolate")
	}
	home, err := homeAccount(sopts, opts.Account)
	if err != nil {
		return err
	}
	leaf.Nkey, leaf.Account = opts.LeafKey, home.Name
	return nil
}

// leafCompressions are what the configuration says about compressing connections between nodes.
func leafCompressions(o *server.Options) []*server.CompressionOpts {
	list := []*server.CompressionOpts{&o.LeafNode.Compression}
	for _, r := range o.LeafNode.Remotes {
		list = append(list, &r.Compression)
	}
	return list
}

func splitHostPort(address string) (host string, port int, err error) {
	i := strings.LastIndexByte(address, ':')
	if i < 0 {
		return "", 0, fmt.Errorf("%q: want host:port", address)
	}
	if port, err = strconv.Atoi(address[i+1:]); err != nil || port < -1 || port > 65535 {
		return "", 0, fmt.Errorf("%q: want a port from 1 to 65535, or -1 for any free one", address)
	}
	if port == 0 {
		port = -1
	}
	return strings.Trim(address[:i], "[]"), port, nil
}

// ownLogin makes sure that the process can log in to its own server when the configuration asks everybody
// who they are: it adds a user with a random password. It returns the account the actors live in and how
// to connect to it.
func ownLogin(sopts *server.Options, account string) (string, []nats.Option, error) {
	if len(sopts.TrustedOperators) > 0 || len(sopts.TrustedKeys) > 0 || sopts.AuthCallout != nil {
		return "", nil, errors.New("bus: NATS configuration: operator mode and auth callout are not supported in the embedded server; use accounts and users, or attach to such a server as a leaf node")
	}
	home, err := homeAccount(sopts, account)
	if err != nil {
		return "", nil, err
	}
	if token := sopts.Authorization; token != "" {
		if strings.HasPrefix(token, "$2") {
			return "", nil, errors.New("bus: NATS configuration: authorization.token is a bcrypt hash, which the process cannot log in with; use authorization.users")
		}
		return home.Name, []nats.Option{nats.Token(token)}, nil
	}
	if sopts.Username != "" { // one user cannot stand beside a list of them
		sopts.Users = append(sopts.Users, &server.User{Username: sopts.Username, Password: sopts.Password})
		sopts.Username, sopts.Password = "", ""
	}
	if len(sopts.Users) == 0 && len(sopts.Nkeys) == 0 {
		return home.Name, nil, nil
	}
	own := &server.User{Username: "troupe-" + rand.Text(), Password: rand.Text()}
	if home.Name != server.DEFAULT_GLOBAL_ACCOUNT {
		own.Account = home
	}
	sopts.Users = append(sopts.Users, own)
	return home.Name, []nats.Option{nats.UserInfo(own.Username, own.Password)}, nil
}

// homeAccount is the account the actors live in.
func homeAccount(sopts *server.Options, name string) (*server.Account, error) {
	var names []string
	for _, a := range sopts.Accounts {
		if a.Name == name {
			return a, nil
		}
		if a.Name != sopts.SystemAccount && a.Name != server.DEFAULT_SYSTEM_ACCOUNT {
			names = append(names, a.Name)
		}
	}
	switch {
	case name != "" && name != server.DEFAULT_GLOBAL_ACCOUNT:
		return nil, fmt.Errorf("bus: NATS configuration: no account %q; there are %q", name, names)
	case name == "" && len(names) == 1:
		return homeAccount(sopts, names[0])
	case name == "" && len(names) > 1:
		return nil, fmt.Errorf("bus: NATS configuration: several accounts, %q: say in which one the actors live", names)
	}
	return &server.Account{Name: server.DEFAULT_GLOBAL_ACCOUNT}, nil
}

// natsLogger sends the server's log to ours: its notices are our debug lines.
type natsLogger struct {
	log      zerolog.Logger
	fatal    chan string // why the server cannot run
	last     *atomic.Pointer[string]
	refusals *refusals
}

// trouble is the last error that the server logged, "" if there was none.
func (l natsLogger) trouble() string {
	if s := l.last.Load(); s != nil {
		return *s
	}
	return ""
}

func (l natsLogger) Noticef(f string, v ...any) {
	text := fmt.Sprintf(f, v...)
	if strings.Contains(text, leafClosed) {
		l.last.CompareAndSwap(nil, &text) // an error says more
	}
	l.log.Debug().Msg("nats: " + text)
}
func (l natsLogger) Warnf(f string, v ...any) { l.log.Warn().Msgf("nats: "+f, v...) }
func (l natsLogger) Errorf(f string, v ...any) {
	text := fmt.Sprintf(f, v...)
	l.last.Store(&text)
	if why, refused := refusalOf(text); refused {
		if l.refusals.add(why) {
			l.log.Warn().Str("reason", why.String()).Uint64("so_far", l.refusals.counts[why].Load()).Msg("nats: " + text)
		}
		return
	}
	l.log.Error().Msg("nats: " + text)
}
func (l natsLogger) Debugf(f string, v ...any) { l.log.Trace().Msgf("nats: "+f, v...) }
func (l natsLogger) Tracef(f string, v ...any) { l.log.Trace().Msgf("nats: "+f, v...) }

// Fatalf is how the server says that it cannot listen.
func (l natsLogger) Fatalf(f string, v ...any) {
	select {
	case l.fatal <- fmt.Sprintf(f, v...):
	default: // the first reason is told already
		l.log.Error().Msgf("nats: "+f, v...)
	}
}
