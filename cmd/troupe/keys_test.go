package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
)

func TestKeysAreWrittenOnceAndForTheirOwner(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	stdout, stderr, code := command(t, "keys", "--host", "127.0.0.1,hub", "--dir", dir)
	if code != 0 || !strings.Contains(stdout, "troupe serve --config "+dir+"/hub.yaml") {
		t.Fatalf("exit code %d: %s%s", code, stdout, stderr)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if info, err := e.Info(); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, %v", e.Name(), info.Mode(), err)
		}
	}
	before, err := os.ReadFile(dir + "/replica.nk")
	if err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := command(t, "keys", "--host", "hub", "--dir", dir); code != 1 || !strings.Contains(stderr, "is there already") {
		t.Errorf("a second run: exit code %d: %s", code, stderr)
	}
	if after, err := os.ReadFile(dir + "/replica.nk"); err != nil || string(after) != string(before) {
		t.Error("a key was overwritten")
	}
}

func TestMistakesWithNodesAreNamed(t *testing.T) {
	dir := t.TempDir()
	for want, args := range map[string][]string{
		"expected --host":             {"keys"},
		"expected at least 1h":        {"keys", "--host", "x", "--valid", "1s"},
		"a quotation mark":            {"keys", "--host", `x\y`, "--dir", filepath.Join(dir, "x")},
		"expected one address":        {"attach", "hub:7422"},
		"(attach, leaf)":              {"attach"},
		"has the keys of no admin":    {"nodes", "--keys", dir},
		"expected the name of one":    {"drain"},
		"tls_ca":                      {"attach", "nats-leaf://127.0.0.1:1", "--tls-ca", dir + "/nowhere"},
		"routing policy \"nosuch\"":   {"serve", "--leaf", "127.0.0.1:0", "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--routing", "nosuch"},
		"--insecure-network listens":  {"serve", "--leaf", "0.0.0.0:0", "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0"},
		"serves all the same":         {"serve", "--http", "0.0.0.0:0", "--nats-listen", "127.0.0.1:0"},
		"a tenant is \"A/b\"":         {"keys", "--host", "x", "--dir", filepath.Join(dir, "y"), "--tenant", "A/b"},
		"actors is cook; expected ga": {"attach", "nats-leaf://127.0.0.1:1", "--actors", "cook"},
	} {
		if _, stderr, code := command(t, args...); code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%q: exit code %d, %s; want %q", args, code, stderr, want)
		}
	}
}

// Every command that asks an engine over NATS can show who it is.
func TestCommandsTakeKeys(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	if _, stderr, code := command(t, "keys", "--host", "127.0.0.1", "--dir", dir, "--tenant", "a"); code != 0 {
		t.Fatal(stderr)
	}
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen, opts.NATSConfig, opts.Leaf, opts.Node, opts.Threads, opts.KVBlocks = "none", "127.0.0.1:0", dir+"/hub.conf", "127.0.0.1:0", "hub", 1, 256
	engine, err := troupe.Open(t.Context(), opts, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	hub := strings.Replace(engine.NATSURL(), "nats://", "tls://", 1)
	for _, args := range [][]string{
		{"nodes"}, {"run", "Once", "--max-tokens", "2"}, {"policy"}, {"health", "--node", "hub"},
		{"record", "--to", filepath.Join(t.TempDir(), "x.troupe"), "--for", "100ms"},
		{"bench", "serve", "--transport", "nats", "--num-prompts", "2", "--random-output-len", "2", "--random-input-len", "4"},
		{"drain", "hub"}, {"drain", "--resume", "hub"},
	} {
		flag := "--nats"
		if args[0] == "bench" {
			flag = "--nats-url"
		}
		args = append(args, flag, hub)
		if _, stderr, code := command(t, append(args, "--keys", dir)...); code != 0 {
			t.Errorf("%q: exit code %d: %s", args, code, stderr)
		}
		if _, stderr, code := command(t, args...); code == 0 || args[0] != "bench" && !strings.Contains(stderr, "--keys") {
			t.Errorf("%q without keys: exit code %d: %s", args, code, stderr)
		}
	}
}

// What is decided for all nodes is made, shown and taken back; nodes whose keys may not decide are refused.
func TestClusterDecisions(t *testing.T) {
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen, opts.Leaf, opts.Store, opts.Threads, opts.KVBlocks = "none", "127.0.0.1:0", "127.0.0.1:0", t.TempDir(), 1, 256
	engine, err := troupe.Open(t.Context(), opts, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"", 0, "nothing is decided"},
		{"routing nosuch", 2, "choose one of least-loaded, prefix"},
		{"routing nats:x?limit=1h", 2, "up to 1s"},
		{"routing", 2, "expected a policy or --reset"},
		{"routing least-loaded", 0, "routing"},
		{"place a troupe-tiny", 0, "place a"},
		{"place a", 2, "or a node and --reset"},
		{"place a.b troupe-tiny", 1, "the key is"},
		{"", 0, "kept on 1 server"},
		{"place a --reset", 0, "least-loaded"},
		{"--json", 0, `"config.routing": "least-loaded"`},
	} {
		stdout, stderr, code := command(t, append(strings.Fields("cluster "+c.args), "--nats", engine.NATSURL())...)
		if code != c.code || !strings.Contains(stdout+stderr, c.want) {
			t.Errorf("troupe cluster %s: exit code %d, %s%s; want %q", c.args, code, stdout, stderr, c.want)
		}
	}
}
