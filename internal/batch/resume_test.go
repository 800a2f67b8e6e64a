package batch

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

func TestStoppedRunsGoOn(t *testing.T) {
	c := files(t, 30)
	ctx, cancel := context.WithCancel(t.Context())
	b, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	var mu sync.Mutex
	s, err := b.Run(ctx, &fakeEngine{do: func(ctx context.Context, _ string) (*Response, error) {
		mu.Lock()
		defer mu.Unlock()
		if count++; count > 10 {
			cancel()
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return ok()
	}})
	b.Close()
	if !errors.Is(err, context.Canceled) || s.Done != 10 || s.Failed != 0 {
		t.Fatalf("%+v %v", s, err)
	}
	if s, err := runBatch(t, c, &fakeEngine{}); err != nil || s.Done != 30 || s.Resumed != 10 {
		t.Errorf("%+v %v", s, err)
	}
	everyOnce(t, c, 30)
}

// TestResumeFromEveryTornByte cuts the output of a run at every byte: what a killed process may leave.
func TestResumeFromEveryTornByte(t *testing.T) {
	c := files(t, 2)
	if _, err := runBatch(t, c, &fakeEngine{}); err != nil {
		t.Fatal(err)
	}
	whole := read(t, c.Output)
	for cut := range len(whole) {
		write(t, c.Output, whole[:cut])
		left := 2 - strings.Count(whole[:cut], "\n")
		e := &fakeEngine{}
		if s, err := runBatch(t, c, e); err != nil || s.Done != 2 || len(e.requests) != left {
			t.Fatalf("cut at byte %d: %+v %v, %d requests; want %d", cut, s, err, len(e.requests), left)
		}
		everyOnce(t, c, 2)
	}
}

func TestFailedLinesAreAskedAgainOnDemand(t *testing.T) {
	c := files(t, 6)
	bad := read(t, c.Input) + "broken\n"
	write(t, c.Input, bad)
	e := &fakeEngine{do: func(_ context.Context, body string) (*Response, error) {
		if strings.ContainsAny(body, "24") {
			return &Response{Status: 500, Body: []byte(`{"error":{"message":"oops"}}`)}, nil
		}
		return ok()
	}}
	if s, err := runBatch(t, c, e); err != nil || s.Done != 7 || s.Failed != 3 {
		t.Fatalf("%+v %v", s, err)
	}
	e = &fakeEngine{}
	if s, err := runBatch(t, c, e); err != nil || s.Failed != 3 || len(e.requests) != 0 {
		t.Errorf("again: %+v %v, %d requests; want none", s, err, len(e.requests))
	}
	write(t, c.Input, strings.Replace(bad, "broken", `{"custom_id":"mended","method":"POST","url":"/v1/completions","body":{}}`, 1))
	if _, err := runBatch(t, c, e); err == nil || !strings.Contains(err.Error(), "--retry-failed") {
		t.Errorf("a mended line without --retry-failed: %v", err)
	}
	c.RetryFailed = true
	if s, err := runBatch(t, c, e); err != nil || s.Failed != 0 || s.Done != 7 || s.Retried != 3 || len(e.requests) != 3 {
		t.Errorf("--retry-failed: %+v %v, %d requests; want 3", s, err, len(e.requests))
	}
	everyOnce(t, c, 7)
}

func TestFilesThatDoNotBelongTogetherAreRefused(t *testing.T) {
	good := files(t, 3)
	if _, err := runBatch(t, good, &fakeEngine{}); err != nil {
		t.Fatal(err)
	}
	in, out := read(t, good.Input), read(t, good.Output)
	one, _, _ := strings.Cut(out, "\n")
	for name, c := range map[string]struct{ in, out, want string }{
		"changed line":   {strings.Replace(in, `{"n":1}`, `{"n":9}`, 1), out, "line 2 of"},
		"lines left out": {in[:strings.Index(in, "\n")+1], out, "has no such line"},
		"swapped lines":  {strings.Replace(strings.Replace(strings.Replace(in, "c1", "cX", 1), "c2", "c1", 1), "cX", "c2", 1), out, "has changed"},
		"other file":     {in, "something else\n", "out:1 is not a line of a batch's output"},
		"other JSON":     {in, `{"id":"x","response":null,"error":{}}` + "\n", "is not a line"},
		"neither":        {in, strings.Replace(one, `"response":{`, `"reply":{`, 1) + "\n", "is not a line"},
		"twice":          {in, out + one + "\n", "more than once"},
		"huge number":    {in, strings.Replace(out, "batch_req_1_", "batch_req_99999999999999999999_", 1), "is not a line"},
	} {
		cfg := files(t, 0)
		write(t, cfg.Input, c.in)
		write(t, cfg.Output, c.out)
		e := &fakeEngine{}
		if _, err := runBatch(t, cfg, e); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
		if read(t, cfg.Output) != c.out || len(e.requests) != 0 {
			t.Errorf("%s: the output was changed or something was asked", name)
		}
	}
	for name, c := range map[string]struct {
		cfg  Config
		want string
	}{
		"no input":    {Config{Input: good.Input + "x", Output: good.Output}, "no such file"},
		"directory":   {Config{Input: filepath.Dir(good.Input), Output: good.Output}, "not a regular file"},
		"same file":   {Config{Input: good.Input, Output: good.Input}, "is the input"},
		"output dir":  {Config{Input: good.Input, Output: filepath.Dir(good.Input)}, "is a directory"},
		"device":      {Config{Input: good.Input, Output: os.DevNull}, "not a regular file"},
		"window":      {Config{Input: good.Input, Output: good.Output, Window: -1}, "window is -1"},
		"line length": {Config{Input: good.Input, Output: good.Output, LineBytesMax: -1}, "line-bytes-max is -1"},
	} {
		if _, err := Open(c.cfg); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", name, err, c.want)
		}
	}
	if read(t, good.Input) != in {
		t.Error("the input was changed")
	}
}

func TestTwoRunsDoNotShareAnOutput(t *testing.T) {
	c := files(t, 3)
	b, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c); err == nil || !strings.Contains(err.Error(), "in use by another run") {
		t.Errorf("a second run: %v", err)
	}
	b.Close()
	if b, err = Open(c); err != nil {
		t.Fatal(err)
	}
	b.Close()
}

func TestOrderedRefusesAnOutputThatIsNot(t *testing.T) {
	c := files(t, 4)
	if _, err := runBatch(t, c, &fakeEngine{}); err != nil {
		t.Fatal(err)
	}
	rows := strings.SplitAfter(read(t, c.Output), "\n")
	slices.SortFunc(rows, strings.Compare) // ids sort like lines here; "" comes first
	c.Ordered = true
	write(t, c.Output, rows[1]+rows[2])
	if s, err := runBatch(t, c, &fakeEngine{}); err != nil || s.Resumed != 2 {
		t.Errorf("the first two of four: %+v %v", s, err)
	}
	for name, text := range map[string]string{"gap": rows[1] + rows[3], "swapped": rows[2] + rows[1]} {
		write(t, c.Output, text)
		if _, err := runBatch(t, c, &fakeEngine{}); err == nil || !strings.Contains(err.Error(), "not in the order") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
