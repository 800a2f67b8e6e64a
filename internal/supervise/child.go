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
	stop chan struct{}
	gone chan struct{}
	end  chan struct{}
	once sync.Once
}

// Attach makes this process a child: it reads into hello what it is to run, and from then on gives signs of life. An error
// has been told to the parent, if there is one.
func Attach(in io.Reader, out io.Writer, hello any) (*Link, error) {
	l := &Link{out: out, stop: make(chan struct{}), gone: make(chan struct{}), end: make(chan struct{})}
	r := bufio.NewReader(in)
	raw, err := readLine(r, helloBytesMax)
	if err == nil {
		err = json.Unmarshal(raw, hello)
	}
	if err != nil {
		e := schemas.Errorf(schemas.KindInvalid, "attach", "what the parent process wants to be run cannot be read: %v", err).
			WithHint("this is how an engine runs its replica; people use `troupe serve --isolate`")
		l.Fail(e)
		return nil, e
	}
	go func() {
		defer close(l.gone)
		var once sync.Once
		lines(r, func(o order) {
			if o.Stop {
				once.Do(func() { close(l.stop) })
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
	return writeLine(l.out, "\n", w) == nil
}

// Progress tells how much is loaded.
func (l *Link) Progress(done, total int64) { l.say(word{Done: done, Total: total}) }

// Ready tells that the child does its work, and on which device.
func (l *Link) Ready(device string) { l.say(word{Ready: true, Device: device}) }

// Fail tells why the child cannot go on. It is to end then.
func (l *Link) Fail(err error) { l.say(word{Error: schemas.AsError(err, "run")}) }

// Stop is closed when the parent wants the child to end.
func (l *Link) Stop() <-chan struct{} { return l.stop }

// Gone is closed when the parent has ended.
func (l *Link) Gone() <-chan struct{} { return l.gone }

// Close ends the signs of life.
func (l *Link) Close() { l.once.Do(func() { close(l.end) }) }
