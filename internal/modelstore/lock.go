package modelstore

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

const (
	locksDir        = ".locks"
	pullDir         = ".pull"
	lockPollTime    = 200 * time.Millisecond
	lockHolderBytes = 32 // a process id and a line break
)

// lock waits until no other process pulls or removes the model. waiting, which may be nil, is called once if it
// has to, with the process that holds the lock. The file stays: removing it would let two holders in.
func lock(ctx context.Context, store string, ref Ref, waiting func(holder string)) (unlock func(), err error) {
	dir := filepath.Join(store, locksDir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, storeError(err)
	}
	file, err := os.OpenFile(filepath.Join(dir, ref.key()), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, storeError(err)
	}
	for told := false; ; {
		ok, err := tryLock(file)
		if err != nil {
			_ = file.Close()
			return nil, schemas.Errorf(schemas.KindInternal, "pull", "lock %s: %v", file.Name(), err)
		}
		if ok {
			break
		}
		if !told && waiting != nil {
			waiting(holder(file))
			told = true
		}
		select {
		case <-time.After(lockPollTime):
		case <-ctx.Done():
			_ = file.Close()
			return nil, schemas.AsError(context.Cause(ctx), "pull")
		}
	}
	if err := file.Truncate(0); err == nil { // the process id is for people only
		_, _ = file.WriteAt(fmt.Appendf(nil, "%d\n", os.Getpid()), 0)
	}
	return func() { _ = file.Close() }, nil
}

// locked says whether a pull or removal of the model runs.
func locked(store string, ref Ref) (bool, string) {
	file, err := os.OpenFile(filepath.Join(store, locksDir, ref.key()), os.O_RDWR, 0)
	if err != nil {
		return false, ""
	}
	defer file.Close()
	ok, err := tryLock(file)
	return err == nil && !ok, holder(file)
}

func holder(file *os.File) string {
	buffer := make([]byte, lockHolderBytes)
	n, _ := file.ReadAt(buffer, 0)
	pid := strings.TrimSpace(string(buffer[:n]))
	if pid == "" || strings.Trim(pid, "0123456789") != "" {
		return "unknown"
	}
	return pid
}

// storeError words what a file system says.
func storeError(err error) error {
	if diskFull(err) {
		return schemas.Errorf(schemas.KindTooLarge, "pull", "the disk is full: %v", err).
			WithHint("free some space, or name a folder on another disk with TROUPE_MODELS; what was downloaded is kept")
	}
	return schemas.Errorf(schemas.KindInternal, "pull", "the model store: %v", err).
		WithHint("TROUPE_MODELS names the store's folder; it must be writable")
}
