package link

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestWire moves bytes between two namespaces over a wire that loses and shuffles frames: TCP makes up for it, and
// nothing passes a cut.
func TestWire(t *testing.T) {
	hosts := []string{fmt.Sprintf("wire%da", os.Getpid()), fmt.Sprintf("wire%db", os.Getpid())}
	w := NewWire(1)
	defer w.Close()
	for i, h := range hosts {
		if out, err := exec.Command("ip", "netns", "add", h).CombinedOutput(); err != nil {
			t.Skipf("network namespaces cannot be made here (root and ip are needed): %s", out)
		}
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", h).Run() })
		if err := w.Attach(h); err != nil {
			t.Skip(err)
		}
		for _, args := range []string{fmt.Sprintf("addr add 10.79.0.%d/24 dev eth0", i+1), "link set eth0 up"} {
			if out, err := exec.Command("ip", append([]string{"-n", h}, strings.Fields(args)...)...).CombinedOutput(); err != nil {
				t.Fatalf("ip %s: %s", args, out)
			}
		}
	}
	var l net.Listener
	within(t, hosts[0], func() (err error) { l, err = net.Listen("tcp", "10.79.0.1:7000"); return err })
	var served sync.WaitGroup
	served.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			served.Go(func() { defer c.Close(); _, _ = io.Copy(c, c) })
		}
	})
	dial := func() (c net.Conn, err error) {
		within(t, hosts[1], func() error { c, err = net.DialTimeout("tcp", "10.79.0.1:7000", 2*time.Second); return nil })
		return c, err
	}
	c, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	w.Set(0.05, time.Millisecond, 5*time.Millisecond)
	sent := strings.Repeat("0123456789", 20_000)
	go func() { _, _ = io.WriteString(c, sent) }()
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != sent {
		t.Errorf("what comes back over a bad wire differs: %v", err)
	}
	if passed, lost := w.Frames(); lost == 0 || passed < 5*lost {
		t.Errorf("%d frames passed, %d were lost, of which 5 %% should be", passed, lost)
	}
	w.Set(0, 0, 0)
	w.Cut(hosts[0], true)
	if c, err := dial(); err == nil {
		c.Close()
		t.Error("a connection crosses a cut wire")
	}
	w.Cut(hosts[0], false)
	_, _ = c.Close(), l.Close() // what was open ends with them
	served.Wait()
}

// within runs do on a thread in a namespace, which ends afterwards.
func within(t *testing.T, namespace string, do func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		space, err := os.Open("/run/netns/" + namespace)
		if err == nil {
			err = unix.Setns(int(space.Fd()), unix.CLONE_NEWNET)
			space.Close()
		}
		if err == nil {
			err = do()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
