package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/spf13/cobra"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/schemas"
)

const leafPort = "7422"

func newKeysCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "keys --host NAME --dir DIR", Short: "Make keys, certificates and configurations for several machines.", Args: cobra.NoArgs,
		Long: "Make what several machines need to know each other: an authority, certificates, an\n" +
			"nkey for each role, the hub's NATS configuration with what each role may do, and a\n" +
			"configuration for each command. Files that exist are not touched.",
		Example: "  troupe keys --host hub.example.org --dir keys\n" +
			"  troupe serve --config keys/hub.yaml\n" +
			"  troupe attach --config keys/replica.yaml --model ./my-model"}
	hosts := cmd.Flags().StringSlice("host", nil, "names and addresses of the hub, separated by commas; the first is what others call")
	dir := cmd.Flags().String("dir", "keys", "where to write")
	at := cmd.Flags().String("at", "", "where the files will lie on the machines that use them; default: --dir")
	tenants := cmd.Flags().StringSlice("tenant", nil, "names of tenants, separated by commas: clients that see nothing of each other")
	valid := cmd.Flags().Duration("valid", bus.KeysValidDefault, "how long certificates are valid")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if len(*hosts) == 0 {
			return usageError{errors.New("expected --host: what other machines call the hub, as hub.example.org")}
		}
		if *valid < time.Hour {
			return usageError{fmt.Errorf("--valid is %s; expected at least 1h", *valid)}
		}
		if *at == "" {
			absolute, err := filepath.Abs(*dir)
			if err != nil {
				return err
			}
			*at = absolute
		}
		files, err := keyFiles(bus.KeysConfig{Hosts: *hosts, Dir: *at, Valid: *valid, Tenants: *tenants})
		if err != nil {
			return err
		}
		if err := writeNew(*dir, files); err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%d files in %s. Keep them secret; give each machine only what its part needs:\n"+
			"  hub       troupe serve --config %s/hub.yaml\n"+
			"  replica   troupe attach --config %s/replica.yaml --model MODEL   (ca.pem, replica*)\n"+
			"            or in two parts, --config %s/scheduler.yaml and %s/compute.yaml\n"+
			"  gateway   troupe attach --config %s/gateway.yaml --model MODEL   (ca.pem, gateway*)\n"+
			"  policies  programs that --policy nats:NAME or --routing nats:NAME asks   (ca.pem, policy*)\n"+
			"  people    troupe nodes --nats tls://%s:4222 --keys %s            (ca.pem, admin* or observer*)\n"+
			"  clients   troupe run --nats tls://%s:4222 --keys DIR …           (ca.pem, client* or one tenant-NAME*)\n",
			len(files), *dir, *at, *at, *at, *at, *at, (*hosts)[0], *at, (*hosts)[0])
		return nil
	}
	return cmd
}

// keyFiles are the keys and a configuration for each command that uses them.
func keyFiles(cfg bus.KeysConfig) (map[string][]byte, error) {
	hosts, at := cfg.Hosts, cfg.Dir
	here := []string{"localhost", "127.0.0.1", "::1"} // for commands on the hub itself
	cfg.Hosts = append(slices.Clone(hosts), here...)
	files, err := bus.MakeKeys(cfg)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(append(hosts, at), func(s string) bool { return strings.ContainsAny(s, "\"\n\\") }) {
		return nil, usageError{fmt.Errorf("--host or --at has a quotation mark, a backslash or a line break: %q, %q", hosts, at)}
	}
	files["hub.yaml"] = fmt.Appendf(nil, "# The node that others join.\nleaf: \"0.0.0.0:%s\"\nnats_config: \"%s/hub.conf\"\n", leafPort, at)
	for _, role := range []string{"replica", "scheduler", "compute", "gateway", "tokenizer"} {
		files[role+".yaml"] = fmt.Appendf(nil, "# A node with a %[1]s.\nattach: \"nats-leaf://%[2]s:%[3]s\"\nactors: %[1]s\ncredentials: \"%[4]s/%[1]s.nk\"\ntls_ca: \"%[4]s/ca.pem\"\ntls_cert: \"%[4]s/%[1]s.pem\"\ntls_key: \"%[4]s/%[1]s-key.pem\"\n",
			role, hosts[0], leafPort, at)
	}
	return files, nil
}

// writeNew writes files that only their owner may read, all or, if one is there, none.
func writeNew(dir string, files map[string][]byte) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return schemas.Errorf(schemas.KindInvalid, "keys", "%v", err).WithParam("dir")
	}
	for name := range files {
		if _, err := os.Lstat(filepath.Join(dir, name)); !errors.Is(err, fs.ErrNotExist) {
			return schemas.Errorf(schemas.KindInvalid, "keys", "%s is there already", filepath.Join(dir, name)).WithParam("dir").
				WithHint("keys of another run do not fit: choose another --dir, or remove them all")
		}
	}
	for name, content := range files {
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err == nil {
			_, err = f.Write(content)
			err = errors.Join(err, f.Close())
		}
		if err != nil {
			return schemas.Errorf(schemas.KindInvalid, "keys", "%v", err).WithParam("dir")
		}
	}
	return nil
}

// natsKeys are the options of a client that shows a key of troupe keys. The role is the most powerful that dir has.
func natsKeys(dir string) ([]nats.Option, error) {
	roles := []string{"admin", "observer", "client"}
	tenants, _ := filepath.Glob(filepath.Join(dir, bus.TenantPrefix+"*.nk")) // an error means a bad pattern: no tenants
	if len(tenants) == 1 {                                                   // of several, nobody says which
		roles = append(roles, strings.TrimSuffix(filepath.Base(tenants[0]), ".nk"))
	}
	for _, role := range roles {
		file := func(ext string) string { return filepath.Join(dir, role+ext) }
		if _, err := os.Stat(file(".nk")); err != nil {
			continue
		}
		nkey, err := nats.NkeyOptionFromSeed(file(".nk"))
		if err != nil {
			return nil, schemas.Errorf(schemas.KindInvalid, "keys", "%s: %v", file(".nk"), err).WithParam("keys")
		}
		if _, err := tls.LoadX509KeyPair(file(".pem"), file("-key.pem")); err != nil {
			return nil, schemas.Errorf(schemas.KindInvalid, "keys", "%v", err).WithParam("keys")
		}
		return []nats.Option{nkey, nats.RootCAs(filepath.Join(dir, "ca.pem")), nats.ClientCert(file(".pem"), file("-key.pem")), nats.CustomInboxPrefix(bus.InboxPrefix + role)}, nil
	}
	return nil, schemas.Errorf(schemas.KindInvalid, "keys", "%s has the keys of no admin, observer or client, and not those of one tenant", dir).WithParam("keys").WithHint("`troupe keys` makes them")
}
