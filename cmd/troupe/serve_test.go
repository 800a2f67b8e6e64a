package main

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

// serving runs a server in this process and says where it is reached; code gets its exit code.
func serving(t *testing.T, ctx context.Context, flags ...string) (b *banner, code chan int, stderr *bytes.Buffer) {
	t.Helper()
	ready := make(chan struct{}, 1)
	out := &watched{seen: "\n}\n", found: func() {
		select {
		case ready <- struct{}{}:
		default:
		}
	}}
	code, stderr = make(chan int, 1), &bytes.Buffer{}
	go func() {
		code <- run(ctx, append([]string{"serve", "--json", "--http", "127.0.0.1:0", "--nats-listen", "127.0.0.1:0", "--log-level", "error"}, flags...), out, stderr)
	}()
	select {
	case <-ready:
	case c := <-code:
		t.Fatalf("exit code %d: %s", c, stderr.String())
	case <-time.After(time.Minute):
		t.Fatal("it does not serve")
	}
	b = &banner{}
	if err := json.Unmarshal([]byte(out.String()), b); err != nil {
		t.Fatal(err)
	}
	return b, code, stderr
}

func TestServeEndsWithACodeOfItsOwnWhenTheDeviceIsLost(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	b, code, stderr := serving(t, ctx, "--enable-faults")
	var out, errs strings.Builder
	if c := run(ctx, []string{"faults", "set", "lose_device inf.v1.compute.execute.>", "--nats", b.NATS}, &out, &errs); c != 0 {
		t.Fatalf("%d: %s", c, errs.String())
	}
	resp, err := http.Post(b.HTTP+"/v1/completions", "application/json", strings.NewReader(`{"prompt":"x","max_tokens":3}`))
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("the request: %s", resp.Status)
	}
	select {
	case c := <-code:
		if c != exitDeviceLost || !strings.Contains(stderr.String(), "device_lost") {
			t.Errorf("exit code %d: %s", c, stderr.String())
		}
	case <-time.After(20 * time.Second):
		t.Error("it does not end")
	}
}
