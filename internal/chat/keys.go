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
	mu        sync.Mutex
	changed   *sync.Cond
	typed     []byte
	err       error
	answering bool          // Ctrl-C is for an answer
	interrupt chan struct{} // where it goes then
	editing   bool          // a line is being read
	touched   bool          // it has seen a key
	pending   int           // Ctrl-Cs that no line has reported yet
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
			k.typed, k.touched = append(k.typed, b), true
		}
	case k.answering:
		k.typed = k.typed[:0]
		select {
		case k.interrupt <- struct{}{}:
		default: // two are waiting already
		}
	default:
		k.pending = min(k.pending+1, 2)
		if k.typed = k.typed[:0]; k.editing {
			k.typed = append(k.typed, clearLine...)
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

// answer says whether an answer is being shown: then Ctrl-C is for it.
func (k *keys) answer(on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.answering = on
	for len(k.interrupt) > 0 { // it was for an answer that had just ended
		<-k.interrupt
	}
}

// edit begins a line, or returns errInterrupted if Ctrl-C was pressed before.
func (k *keys) edit() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.pending > 0 {
		k.pending, k.typed = k.pending-1, k.typed[:0]
		return errInterrupted
	}
	k.editing, k.touched = true, len(k.typed) > 0
	return nil
}

// edited ends a line: errInterrupted if Ctrl-C ended an empty one, errCleared if there was something on it.
func (k *keys) edited() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.editing = false
	if k.pending == 0 {
		return nil
	}
	k.pending--
	if k.touched {
		return errCleared
	}
	return errInterrupted
}
