package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
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
		"actors is cook; expected ga": {"attach", "nats-leaf://127.0.0.1:1", "--actors", "cook"},
	} {
		if _, stderr, code := command(t, args...); code == 0 || !strings.Contains(stderr, want) {
			t.Errorf("%q: exit code %d, %s; want %q", args, code, stderr, want)
		}
	}
}
