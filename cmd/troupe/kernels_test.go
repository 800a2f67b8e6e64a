package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"

	"github.com/troupe-engine/troupe"
	"github.com/troupe-engine/troupe/schemas"
)

func TestKernelsCommands(t *testing.T) {
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen, opts.Device, opts.EnableKernelSubmit = "127.0.0.1:0", "127.0.0.1:0", "cpu", true
	engine, err := troupe.Open(t.Context(), opts, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	opts.EnableKernelSubmit = false
	plain, err := troupe.Open(t.Context(), opts, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	source := filepath.Join(t.TempDir(), "k.cu")
	if err := os.WriteFile(source, []byte("KERNEL f(RMSNormArgs a) {}"), 0o600); err != nil {
		t.Fatal(err)
	}
	huge := filepath.Join(t.TempDir(), "huge.cu")
	if err := os.WriteFile(huge, make([]byte, 300<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args     []string
		url      string
		code     int
		contains string
	}{
		{[]string{"kernels"}, engine.NATSURL(), 0, "rmsnorm\n    go "},
		{[]string{"kernels", "list", "matmul"}, engine.NATSURL(), 0, "    go "},
		{[]string{"kernels", "choose", "matmul", "go"}, engine.NATSURL(), 0, "  * go "},
		{[]string{"kernels", "list", "matmul", "--json"}, engine.NATSURL(), 0, `"active": true`},
		{[]string{"kernels", "choose", "matmul", "quantum"}, engine.NATSURL(), exitFailed, "no implementation"},
		{[]string{"kernels", "list", "teleport"}, engine.NATSURL(), exitFailed, "teleport"},
		{[]string{"kernels", "choose", "teleport", "go"}, engine.NATSURL(), exitFailed, "teleport"},
		{[]string{"kernels", "choose", "matmul"}, engine.NATSURL(), exitUsage, "accepts 2 arg"},
		{[]string{"kernels", "submit", "rmsnorm", source, "--entry", "f"}, engine.NATSURL(), exitFailed, "takes no kernels in source"},
		{[]string{"kernels", "submit", "rmsnorm", source, "--entry", "f"}, plain.NATSURL(), exitFailed, "--enable-kernel-submit"},
		{[]string{"kernels", "submit", "rmsnorm", source + "x"}, engine.NATSURL(), exitUsage, "no such file"},
		{[]string{"kernels", "submit", "rmsnorm", huge}, engine.NATSURL(), exitUsage, "longer than"},
	} {
		var out, errs strings.Builder
		code := run(t.Context(), append(c.args, "--nats", c.url), &out, &errs)
		if text := out.String() + errs.String(); code != c.code || !strings.Contains(text, c.contains) {
			t.Errorf("troupe %s: code %d\n%s\nwant %d with %s", strings.Join(c.args, " "), code, text, c.code, c.contains)
		}
		if !strings.HasPrefix(out.String(), "{") {
			fits(t, out.String())
		}
	}
}

// What a submission came to is told with its numbers; the compiler's messages as they are, but for what a terminal would obey.
func TestPrintSubmitted(t *testing.T) {
	long := strings.Repeat("very ", 40) + "wrong"
	for want, r := range map[string]*schemas.SubmitKernelReply{
		"act_mul simple: slower\n":                   (*schemas.SubmitKernelReply)(nil).Example(),
		"8     14336  0.004  3.40  2.60     1.308\n": (*schemas.SubmitKernelReply)(nil).Example(),
		"mine.cu(2): error\n":                        {Op: "rope", Name: "x", Verdict: schemas.KernelDoesNotCompile, Log: "mine.cu(2): error\x1b\n"},
		"very very":                                  {Op: "rope", Name: "x", Verdict: schemas.KernelWrong, Reason: long, Cases: []schemas.KernelCase{{Rows: 7, Cols: 9, Fault: long, Error: 3e38, Allowed: 0.1}}},
	} {
		var out strings.Builder
		if err := printSubmitted(&out, r); err != nil || !strings.Contains(out.String(), want) || strings.Contains(out.String(), "\x1b") {
			t.Errorf("%v\n%s\nwant %q", err, out.String(), want)
		}
		fits(t, out.String())
	}
}
