package mmap

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
)

// TestForgetLosesNothing: what was forgotten reads the same again, and memory that is no mapped file is left alone.
func TestForgetLosesNothing(t *testing.T) {
	want := make([]byte, 5*os.Getpagesize()+100)
	for i := range want {
		want[i] = byte(i * 7 >> 3)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "file"), want, 0o600); err != nil {
		t.Fatal(err)
	}
	data, release, err := Open(os.DirFS(dir), "file")
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range [][]byte{data, data[1:], data[:10], data[100 : 2*os.Getpagesize()], data[len(data):], nil} {
		Forget(part)
		if !bytes.Equal(data, want) {
			t.Fatalf("after forgetting %d bytes the file reads differently", len(part))
		}
	}
	inMemory, releaseMemory, err := Open(fstest.MapFS{"file": {Data: bytes.Clone(want)}}, "file")
	if err != nil {
		t.Fatal(err)
	}
	Forget(inMemory)
	if !bytes.Equal(inMemory, want) {
		t.Error("memory that is no mapped file was lost")
	}
	for _, release := range []func() error{release, releaseMemory} {
		if err := release(); err != nil {
			t.Error(err)
		}
	}
	if len(spans) != 0 {
		t.Errorf("%d files count as mapped after their release", len(spans))
	}
}
