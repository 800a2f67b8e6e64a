package cuda

import (
	"os"
	"path/filepath"
	"testing"
)

// An algorithm is remembered per bucket, by GPU and library; a damaged file is measured anew.
func TestChoices(t *testing.T) {
	t.Setenv("TROUPE_CACHE", t.TempDir())
	shape := gemmShape{n: 4096, k: 14336, stride: 14336, tokens: 32}
	other := shape
	other.f32 = true
	want := algorithm{1, 1 << 63, 3}
	var c choices
	c.open("this GPU")
	c.put(shape, want)
	reopen := func(key string) *choices {
		var fresh choices
		fresh.open(key)
		return &fresh
	}
	if got, ok := reopen("this GPU").get(shape); !ok || got != want {
		t.Errorf("%v, %v after reopening, want %v", got, ok, want)
	}
	if _, ok := reopen("this GPU").get(other); ok {
		t.Error("float32 outputs share the choice of others")
	}
	if _, ok := reopen("another GPU").get(shape); ok {
		t.Error("another GPU shares the choice")
	}
	files, err := filepath.Glob(filepath.Join(cacheDir(), "gemm-*"))
	if err != nil || len(files) != 1 {
		t.Fatalf("%v, %v", files, err)
	}
	if err := os.Truncate(files[0], 40); err != nil {
		t.Fatal(err)
	}
	if _, ok := reopen("this GPU").get(shape); ok {
		t.Error("a damaged file was believed")
	}
}

func TestTokenBucket(t *testing.T) {
	for n := 1; n <= 9000; n++ {
		b := tokenBucket(n)
		if b < n || b > n+max(7, n/4) || tokenBucket(b) != b {
			t.Errorf("%d tokens are of bucket %d, and that of %d", n, b, tokenBucket(b))
		}
	}
}
