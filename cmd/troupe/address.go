package main

import (
	"cmp"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/pflag"

	"github.com/troupe-engine/troupe/schemas"
)

const connectTimeMax = 3 * time.Second

// What --nats means: of an engine that must run already, or of one to use instead of an own.
const (
	natsDoc       = "NATS URL of the engine: of any of its nodes"
	natsRemoteDoc = "use the engine at this NATS URL, as nats://127.0.0.1:4222"
)

// natsURLDefault is where commands find a running engine; NATS_URL is the nats command's.
var natsURLDefault = cmp.Or(os.Getenv("TROUPE_NATS"), os.Getenv("NATS_URL"), "nats://127.0.0.1:4222")

// engineAddress is where a command finds a running engine, and who it is there.
type engineAddress struct{ url, keys string }

// addNATS gives a command that asks a running engine the flags --nats and --keys.
func addNATS(f *pflag.FlagSet, url, doc string) *engineAddress {
	a := &engineAddress{}
	f.StringVar(&a.url, "nats", url, doc)
	a.addKeys(f)
	return a
}

func (a *engineAddress) addKeys(f *pflag.FlagSet) {
	f.StringVar(&a.keys, "keys", os.Getenv("TROUPE_KEYS"), "directory with ca.pem and the files of the role admin, observer or client, or of a tenant; see troupe keys")
}

// options are how the command shows who it is.
func (a *engineAddress) options() ([]nats.Option, error) {
	if a.keys == "" {
		return nil, nil
	}
	return natsKeys(a.keys)
}

// connect joins the bus of a running engine as a client.
func (a *engineAddress) connect(command string, more ...nats.Option) (*nats.Conn, error) {
	own, err := a.options()
	if err != nil {
		return nil, err
	}
	options := append([]nats.Option{nats.Name("troupe " + command), nats.Timeout(connectTimeMax), nats.MaxReconnects(0)}, own...)
	conn, err := nats.Connect(a.url, append(options, more...)...)
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrSecureConnRequired), err != nil && strings.Contains(err.Error(), "tls"):
		return nil, schemas.Errorf(schemas.KindUnauthorized, "connect", "%s: %v", shorten(a.url, 60), err).WithParam("keys").
			WithHint("the engine wants to know who connects: name the directory with your keys with --keys (see `troupe keys`)")
	case err != nil:
		return nil, schemas.Errorf(schemas.KindUnavailable, "connect", "no NATS server at %s: %v", shorten(a.url, 60), err).WithParam("nats").
			WithHint("is `troupe serve` running there? name another with --nats")
	}
	return conn, nil
}
