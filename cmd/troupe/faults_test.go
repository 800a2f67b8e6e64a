package main

import (
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
)

func TestFaultsCommands(t *testing.T) {
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen, opts.EnableFaults = "127.0.0.1:0", "127.0.0.1:0", true
	engine, err := troupe.Open(t.Context(), opts, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	opts.EnableFaults = false
	plain, err := troupe.Open(t.Context(), opts, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for _, c := range []struct {
		args     []string
		url      string
		code     int
		contains string
	}{
		{[]string{"faults"}, engine.NATSURL(), 0, "no faults on"},
		{[]string{"faults", "set", "--seed", "7", "slow_device inf.v1.compute.execute.> p=0.5", "drop inf.v1.node.report.*"}, engine.NATSURL(), 0, "faults of seed 7"},
		{[]string{"faults"}, engine.NATSURL(), 0, "slow_device inf.v1.compute.execute.> p=0.5 delay=20ms"},
		{[]string{"faults", "--json"}, engine.NATSURL(), 0, `"on": true`},
		{[]string{"faults", "set", "melt inf.v1.>"}, engine.NATSURL(), exitUsage, "kind is"},
		{[]string{"faults", "set"}, engine.NATSURL(), exitUsage, "requires at least 1 arg"},
		{[]string{"faults", "off"}, engine.NATSURL(), 0, "no faults on"},
		{[]string{"faults", "--node", "nobody"}, engine.NATSURL(), exitFailed, "--enable-faults"},
		{[]string{"faults"}, plain.NATSURL(), exitFailed, "--enable-faults"},
	} {
		var out, errs strings.Builder
		code := run(t.Context(), append(c.args, "--nats", c.url), &out, &errs)
		if text := out.String() + errs.String(); code != c.code || !strings.Contains(text, c.contains) {
			t.Errorf("troupe %s: code %d\n%s\nwant %d with %s", strings.Join(c.args, " "), code, text, c.code, c.contains)
		}
		for _, line := range strings.Split(out.String(), "\n") {
			if len([]rune(line)) > columnsMax && !strings.Contains(c.args[len(c.args)-1], "json") {
				t.Errorf("troupe %s: %d columns: %s", strings.Join(c.args, " "), len([]rune(line)), line)
			}
		}
	}
}
