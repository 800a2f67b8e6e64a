package troupe

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/troupe-engine/troupe/bus"
	"github.com/troupe-engine/troupe/internal/defaultmodel"
	"github.com/troupe-engine/troupe/schemas"
)

// spoilFinalNorm makes every logit of the model in dir NaN. All bits set are NaN in every float format.
func spoilFinalNorm(t *testing.T, dir string) {
	t.Helper()
	path := filepath.Join(dir, weights)
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	size := binary.LittleEndian.Uint64(raw)
	var tensors map[string]struct {
		Offsets []int `json:"data_offsets"`
	}
	if err := json.Unmarshal(raw[8:8+size], &tensors); err != nil {
		t.Fatal(err)
	}
	at, data := tensors["model.norm.weight"].Offsets, raw[8+size:]
	if len(at) != 2 {
		t.Fatalf("no model.norm.weight in %s", path)
	}
	for i := at[0]; i < at[1]; i++ {
		data[i] = 0xff
	}
	if err := os.WriteFile(path, raw, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestNaNEndsItsRequestAndNoStep: the step after a token that could not be sampled is planned already. It must
// not fail because of it: that would cost every other request a recovery.
func TestNaNEndsItsRequestAndNoStep(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, defaultmodel.Files()); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, weights), 0o644); err != nil {
		t.Fatal(err)
	}
	spoilFinalNorm(t, dir)
	e := openEngine(t, func(o *Options) { o.Model = dir })
	for range 3 {
		resp, err := http.Post(e.HTTPURL()+"/v1/completions", "application/json", strings.NewReader(`{"prompt":"Once","max_tokens":8}`))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusInternalServerError || !strings.Contains(string(raw), "not finite") {
			t.Errorf("status %d: %s %v; want 500 that says what was not finite", resp.StatusCode, raw, err)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	state, err := bus.NewRef(e.node, schemas.SchedulerInfo, replicaInstance).Call(ctx, &schemas.InfoRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if state.StepErrors != 0 {
		t.Errorf("%d steps failed, want none", state.StepErrors)
	}
}
