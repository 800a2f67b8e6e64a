package bus

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/troupe-engine/troupe/schemas"
)

// lockStore keeps other processes out of a directory in which JetStream keeps its streams: two servers would write over
// each other's files. The lock ends with the process at the latest.
func lockStore(dir string) (*os.File, error) {
	refused := func(err error) error {
		return schemas.Errorf(schemas.KindUnavailable, "open store", "%s: %v", dir, err).WithParam("store").
			WithHint("name a directory that this process may write and no other one uses (--store)")
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return nil, refused(err)
	}
	file, err := os.OpenFile(filepath.Join(dir, "troupe.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, refused(err)
	}
	if err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		err = errors.New("another engine has its streams there")
	}
	if err != nil {
		return nil, errors.Join(refused(err), file.Close())
	}
	return file, nil
}

// unlockStore lets others use the store, once the server has left it.
func (n *Node) unlockStore() {
	if n.store != nil {
		_ = n.store.Close() // it was only a lock
		n.store = nil
	}
}
