package link

import (
	"bufio"
	"fmt"
	"net"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo answers every line with itself.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				for s := bufio.NewScanner(c); s.Scan(); {
					fmt.Fprintln(c, s.Text())
				}
			}()
		}
	}()
	return l.Addr().String()
}

func TestLink(t *testing.T) {
	k, err := Listen("127.0.0.1:0", echo(t), 1)
	if err != nil {
		t.Fatal(err)
	}
	defer k.Close()
	c, err := net.Dial("tcp", k.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	lines := bufio.NewScanner(c)
	say := func(text string) time.Duration {
		t.Helper()
		from := time.Now()
		fmt.Fprintln(c, text)
		if !lines.Scan() || lines.Text() != text {
			t.Fatalf("got %q, %v; want %q", lines.Text(), lines.Err(), text)
		}
		return time.Since(from)
	}
	say("quick")
	k.SetDelay(20*time.Millisecond, 10*time.Millisecond)
	if took := say("late"); took < 40*time.Millisecond {
		t.Errorf("a round trip over two delays of 20 ms took %s", took)
	}
	k.SetDelay(0, 0)
	k.Freeze(true)
	time.AfterFunc(100*time.Millisecond, func() { k.Freeze(false) })
	if took := say("frozen"); took < 100*time.Millisecond {
		t.Errorf("over a frozen link an answer came after %s", took)
	}
	k.Cut()
	if lines.Scan() {
		t.Error("a line came over a broken connection")
	}
	again, err := net.Dial("tcp", k.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	fmt.Fprintln(again, "again")
	if s := bufio.NewScanner(again); !s.Scan() || s.Text() != "again" {
		t.Errorf("a new connection after a cut: got %q, %v", s.Text(), s.Err())
	}
}
