package chat

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode"

	"github.com/troupe-engine/troupe/schemas"
)

// screenTest is a session on a terminal that is made of pipes.
type screenTest struct {
	t    *testing.T
	keys *io.PipeWriter
	mu   sync.Mutex
	out  bytes.Buffer
	seen int
	done chan error
}

func (s *screenTest) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out.Write(p)
}

// wait returns once text has appeared since the last wait.
func (s *screenTest) wait(text string) {
	s.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		s.mu.Lock()
		all := s.out.String()
		s.mu.Unlock()
		if i := strings.Index(all[s.seen:], text); i >= 0 {
			s.seen += i + len(text)
			return
		}
		if time.Now().After(deadline) {
			s.t.Fatalf("no %q in %q", text, all[s.seen:])
		}
	}
}

func (s *screenTest) press(text string) {
	s.t.Helper()
	if _, err := io.WriteString(s.keys, text); err != nil {
		s.t.Fatal(err)
	}
}

func (s *screenTest) ended() error {
	s.t.Helper()
	select {
	case err := <-s.done:
		return err
	case <-time.After(10 * time.Second):
		s.t.Fatal("the session goes on")
		return nil
	}
}

func startScreen(ctx context.Context, t *testing.T, c Client) *screenTest {
	r, w := io.Pipe()
	t.Cleanup(func() { _ = w.Close() })
	s := &screenTest{t: t, keys: w, done: make(chan error, 1)}
	go func() {
		s.done <- RunScreen(ctx, c, Conversation{}, Screen{Streams: Streams{In: r, Out: s, Clean: clean}, Dim: plain,
			Size: func() (int, int, error) { return 80, 24, nil }})
	}()
	return s
}

// slowClient answers until it is stopped.
func slowClient() (*fakeClient, chan struct{}) {
	stopped := make(chan struct{}, 1)
	return &fakeClient{do: func(ctx context.Context, _ []Message, _ schemas.GenerationParams, text func(string)) (*Reply, error) {
		for ctx.Err() == nil {
			text("on and ")
			time.Sleep(time.Millisecond)
		}
		stopped <- struct{}{}
		return nil, ctx.Err()
	}}, stopped
}

func TestCtrlCStopsAnAnswerAndThenLeaves(t *testing.T) {
	c, stopped := slowClient()
	s := startScreen(t.Context(), t, c)
	s.wait(prompt)
	s.press("hello\r")
	s.wait("on and on and")
	s.press("\x03")
	<-stopped // the request is cancelled
	s.wait("(stopped)")
	s.wait(prompt)
	s.press("half a line\x03") // gives up the line only
	s.wait(prompt)
	s.press("and again\r")
	s.wait("on and on and")
	if want := "u:hello|a:on and"; !strings.HasPrefix(c.said(), want) || !strings.HasSuffix(c.said(), "|u:and again") {
		t.Errorf("sent %s", c.said())
	}
	s.press("\x03")
	s.wait("(stopped)")
	s.wait(prompt)
	s.press("\x03")
	if err := s.ended(); err != nil {
		t.Error(err)
	}
}

func TestTheSecondCtrlCLeavesAnAnswerThatDoesNotStop(t *testing.T) {
	stuck := make(chan struct{})
	defer close(stuck)
	s := startScreen(t.Context(), t, &fakeClient{do: func(_ context.Context, _ []Message, _ schemas.GenerationParams, text func(string)) (*Reply, error) {
		text("x")
		<-stuck
		return nil, nil
	}})
	s.press("hello\r")
	s.wait("\x1b[?2004lx") // what follows the line
	s.press("\x03")
	s.press("\x03")
	if err := s.ended(); err != nil {
		t.Error(err)
	}
}

func TestLeavingATerminal(t *testing.T) {
	for name, keys := range map[string]string{"Ctrl-D": "\x04", "/quit": "/quit\r", "Ctrl-C twice": "\x03\x03"} {
		s := startScreen(t.Context(), t, &fakeClient{})
		s.wait(prompt)
		s.press(keys)
		if err := s.ended(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	s := startScreen(ctx, t, &fakeClient{})
	s.wait(prompt)
	cancel()
	if err := s.ended(); !errors.Is(err, context.Canceled) {
		t.Errorf("a signal: %v", err)
	}
}

func TestATerminalStaysSafe(t *testing.T) {
	const evil = "a\x1b]0;title\x07b\x1b[2J\x9b31mc\rd\x08\x00e\n"
	s := startScreen(t.Context(), t, &fakeClient{do: func(_ context.Context, _ []Message, _ schemas.GenerationParams, text func(string)) (*Reply, error) {
		for i := range len(evil) {
			text(evil[i : i+1])
		}
		return nil, errors.New("broke \x1b[2J off")
	}})
	s.wait(prompt)
	s.mu.Lock()
	before := s.out.Len()
	s.mu.Unlock()
	s.press("hi\r")
	s.wait("broke [2J off")
	s.mu.Lock()
	shown := s.out.String()[before:]
	s.mu.Unlock()
	shown = strings.NewReplacer("\x1b[?2004l", "", "\x1b[?2004h", "").Replace(shown) // ours: whether pastes are marked
	if i := strings.IndexFunc(shown, func(r rune) bool { return unicode.IsControl(r) && r != '\r' && r != '\n' }); i >= 0 || strings.Contains(shown, "c\rd") {
		t.Errorf("%q", shown)
	}
}

func TestPastedLinesAreOneMessage(t *testing.T) {
	c := &fakeClient{}
	s := startScreen(t.Context(), t, c)
	s.wait(prompt)
	s.press("\x1b[200~one\rtwo\r\x1b[201~three\r")
	s.wait("1\r\n")
	if c.said() != "u:one\ntwo\nthree" {
		t.Errorf("sent %q", c.said())
	}
}

func TestWhatIsTypedDuringAnAnswerComesNext(t *testing.T) {
	release := make(chan struct{})
	c := &fakeClient{}
	c.do = func(_ context.Context, messages []Message, _ schemas.GenerationParams, text func(string)) (*Reply, error) {
		if len(messages) == 1 {
			text("first")
			<-release
		}
		text("done")
		return &Reply{}, nil
	}
	s := startScreen(t.Context(), t, c)
	s.wait(prompt)
	s.press("one\r")
	s.wait("first")
	s.press("two\r")
	close(release)
	s.wait("done")
	s.wait("done")
	if c.said() != "u:one|a:firstdone|u:two" {
		t.Errorf("sent %q", c.said())
	}
	s.press("\x1b[A\r") // the history has it
	s.wait("done")
	if !strings.HasSuffix(c.said(), "|u:two|a:done|u:two") {
		t.Errorf("sent %q", c.said())
	}
}
