package gateway

import (
	"container/list"
	"errors"
	"io"
	"sync"
	"time"
)

var (
	// errNoShare ends the reading of a body for which there is no memory.
	errNoShare = errors.New("too many bytes are being read at once")
	// errExpelled ends the reading of a body that was too slow while others waited.
	errExpelled = errors.New("the body came too slowly")
)

// uploadSlow is how long a body may take before it has to make room for others. Those of clients that mean well
// come in one go.
const uploadSlow = time.Second

// uploads are the bodies being read. They are bounded by count and by the bytes they have taken; once a bound is
// reached, slow ones make room, those that have taken longest first. So slow clients, however many, do not keep
// others out.
type uploads struct {
	mu     sync.Mutex
	left   int64 // bytes that bodies may still take
	max    int   // bodies
	active list.List
}

// upload reads one body.
type upload struct {
	of        *uploads
	from      io.Reader
	began     time.Time
	taken     int64         // bytes. This and what follows is guarded by uploads.mu
	place     *list.Element // nil once it is over
	interrupt func()        // ends a Read that waits
	expelled  bool
}

// begin admits a body, nil if there are too many. interrupt must make a waiting Read of from return; it is called at
// most once, and not after end.
func (u *uploads) begin(from io.Reader, interrupt func()) *upload {
	u.mu.Lock()
	defer u.mu.Unlock()
	up := &upload{of: u, from: from, began: time.Now(), interrupt: interrupt}
	if u.active.Len() >= u.max && !u.expelOldest(nil) {
		return nil
	}
	up.place = u.active.PushBack(up)
	return up
}

// expelOldest ends the body that has taken longest, if it is slow and not spared.
func (u *uploads) expelOldest(spared *upload) bool {
	first := u.active.Front()
	if first == nil {
		return false
	}
	up := first.Value.(*upload)
	if up == spared || time.Since(up.began) < uploadSlow {
		return false
	}
	up.expelled = true
	up.leave()
	up.interrupt()
	return true
}

func (up *upload) leave() {
	if up.place == nil {
		return
	}
	up.of.active.Remove(up.place)
	up.of.left += up.taken
	up.place, up.taken = nil, 0
}

// Read implements io.Reader.
func (up *upload) Read(p []byte) (int, error) {
	n, err := up.from.Read(p)
	up.of.mu.Lock()
	defer up.of.mu.Unlock()
	if up.expelled {
		return 0, errExpelled
	}
	up.taken += int64(n)
	up.of.left -= int64(n)
	for up.of.left < 0 {
		if !up.of.expelOldest(up) {
			return 0, errNoShare
		}
	}
	return n, err
}

// end gives back what the body took. The error is errExpelled if it had been expelled.
func (up *upload) end() error {
	up.of.mu.Lock()
	defer up.of.mu.Unlock()
	up.leave()
	if up.expelled {
		return errExpelled
	}
	return nil
}
