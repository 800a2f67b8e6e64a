package gpu

import (
	"fmt"
	"strings"
	"testing"
)

func panicText(t *testing.T, f func()) (text string) {
	t.Helper()
	defer func() {
		r := recover()
		if r == nil {
			t.Fatal("no panic")
		}
		text = fmt.Sprint(r)
	}()
	f()
	return ""
}

func wantAll(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, p := range parts {
		if !strings.Contains(text, p) {
			t.Errorf("%q is missing from:\n%s", p, text)
		}
	}
}

func traced(t *testing.T) {
	t.Helper()
	was := tracing.Load()
	TraceLeaks(true)
	t.Cleanup(func() { TraceLeaks(was) })
}

func TestTableLifecycle(t *testing.T) {
	var table Table[string]
	a := table.Put("a", 10, "", F32, 2, 3)
	b := table.Put("b", 5, "", I32, 4)
	if got := table.Get(a) + table.Get(b); got != "ab" {
		t.Fatalf("payloads %q", got)
	}
	if got := table.Stats(); got != (MemoryStats{Tensors: 2, Bytes: 15}) {
		t.Fatalf("stats %+v", got)
	}
	if got := table.Get(a.Slice(1, 2)); got != "a" {
		t.Fatalf("a slice resolves to %q", got)
	}
	if got := table.Free(a); got != "a" {
		t.Fatalf("Free returned %q", got)
	}
	c := table.Put("c", 1, "", F32, 1)
	if c.ID != a.ID || c.Generation == a.Generation {
		t.Fatalf("slot reuse: %v after %v", c, a)
	}
	panicText(t, func() { table.Get(a) })
	var live []string
	for _, p := range table.All() {
		live = append(live, p)
	}
	if fmt.Sprint(live) != "[c b]" {
		t.Fatalf("live %v", live)
	}
}

func TestTableMisuseNamesTensorAndStacks(t *testing.T) {
	traced(t)
	var table Table[int]
	a := table.Put(1, 8, "lm_head", BF16, 7, 9)
	table.Free(a)
	for verb, misuse := range map[string]func(){
		"use of freed":  func() { table.Get(a) },
		"free of freed": func() { table.Free(a) },
	} {
		wantAll(t, panicText(t, misuse), verb, "bf16[7 9]", `"lm_head"`, "created at", "freed at",
			"TestTableMisuseNamesTensorAndStacks", "handles_test.go")
	}
	wantAll(t, panicText(t, func() { table.Get(Tensor{}) }), "never allocated")
	wantAll(t, panicText(t, func() { table.Get(NewTensor(99, 1, F32, 1)) }), "never allocated")
}

func TestTableLeaks(t *testing.T) {
	var table Table[int]
	if err := table.Leaks(); err != nil {
		t.Fatal(err)
	}
	a := table.Put(1, 8, "", F32, 2)
	wantAll(t, table.Leaks().Error(), "1 tensors (8 bytes)", "f32[2]", "gpu.TraceLeaks(true)")
	table.Free(a)
	traced(t)
	table.Put(1, 8, "q_proj", F32, 2)
	wantAll(t, table.Leaks().Error(), "q_proj", "created at", "TestTableLeaks")
	for range 40 {
		table.Put(1, 1, "", F32, 1)
	}
	wantAll(t, table.Leaks().Error(), "41 tensors (48 bytes)", "9 more")
}

func BenchmarkTableGet(b *testing.B) {
	var table Table[*int]
	x := table.Put(new(int), 8, "", F32, 2)
	b.ReportAllocs()
	for b.Loop() {
		table.Get(x)
	}
}
