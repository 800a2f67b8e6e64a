package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"

	"github.com/troupe-engine/troupe"
)

// pty is a terminal of 80 columns with a process on it.
type pty struct {
	t      *testing.T
	cmd    *exec.Cmd
	master *os.File
	mu     sync.Mutex
	out    bytes.Buffer
	seen   int
	before *unix.Termios
}

func startPTY(t *testing.T, args ...string) *pty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	fd := int(master.Fd())
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: 24, Col: columnsMax}); err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close(); _ = master.Close() })
	p := &pty{t: t, cmd: process(t, args...), master: master}
	if p.before, err = unix.IoctlGetTermios(fd, unix.TCGETS); err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = slave, slave, slave
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := master.Read(buffer)
			p.mu.Lock()
			p.out.Write(buffer[:n])
			p.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return p
}

func (p *pty) wait(text string) {
	p.t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		all := p.out.String()
		p.mu.Unlock()
		if i := strings.Index(all[p.seen:], text); i >= 0 {
			p.seen += i + len(text)
			return
		}
		if time.Now().After(deadline) {
			_ = p.cmd.Process.Kill()
			p.t.Fatalf("no %q in %q", text, all[p.seen:])
		}
	}
}

func (p *pty) press(text string) {
	p.t.Helper()
	if _, err := p.master.WriteString(text); err != nil {
		p.t.Fatal(err)
	}
}

// end waits for the process and checks that the terminal is as it was.
func (p *pty) end(code int) {
	p.t.Helper()
	kill := time.AfterFunc(30*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer kill.Stop()
	_ = p.cmd.Wait() // the exit code tells
	if got := p.cmd.ProcessState.ExitCode(); got != code {
		p.t.Errorf("exit code %d; want %d: %s", got, code, p.out.String())
	}
	after, err := unix.IoctlGetTermios(int(p.master.Fd()), unix.TCGETS)
	if err != nil || *after != *p.before {
		p.t.Errorf("the terminal was left in another mode: %+v, before %+v, %v", after, p.before, err)
	}
}

func TestChatOnATerminal(t *testing.T) {
	opts := troupe.DefaultOptions()
	opts.HTTP, opts.NATSListen, opts.LogLevel = "127.0.0.1:0", "none", "warn"
	engine, err := troupe.Open(t.Context(), opts, zerolog.Nop(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	p := startPTY(t, "chat", "--server", endless(t, engine.HTTPURL()), "--temperature", "0")
	p.wait(">>> ")
	p.press("/set max_tokens=4\r")
	p.wait("temperature=0 max_tokens=4")
	p.press("Hello\x7f\x7f\x7f\x7f\x7fTell me a story.\r")
	p.wait("reached the limit of tokens)")
	p.wait(">>> ")
	p.press("\x1b[A") // the last line again
	p.wait("Tell me a story.")
	p.press("\r")
	p.wait("reached the limit of tokens)")
	p.press("/set max_tokens=1800\r")
	p.wait("max_tokens=1800")
	p.wait(">>> ")
	p.press("Tell me a very long story.\r")
	p.wait("\x1b[?2004l")
	time.Sleep(20 * time.Millisecond)
	p.press("\x03")
	p.wait("(stopped)")
	waitIdle(t, engine.HTTPURL())
	p.press("\x03")
	p.end(0)
}

// endless passes requests on to an engine whose answers then do not end by themselves.
func endless(t *testing.T, base string) string {
	t.Helper()
	target, err := url.Parse(base)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if len(body) > 0 {
			body = bytes.Replace(body, []byte("{"), []byte(`{"ignore_eos":true,`), 1)
		}
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestChatGivesTheTerminalBackAtASignal(t *testing.T) {
	p := startPTY(t, "chat")
	p.wait(">>> ")
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.end(1)
	p = startPTY(t, "chat")
	p.wait(">>> ")
	p.press("\x04")
	p.end(0)
}

func TestBatchProgressOnATerminal(t *testing.T) {
	in, out := batchInput(t, 1500, 16, nil)
	p := startPTY(t, "batch", in, "-o", out)
	p.wait("\r\x1b[K")
	p.wait("/1,500 lines · ")
	p.wait("tok/s")
	p.wait("answered  1,500 of 1,500 lines")
	p.end(0)
}
