package link

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Wire joins network namespaces by an Ethernet of its own, frame by frame, and loses and delays frames as
// `tc qdisc add … netem` does where the kernel has it: what the ends' TCP makes of it is real. It needs root.
type Wire struct {
	mu            sync.Mutex
	rng           *rand.Rand
	loss          float64
	delay, jitter time.Duration
	ports         []*wirePort
	lost, passed  uint64
	group         sync.WaitGroup
}

const (
	frameBytesMax  = 2048 // more than the MTU and a header
	wireFramesMax  = 4096 // on their way to one port; beyond it they are lost, as in a full queue
	wireDeviceName = "eth0"
)

type wirePort struct {
	name string
	file *os.File
	cut  bool
	out  chan []byte
	done chan struct{}
}

// NewWire makes a wire without ends. Seed decides what is lost, and how late the rest is.
func NewWire(seed uint64) *Wire { return &Wire{rng: rand.New(rand.NewPCG(seed, 1))} }

// Attach gives the network namespace (a name of `ip netns`) a device eth0 that is an end of the wire. Its addresses
// are the caller's business.
func (w *Wire) Attach(namespace string) error {
	file, err := openTap(namespace)
	if err != nil {
		return fmt.Errorf("link: a device in the network namespace %s: %w", namespace, err)
	}
	p := &wirePort{name: namespace, file: file, out: make(chan []byte, wireFramesMax), done: make(chan struct{})}
	w.mu.Lock()
	w.ports = append(w.ports, p)
	w.mu.Unlock()
	w.group.Go(func() { w.read(p) })
	w.group.Go(p.write)
	return nil
}

// Set makes each frame lost with probability loss, and the others late by delay and up to jitter more. Frames may overtake.
func (w *Wire) Set(loss float64, delay, jitter time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loss, w.delay, w.jitter = loss, delay, jitter
}

// Cut parts a namespace from all others, or joins it to them again.
func (w *Wire) Cut(namespace string, cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.ports {
		if p.name == namespace {
			p.cut = cut
		}
	}
}

// Frames counts those that were passed on and those that were lost, but for those that met a cut.
func (w *Wire) Frames() (passed, lost uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.passed, w.lost
}

// Close removes the devices.
func (w *Wire) Close() {
	w.mu.Lock()
	for _, p := range w.ports {
		close(p.done)
		_ = p.file.Close() // the device goes with it
	}
	w.mu.Unlock()
	w.group.Wait()
}

// read takes what a namespace sends, and passes it to all others: they are few.
func (w *Wire) read(from *wirePort) {
	for {
		b := make([]byte, frameBytesMax)
		n, err := from.file.Read(b)
		if err != nil {
			return // closed
		}
		w.mu.Lock()
		for _, to := range w.ports {
			if to == from || from.cut || to.cut {
				continue
			}
			if w.rng.Float64() < w.loss {
				w.lost++
				continue
			}
			late := w.delay
			if w.jitter > 0 {
				late += time.Duration(w.rng.Int64N(int64(w.jitter)))
			}
			w.passed++
			to.deliver(b[:n], late)
		}
		w.mu.Unlock()
	}
}

// deliver writes a frame when it is due. Late ones do not hold up others.
func (p *wirePort) deliver(frame []byte, late time.Duration) {
	if late > 0 {
		time.AfterFunc(late, func() { p.put(frame) })
		return
	}
	p.put(frame)
}

func (p *wirePort) put(frame []byte) {
	select {
	case p.out <- frame:
	default: // as a full queue
	}
}

func (p *wirePort) write() {
	for {
		select {
		case frame := <-p.out:
			_, _ = p.file.Write(frame) // an error means that the device is down: the frame is lost
		case <-p.done:
			return
		}
	}
}

// openTap makes a device of frames in a namespace.
func openTap(namespace string) (*os.File, error) {
	type opened struct {
		file *os.File
		err  error
	}
	result := make(chan opened)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread, which is in another namespace now, ends with the goroutine
		file, err := openTapHere(namespace)
		result <- opened{file, err}
	}()
	r := <-result
	return r.file, r.err
}

func openTapHere(namespace string) (*os.File, error) {
	space, err := os.Open("/run/netns/" + namespace)
	if err != nil {
		return nil, err
	}
	defer space.Close()
	if err := unix.Setns(int(space.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("setns: %w", err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("/dev/net/tun: %w", err)
	}
	request, err := unix.NewIfreq(wireDeviceName)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("TUNSETIFF: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "tap"), nil // non-blocking: Close ends a Read
}
