package supervise

import (
	"bufio"
	"os"
	"os/exec"
	"time"

	"github.com/troupe-engine/troupe/schemas"
)

const (
	lastWordsTimeMax = time.Second // for what a process said last to be read after its end
	silenceLooks     = 15          // for signs of life, without any, before a process is killed
)

// life is one child from its start to its end.
type life struct {
	s      *Supervisor
	cmd    *exec.Cmd
	orders *os.File
	words  *os.File
	heard  chan word
	exit   chan ended
	said   *schemas.Error // why it cannot go on
}

// ended says how a process did.
type ended struct{ err error }

// live runs one child until it ends. It returns nil if it was told to.
func (s *Supervisor) live() *failure {
	l, err := s.spawn()
	if err != nil {
		return &failure{reasonStart, schemas.AsError(err, "start the replica's process")}
	}
	defer l.close()
	look := time.NewTicker(s.cfg.SilenceMax / silenceLooks)
	defer look.Stop()
	for silent := 0; ; { // looks, not time: that goes on while this process is frozen, and the child with it
		select {
		case w, open := <-l.heard:
			if !open {
				l.heard = nil // it is about to end
				continue
			}
			silent = 0
			l.hear(w)
		case how := <-l.exit:
			l.lastWords()
			return failureOf(l.said, how.err)
		case <-look.C:
			if silent++; silent < silenceLooks {
				continue
			}
			l.kill()
			if l.said != nil {
				return failureOf(l.said, nil)
			}
			return &failure{reasonSilent, schemas.Errorf(schemas.KindTimeout, "supervise", "the process gave no sign of life for %s and was killed", s.cfg.SilenceMax)}
		case <-s.stop:
			l.stop()
			return nil
		}
	}
}

// spawn starts a process and tells it what to run.
func (s *Supervisor) spawn() (*life, error) {
	s.mu.Lock()
	device := s.device
	s.mu.Unlock()
	hello, err := s.cfg.Hello(device)
	if err != nil {
		return nil, err
	}
	in, orders, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	words, out, err := os.Pipe()
	if err != nil {
		_, _ = in.Close(), orders.Close() // nothing was written
		return nil, err
	}
	l := &life{s: s, cmd: s.cfg.Command(), orders: orders, words: words, heard: make(chan word, 16), exit: make(chan ended, 1)}
	l.cmd.Stdin, l.cmd.Stdout, l.cmd.SysProcAttr = in, out, attributes()
	err = l.cmd.Start()
	_, _ = in.Close(), out.Close() // the child has its own
	if err != nil {
		_, _ = orders.Close(), words.Close()
		return nil, err
	}
	s.mu.Lock()
	s.pid = l.cmd.Process.Pid
	s.mu.Unlock()
	go func() {
		defer close(l.heard)
		lines(bufio.NewReader(words), func(w word) { l.heard <- w })
	}()
	go func() { l.exit <- ended{l.cmd.Wait()} }()
	_ = l.tell(hello) // an error means that it has ended or is frozen, which is noticed
	return l, nil
}

// tell gives the child a line that it reads at once, if it reads at all.
func (l *life) tell(v any) error {
	_ = l.orders.SetWriteDeadline(time.Now().Add(l.s.cfg.SilenceMax)) // without one, a frozen child holds up a long line
	return writeLine(l.orders, "", v)
}

// hear takes what the child says.
func (l *life) hear(w word) {
	s := l.s
	s.mu.Lock()
	first := s.device == ""
	s.mu.Unlock()
	switch {
	case w.Error != nil:
		l.said = w.Error
	case w.Total > 0:
		if first && s.cfg.Progress != nil {
			s.cfg.Progress(w.Done, w.Total)
		}
	case w.Ready && w.Device != "":
		s.mu.Lock()
		s.up, s.since, s.device = true, time.Now(), w.Device
		s.mu.Unlock()
		s.cfg.Log.Info().Int("pid", l.cmd.Process.Pid).Str("device", w.Device).Msg("the replica's process is ready")
		if first {
			s.first <- nil
		}
	}
}

// lastWords takes what a process that has ended said before: that it was ready, too.
func (l *life) lastWords() {
	limit := time.After(lastWordsTimeMax)
	for l.heard != nil {
		select {
		case w, open := <-l.heard:
			if !open {
				l.heard = nil
				return
			}
			l.hear(w)
		case <-limit: // something that it started still has its output
			return
		}
	}
}

// stop tells the child to end, and kills it if it does not.
func (l *life) stop() {
	if l.tell(order{Stop: true}) != nil || l.said != nil {
		l.kill()
		return
	}
	limit := time.NewTimer(l.s.cfg.StopTimeMax)
	defer limit.Stop()
	for {
		select {
		case <-l.exit:
			return
		case _, open := <-l.heard:
			if !open {
				l.heard = nil
			}
		case <-limit.C:
			l.s.cfg.Log.Warn().Msg("the replica's process does not end and is killed")
			l.kill()
			return
		}
	}
}

// kill ends the process and waits until the system has, but not for ever: it may hang in a driver.
func (l *life) kill() {
	killGroup(l.cmd.Process.Pid)
	limit := time.NewTimer(l.s.cfg.StopTimeMax)
	defer limit.Stop()
	select {
	case <-l.exit:
	case <-limit.C:
		l.s.cfg.Log.Error().Int("pid", l.cmd.Process.Pid).Msg("the replica's process was killed and does not end: it hangs in the system, perhaps in its device's driver")
	}
}

// close ends whatever the process has started and left behind.
func (l *life) close() {
	killGroup(l.cmd.Process.Pid)
	_, _ = l.orders.Close(), l.words.Close() // errors mean that nobody is there
	for l.heard != nil {                     // until its reader has ended
		if _, open := <-l.heard; !open {
			return
		}
	}
}
