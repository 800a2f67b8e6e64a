package batch

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// fakeEngine answers with what do returns, and watches how it is used.
type fakeEngine struct {
	do func(ctx context.Context, body string) (*Response, error)
	up func() bool // whether Info answers; nil: always

	mu       sync.Mutex
	running  int
	most     int
	requests map[string]int // by body
}

func (e *fakeEngine) Ask(ctx context.Context, _ string, body []byte) (*Response, error) {
	e.mu.Lock()
	e.running++
	e.most = max(e.most, e.running)
	if e.requests == nil {
		e.requests = map[string]int{}
	}
	e.requests[string(body)]++
	e.mu.Unlock()
	defer func() {
		e.mu.Lock()
		e.running--
		e.mu.Unlock()
	}()
	if e.do == nil {
		return &Response{Status: 200, Body: []byte(`{"usage":{"completion_tokens":2}}`)}, nil
	}
	return e.do(ctx, string(body))
}

func (e *fakeEngine) Info(context.Context) (*schemas.EngineInfo, error) {
	if e.up != nil && !e.up() {
		return nil, errors.New("refused")
	}
	return &schemas.EngineInfo{SequencesMax: 8, WaitingMax: 8}, nil
}

func (*fakeEngine) Close() {}

func ok() (*Response, error) { return &Response{Status: 200, Body: []byte(`{}`)}, nil }

// files makes a batch of n lines whose bodies are {"n":0}, {"n":1} …
func files(t *testing.T, n int) Config {
	t.Helper()
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"custom_id":"c%d","method":"POST","url":"/v1/completions","body":{"n":%d}}`+"\n", i, i)
	}
	dir := t.TempDir()
	c := Config{Input: filepath.Join(dir, "in"), Output: filepath.Join(dir, "out")}
	write(t, c.Input, b.String())
	return c
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	raw, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// ids lists the custom_ids of an output, which must be whole.
func ids(t *testing.T, c Config) []string {
	t.Helper()
	var list []string
	for _, l := range strings.Split(strings.TrimSuffix(read(t, c.Output), "\n"), "\n") {
		var r struct {
			CustomID string `json:"custom_id"`
		}
		if err := json.Unmarshal([]byte(l), &r); err != nil {
			t.Fatalf("%q: %v", l, err)
		}
		list = append(list, r.CustomID)
	}
	return list
}

func runBatch(t *testing.T, c Config, e Transport) (*Summary, error) {
	t.Helper()
	b, err := Open(c)
	if err != nil {
		return nil, err
	}
	defer b.Close()
	return b.Run(t.Context(), e)
}

func everyOnce(t *testing.T, c Config, n int) {
	t.Helper()
	got := ids(t, c)
	slices.Sort(got)
	if len(got) != n || len(slices.Compact(got)) != n {
		t.Errorf("%d lines, some more than once; want each of %d once", len(got), n)
	}
}

func TestWindowIsFullAndNeverExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := files(t, 100)
		e := &fakeEngine{do: func(context.Context, string) (*Response, error) { time.Sleep(time.Second); return ok() }}
		began := time.Now()
		s, err := runBatch(t, c, e)
		if err != nil || s.Done != 100 || s.Failed != 0 {
			t.Fatalf("%+v %v", s, err)
		}
		// A batch of 8 and half of one waiting: 12 at once, 100 lines in 9 rounds.
		if took := time.Since(began); e.most != 12 || took > 9*time.Second+time.Millisecond {
			t.Errorf("%d at once in %s; want 12 in 9 s", e.most, took)
		}
		everyOnce(t, c, 100)
	})
}

func TestOrderedOutput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := files(t, 60)
		c.Ordered, c.Window = true, 4
		e := &fakeEngine{do: func(_ context.Context, body string) (*Response, error) {
			if body == `{"n":0}` {
				time.Sleep(time.Minute) // all others wait for it, as far as there is room
			}
			time.Sleep(time.Duration(len(body)*int(body[len(body)-2]%7)) * time.Millisecond)
			return ok()
		}}
		if _, err := runBatch(t, c, e); err != nil {
			t.Fatal(err)
		}
		for i, id := range ids(t, c) {
			if id != fmt.Sprintf("c%d", i) {
				t.Fatalf("line %d is %s", i, id)
			}
		}
		everyOnce(t, c, 60)
	})
}

func TestABusyEngineIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := files(t, 50)
		var e *fakeEngine
		e = &fakeEngine{do: func(_ context.Context, body string) (*Response, error) {
			e.mu.Lock()
			busy := e.running > 3 || e.requests[body] < 2
			e.mu.Unlock()
			if busy {
				return &Response{Status: 429, RetryAfter: time.Second, Body: []byte(`{"error":{}}`)}, nil
			}
			time.Sleep(10 * time.Millisecond)
			return ok()
		}}
		s, err := runBatch(t, c, e)
		if err != nil || s.Done != 50 || s.Failed != 0 {
			t.Errorf("%+v %v; want all done and nothing failed", s, err)
		}
	})
}

func TestARequestThatNeverFitsFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := files(t, 3)
		s, err := runBatch(t, c, &fakeEngine{do: func(_ context.Context, body string) (*Response, error) {
			if body == `{"n":1}` {
				return &Response{Status: 429, Body: []byte(`{"error":{"message":"full"}}`)}, nil
			}
			return ok()
		}})
		if err != nil || s.Failed != 1 || s.Failures[0].Reason != "HTTP 429" {
			t.Errorf("%+v %v", s, err)
		}
	})
}

func TestAnEngineThatRestartsLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := files(t, 40)
		down := time.Now().Add(2 * time.Second)
		up := func() bool { now := time.Now(); return now.Before(down) || now.After(down.Add(time.Minute)) }
		s, err := runBatch(t, c, &fakeEngine{up: up, do: func(context.Context, string) (*Response, error) {
			time.Sleep(800 * time.Millisecond)
			if !up() {
				return nil, errors.New("connection refused")
			}
			return ok()
		}})
		if err != nil || s.Failed != 0 || s.Done != 40 {
			t.Errorf("%+v %v", s, err)
		}
		everyOnce(t, c, 40)
	})
}

func TestALineThatBreaksItsConnectionFailsAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := files(t, 5)
		s, err := runBatch(t, c, &fakeEngine{do: func(_ context.Context, body string) (*Response, error) {
			switch body {
			case `{"n":1}`:
				return nil, errors.New("connection reset")
			case `{"n":2}`:
				return &Response{Status: 503, Body: []byte(`{"error":{"message":"lost on the way"}}`)}, nil
			case `{"n":3}`:
				return nil, errTooLarge
			}
			return ok()
		}})
		want := []Failure{{"HTTP 503", 1}, {CodeConnection, 1}, {CodeInvalidResponse, 1}}
		if err != nil || !slices.Equal(s.Failures, want) {
			t.Errorf("%+v %v; want %v", s, err, want)
		}
	})
}

func TestSlowAnswersTimeOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := files(t, 2)
		s, err := runBatch(t, c, &fakeEngine{do: func(ctx context.Context, body string) (*Response, error) {
			if body == `{"n":1}` {
				<-ctx.Done()
				return nil, errors.New("broken pipe")
			}
			return ok()
		}})
		if err != nil || s.Failed != 1 || s.Failures[0].Reason != CodeTimeout || s.Seconds != RequestTimeDefault.Seconds() {
			t.Errorf("%+v %v", s, err)
		}
	})
}

func TestAnEngineThatIsGoneStopsTheRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := files(t, 40)
		began := time.Now()
		gone := func() bool { return time.Since(began) > 5*time.Second }
		e := &fakeEngine{up: func() bool { return !gone() }, do: func(context.Context, string) (*Response, error) {
			time.Sleep(2 * time.Second)
			if gone() {
				return nil, errors.New("connection refused")
			}
			return ok()
		}}
		s, err := runBatch(t, c, e)
		if !errors.Is(err, schemas.Errorf(schemas.KindUnavailable, "", "")) || s.Done != 24 || s.Failed != 0 {
			t.Fatalf("%+v %v; want two rounds of 12 done", s, err)
		}
		if took := time.Since(began); took < PatienceDefault || took > PatienceDefault+30*time.Second {
			t.Errorf("it gave up after %s; want about %s", took, PatienceDefault)
		}
		again := &fakeEngine{}
		if s, err := runBatch(t, c, again); err != nil || s.Done != 40 || s.Resumed != 24 || len(again.requests) != 16 {
			t.Errorf("going on: %+v %v, %d requests", s, err, len(again.requests))
		}
		everyOnce(t, c, 40)
	})
}

func TestRepeatedIDsAndLongLines(t *testing.T) {
	c := files(t, 3)
	text := read(t, c.Input)
	write(t, c.Input, text+text+"\n  \n"+`{"custom_id":"long","x":"`+strings.Repeat("y", 3000)+"\"}\n")
	c.LineBytesMax = 1000
	e := &fakeEngine{}
	s, err := runBatch(t, c, e)
	if err != nil || s.Lines != 7 || s.Failed != 4 || len(e.requests) != 3 {
		t.Fatalf("%+v %v, %d requests", s, err, len(e.requests))
	}
	if want := []Failure{{CodeDuplicate, 3}, {CodeTooLarge, 1}}; !slices.Equal(s.Failures, want) {
		t.Errorf("%v; want %v", s.Failures, want)
	}
	if out := read(t, c.Output); !strings.Contains(out, `line 5: custom_id \"c1\" is that of line 2 already`) || !strings.Contains(out, `"line":9`) {
		t.Errorf("%s", out)
	}
}

func TestAFullDiskStopsTheRun(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skip("there is no /dev/full here")
	}
	c := files(t, 50)
	b, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = b.output.Close()
	b.output = full
	defer b.Close()
	if s, err := b.Run(t.Context(), &fakeEngine{}); err == nil || !strings.Contains(err.Error(), "no space left") || s.Done != 0 {
		t.Errorf("%+v %v", s, err)
	}
}

func TestRequestsInMemoryAreBounded(t *testing.T) {
	c := files(t, 0)
	var b bytes.Buffer
	c.inFlightBytesMax = 1 << 20
	size := c.inFlightBytesMax / 8
	for i := range 20 {
		fmt.Fprintf(&b, `{"custom_id":"c%d","method":"POST","url":"/v1/completions","body":{"n":"%s"}}`+"\n", i, strings.Repeat("x", size))
	}
	write(t, c.Input, b.String())
	e := &fakeEngine{do: func(context.Context, string) (*Response, error) { time.Sleep(time.Millisecond); return ok() }}
	if s, err := runBatch(t, c, e); err != nil || s.Done != 20 || e.most > 7 {
		t.Errorf("%+v %v, %d at once; want at most 7", s, err, e.most)
	}
}
