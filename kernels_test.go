package troupe

import (
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/micro"

	"github.com/troupe-engine/troupe/schemas"
)

// Kernels are chosen over HTTP and NATS while requests run, with rules that wait for steps among them: all requests end, and
// every choice takes effect.
func TestKernelsAreChosenLive(t *testing.T) {
	e := openEngine(t, func(o *Options) { o.Device = "cpu" })
	client := clientOf(t, e)
	names := []string{}
	status, raw := debug(t, e, http.MethodGet, "/debug/compute/kernels", "")
	list := &schemas.KernelsReply{}
	if err := json.Unmarshal(raw, list); err != nil || status != http.StatusOK {
		t.Fatalf("%d %s: %v", status, raw, err)
	}
	for _, k := range list.Kernels {
		if k.Op == "matmul" {
			names = append(names, k.Name)
		}
	}
	if len(names) == 0 || len(list.Kernels) < 10 {
		t.Fatalf("%s", raw)
	}
	var asking sync.WaitGroup
	for range 3 {
		asking.Go(func() {
			for range 4 {
				complete(t, e, `{"prompt": "Once upon a time", "max_tokens": 24, "temperature": 0, "frequency_penalty": 0.5}`)
			}
		})
	}
	for i := range 40 {
		name := names[i%len(names)]
		body := `{"op": "matmul", "select": "` + name + `"}`
		if i%2 == 0 {
			_, raw = debug(t, e, http.MethodPost, "/debug/compute/kernels", body)
		} else {
			raw = askNATS(t, client, schemas.Kernels.Subject(""), body).Data
		}
		reply := &schemas.KernelsReply{}
		if err := json.Unmarshal(raw, reply); err != nil || len(reply.Kernels) != len(names) {
			t.Fatalf("%s: %v", raw, err)
		}
		for _, k := range reply.Kernels {
			if k.Active != (k.Name == name) {
				t.Errorf("%s was chosen: %+v", name, k)
			}
		}
	}
	asking.Wait()
	for _, body := range []string{`{"op": "matmul", "select": "best"}`, `{"op": "teleport"}`} {
		if status, raw := debug(t, e, http.MethodPost, "/debug/compute/kernels", body); status != http.StatusNotFound {
			t.Errorf("%s: %d %s", body, status, raw)
		}
	}
}

// Without enable_kernel_submit, and on a CPU, kernels are refused over HTTP and NATS with what to do about it; sizes that no
// kernel has are refused before.
func TestKernelsAreRefused(t *testing.T) {
	good := string(marshal(t, (*schemas.SubmitKernelRequest)(nil).Example()))
	for hint, enabled := range map[string]bool{"--enable-kernel-submit": false, "--device cuda": true} {
		e := openEngine(t, func(o *Options) { o.Device, o.EnableKernelSubmit = "cpu", enabled })
		for _, body := range []string{good, "{}"} {
			if status, raw := debug(t, e, http.MethodPost, "/debug/compute/submit_kernel", body); status != http.StatusUnprocessableEntity || !strings.Contains(string(raw), hint) {
				t.Errorf("%d %s; want 422 with %s", status, raw, hint)
			}
			reply := askNATS(t, clientOf(t, e), schemas.SubmitKernel.Subject(replicaInstance), body)
			if code := reply.Header.Get(micro.ErrorCodeHeader); code != "422" || !strings.Contains(string(reply.Data), hint) {
				t.Errorf("%s %s; want 422 with %s", code, reply.Data, hint)
			}
		}
		if status, raw := debug(t, e, http.MethodPost, "/debug/compute/submit_kernel", `{"op": ["rope"]}`); status != http.StatusBadRequest {
			t.Errorf("%d %s", status, raw)
		}
	}
}

func TestAdminKeysOption(t *testing.T) {
	e := openEngine(t, func(o *Options) { o.Device, o.EnableKernelSubmit, o.AdminKeys = "cpu", true, "sk-admin-key" })
	for key, want := range map[string]int{"sk-admin-key": http.StatusUnprocessableEntity, "sk-other-key": http.StatusUnauthorized, "": http.StatusUnauthorized} {
		req, err := http.NewRequest(http.MethodPost, e.HTTPURL()+"/debug/compute/submit_kernel", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Authorization", "Bearer "+key)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%q: %d, want %d", key, resp.StatusCode, want)
		}
	}
	opts := DefaultOptions()
	opts.AdminKeys = "short"
	if err := opts.Validate(); err == nil {
		opened, err := Open(t.Context(), opts, e.log, nil)
		if err == nil {
			_ = opened.Close()
			t.Error("a short admin key was taken")
		} else if !strings.Contains(err.Error(), "admin_keys") {
			t.Errorf("%v", err)
		}
	}
}
