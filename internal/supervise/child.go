package supervise

import (
	"bufio"
	"encoding/json"
	"io"
	"sync"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

// beatEvery is the pace of a child's signs of life.
const beatEvery = time.Second

// Link is a child's end.
type Link struct {
	mu   sync.Mutex // of out
	out  io.Writer
	stop chan time.Duration
	gone chan struct{}
	end  chan struct{}
	once sync.Once
}

// Attach makes this process a child: it reads into hello what it is to run, and from then on gives signs of life.
func Attach(in io.Reader, out io.Writer, hello any) (*Link, error) {
	s := bufio.NewReader(in)
	raw, err := s.ReadSlice('\n')
	var first []byte
	for ; err == bufio.ErrBufferFull && len(first) < helloBytesMax; raw, err = s.ReadSlice('\n') {
		first = append(first, raw...)
	}
	if err != nil {
		return nil, schemas.Errorf(schemas.KindInvalid, "attach", "the parent process does not say what to run: %v", err)
	}
	if err := json.Unmarshal(append(first, raw...), hello); err != nil {
		return nil, schemas.Errorf(schemas.KindInvalid, "attach", "what the parent process says cannot be read: %v", err)
	}
	l := &Link{out: out, stop: make(chan time.Duration, 1), gone: make(chan struct{}), end: make(chan struct{})}
	go func() {
		defer close(l.gone)
		lines(scanner(s, lineBytesMax), func(o order) {
			select {
			case l.stop <- time.Duration(o.StopMs) * time.Millisecond:
			default: // it is stopping
			}
		})
	}()
	go l.beat()
	return l, nil
}

func (l *Link) beat() {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for l.say(word{}) {
		select {
		case <-tick.C:
		case <-l.end:
			return
		}
	}
}

// say reports whether the parent can hear.
func (l *Link) say(w word) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return writeLine(l.out, w) == nil
}

// Progress tells how much is loaded.
func (l *Link) Progress(done, total int64) { l.say(word{Done: done, Total: total}) }

// Ready tells that the child does its work, and on which device.
func (l *Link) Ready(device string) { l.say(word{Ready: true, Device: device}) }

// Fail tells why the child cannot go on. It is to end then.
func (l *Link) Fail(err error) { l.say(word{Error: schemas.AsError(err, "run")}) }

// Stop delivers how long what runs may take, once the child is to end.
func (l *Link) Stop() <-chan time.Duration { return l.stop }

// Gone is closed when the parent has ended.
func (l *Link) Gone() <-chan struct{} { return l.gone }

// Close ends the signs of life.
func (l *Link) Close() { l.once.Do(func() { close(l.end) }) }
