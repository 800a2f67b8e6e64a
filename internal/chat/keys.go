package chat

import (
	"io"
	"sync"
)

const (
	keyInterrupt    = 3 // Ctrl-C
	typedAheadBytes = 64 << 10
	keyReadBytes    = 4 << 10
)

// clearLine makes a line editor drop its line and return: end of line, delete to the start, enter.
var clearLine = []byte{5, 21, '\r'}

// keys reads a terminal in raw mode all the time, so that Ctrl-C is seen also while nobody reads a line. What is
// typed during an answer waits for the next line.
type keys struct {
	mu          sync.Mutex
	changed     *sync.Cond
	typed       []byte
	err         error
	editing     bool // a line is being read
	interrupted bool // by Ctrl-C, while editing
	interrupt   chan struct{}
}

// newKeys reads in until it ends. The goroutine outlives the session: a read cannot be interrupted.
func newKeys(in io.Reader) *keys {
	k := &keys{interrupt: make(chan struct{}, 2)}
	k.changed = sync.NewCond(&k.mu)
	go k.read(in)
	return k
}

func (k *keys) read(in io.Reader) {
	buffer := make([]byte, keyReadBytes)
	for {
		n, err := in.Read(buffer)
		for _, b := range buffer[:n] {
			k.press(b)
		}
		if err != nil {
			k.end(err)
			return
		}
	}
}

func (k *keys) press(b byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case b != keyInterrupt:
		if len(k.typed) < typedAheadBytes {
			k.typed = append(k.typed, b)
		}
	case k.editing:
		k.interrupted = true
		k.typed = append(k.typed[:0], clearLine...)
	default:
		k.typed = k.typed[:0]
		select {
		case k.interrupt <- struct{}{}:
		default: // two are waiting already
		}
	}
	k.changed.Broadcast()
}

// end makes reads return err once what was typed is read.
func (k *keys) end(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.err == nil {
		k.err = err
	}
	k.changed.Broadcast()
}

// Read returns what was typed.
func (k *keys) Read(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for len(k.typed) == 0 && k.err == nil {
		k.changed.Wait()
	}
	if len(k.typed) == 0 {
		return 0, k.err
	}
	n := copy(p, k.typed)
	k.typed = append(k.typed[:0], k.typed[n:]...)
	return n, nil
}

// edit says whether a line is being read, and returns and forgets whether Ctrl-C ended the last one.
func (k *keys) edit(editing bool) (interrupted bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	interrupted = k.interrupted
	k.editing, k.interrupted = editing, false
	return interrupted
}
