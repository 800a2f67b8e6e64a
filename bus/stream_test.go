package bus

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/troupe-engine/troupe/schemas"
)

const streamSubject = "inf.v1.test.stream"

// streamTo serves streamSubject with write and opens a stream there.
func streamTo(t *testing.T, n *Node, header nats.Header, write func(w *StreamWriter)) *StreamReader {
	t.Helper()
	sub, err := n.data.Subscribe(streamSubject, func(m *nats.Msg) {
		w, err := n.NewStreamWriter(m, "id1")
		if err != nil {
			t.Error(err)
			return
		}
		go write(w)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = sub.Unsubscribe() })
	if err := n.data.FlushTimeout(10 * time.Second); err != nil { // before a request comes on another connection
		t.Fatal(err)
	}
	conn, err := n.Connection("reader")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	r, err := OpenStream(conn, streamSubject, []byte(`{}`), header)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	return r
}

func TestStreamDeliversAllInOrder(t *testing.T) {
	const messages = 5 * StreamWindow
	r := streamTo(t, startNode(t, Options{}), nil, func(w *StreamWriter) {
		for w.Sequence() <= messages {
			if err := w.Send(context.Background(), fmt.Append(nil, w.Sequence())); err != nil {
				t.Error(err)
			}
		}
		if err := w.End(nil); err != nil {
			t.Error(err)
		}
	})
	ctx := within(t, 10*time.Second)
	for i := 1; i <= messages; i++ {
		body, err := r.Next(ctx)
		if err != nil || string(body) != strconv.Itoa(i) {
			t.Fatalf("message %d: %q, %v", i, body, err)
		}
	}
	if _, err := r.Next(ctx); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
	if r.ID != "id1" {
		t.Errorf("the id is %q", r.ID)
	}
}

func TestStreamEndsWithTheWholeError(t *testing.T) {
	sent := &schemas.Error{Kind: schemas.KindNoMemory, Op: "load", Actor: "compute.replica0", Request: 0x100, Step: 3,
		Param: "blocks", Detail: "12 GiB\nof 8", Hint: "fewer", RetryAfterMs: 5}
	r := streamTo(t, startNode(t, Options{}), nil, func(w *StreamWriter) {
		if err := w.Send(context.Background(), []byte("x")); err != nil {
			t.Error(err)
		}
		if err := w.End(sent); err != nil {
			t.Error(err)
		}
	})
	ctx := within(t, 5*time.Second)
	if _, err := r.Next(ctx); err != nil {
		t.Fatal(err)
	}
	_, err := r.Next(ctx)
	if got := wantKind(t, err, schemas.KindNoMemory); !reflect.DeepEqual(got, sent) {
		t.Errorf("got  %#v\nwant %#v", got, sent)
	}
}

func TestStreamNoticesThatItsReceiverLeft(t *testing.T) {
	for name, header := range map[string]nats.Header{"while sending": {HeaderCredit: {"1000000"}}, "while it waits for credit": {}} {
		sendError, ended := make(chan error, 1), make(chan error, 1)
		started := make(chan struct{})
		n := startNode(t, Options{})
		sub, err := n.data.Subscribe(streamSubject, func(m *nats.Msg) {
			if h := header.Get(HeaderCredit); h != "" {
				m.Header.Set(HeaderCredit, h)
			}
			w, err := n.NewStreamWriter(m, "id1")
			if err != nil {
				t.Error(err)
				return
			}
			go func() {
				for {
					if w.Sequence() == StreamWindow {
						close(started)
					}
					if err := w.Send(context.Background(), []byte("x")); err != nil {
						sendError <- err
						ended <- w.End(nil)
						return
					}
				}
			}()
		})
		if err != nil {
			t.Fatal(err)
		}
		r, err := OpenStream(n.data, streamSubject, []byte(`{}`), nil)
		if err != nil {
			t.Fatal(err)
		}
		<-started
		r.Close()
		select {
		case err := <-sendError:
			if !errors.Is(err, ErrReceiverGone) {
				t.Errorf("%s: %v", name, err)
			}
			if err := <-ended; err != nil {
				t.Errorf("%s: the end: %v", name, err)
			}
		case <-time.After(3 * time.Second):
			t.Fatalf("%s: the sender did not notice", name)
		}
		if subs := n.data.NumSubscriptions(); subs > 2 { // ours and the connection's own for replies
			t.Errorf("%s: %d subscriptions are left", name, subs)
		}
		_ = sub.Unsubscribe()
	}
}

func TestStreamWaitsForCreditSoLong(t *testing.T) {
	n := startNode(t, Options{})
	inbox, err := n.data.SubscribeSync("_INBOX.test")
	if err != nil {
		t.Fatal(err)
	}
	defer inbox.Unsubscribe()
	if err := n.data.Flush(); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := &StreamWriter{node: n, inbox: "_INBOX.test", id: "id1", credit: &credit{arrived: make(chan struct{}, 1)}}
		began := time.Now()
		wantKind(t, w.waitCredit(context.Background()), schemas.KindTimeout)
		if took := time.Since(began); took != StreamStallMax {
			t.Errorf("it waited %s", took)
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		wantKind(t, w.waitCredit(ctx), schemas.KindTimeout)
		time.AfterFunc(time.Second, func() { w.credit.add(2) })
		for range 2 {
			if err := w.waitCredit(context.Background()); err != nil {
				t.Error(err)
			}
		}
		if w.credit.take() {
			t.Error("more credit than was granted")
		}
		for range 10_000 { // a flood
			w.credit.add(1 << 31)
		}
		w.credit.add(-5)
		if left := w.credit.left.Load(); left != StreamCreditMax {
			t.Errorf("a flood of grants left %d", left)
		}
	})
}

func TestStreamRefusals(t *testing.T) {
	n := startNode(t, Options{})
	for name, m := range map[string]*nats.Msg{
		"no reply subject": {Subject: "x"},
		"credit 0":         {Reply: "r", Header: nats.Header{HeaderCredit: {"0"}}},
		"credit junk":      {Reply: "r", Header: nats.Header{HeaderCredit: {"many"}}},
		"credit overflow":  {Reply: "r", Header: nats.Header{HeaderCredit: {"99999999999999"}}},
	} {
		_, err := n.NewStreamWriter(m, "id1")
		if wantKind(t, err, schemas.KindInvalid); t.Failed() {
			t.Fatal(name)
		}
	}
	_, err := n.NewStreamWriter(&nats.Msg{Reply: "r", Header: nats.Header{HeaderCredit: {"1"}}}, "*")
	wantKind(t, err, schemas.KindInvalid)

}

func TestStreamFailures(t *testing.T) {
	n := startNode(t, Options{})
	r, err := OpenStream(n.data, "inf.v1.nobody.home", nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	_, err = r.Next(within(t, 5*time.Second))
	wantKind(t, err, schemas.KindUnavailable)

	lossy := streamTo(t, n, nil, func(w *StreamWriter) {
		err := w.Send(context.Background(), make([]byte, PayloadBytesMax+1))
		if e := wantKind(t, err, schemas.KindTooLarge); !strings.Contains(e.Detail, strconv.Itoa(PayloadBytesMax)) {
			t.Errorf("got %v", e)
		}
		w.sent++ // a message that got lost
		if err := w.End(nil); err != nil {
			t.Error(err)
		}
	})
	_, err = lossy.Next(within(t, 5*time.Second))
	if e := wantKind(t, err, schemas.KindUnavailable); !strings.Contains(e.Detail, "0 of 1") {
		t.Errorf("got %v", e)
	}

}

func TestStreamThatStaysSilent(t *testing.T) {
	n := startNode(t, Options{})
	conn, err := n.Connection("short")
	if err != nil {
		t.Fatal(err)
	}
	silent := streamTo(t, n, nil, func(*StreamWriter) {})
	_, err = silent.Next(within(t, 50*time.Millisecond))
	wantKind(t, err, schemas.KindTimeout)
	closed, err := OpenStream(conn, streamSubject, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	_, err = closed.Next(within(t, time.Second))
	wantKind(t, err, schemas.KindUnavailable)
}
