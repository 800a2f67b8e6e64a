package chat

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/troupe-engine/troupe/schemas"
)

// Session is a conversation with its console.
type Session struct {
	client       Client
	console      console
	conversation Conversation
	interrupted  int // times in a row
	failures     int
}

// Streams are where a session without a terminal happens.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	// Clean makes text safe for where it goes.
	Clean func(string) string
}

// Screen is a terminal, in raw mode, where a session happens.
type Screen struct {
	Streams
	Size func() (width, height int, err error)
	Dim  func(string) string // makes text unobtrusive
}

// ErrFailed says that a message or a command of a session without a terminal failed; it has been told why.
var ErrFailed = errors.New("chat: not everything was answered")

var (
	errLeave   = errors.New("chat: leave")   // ends a session
	errStopped = errors.New("chat: stopped") // before there was any text
)

// RunScreen holds a conversation on a terminal until the user leaves or ctx ends.
func RunScreen(ctx context.Context, client Client, c Conversation, w Screen) error {
	s := &Session{client: client, conversation: c, console: newTerminal(ctx, w.In, w.Out, w.Size, w.Clean, w.Dim)}
	s.console.note("/help lists the commands; Ctrl-D leaves")
	return s.run(ctx)
}

// RunStreams answers every line of a stream.
func RunStreams(ctx context.Context, client Client, c Conversation, w Streams) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &Session{client: client, conversation: c, console: newPipe(ctx, w.In, w.Out, w.Err, w.Clean)}
	if err := s.run(ctx); err != nil {
		return err
	}
	if s.failures > 0 {
		return ErrFailed
	}
	return nil
}

// run reads and answers until the input ends or the user leaves.
func (s *Session) run(ctx context.Context) error {
	s.conversation.contextMax = s.client.ContextMax(ctx)
	for {
		message, err := readMessage(s.console)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, io.EOF):
			return nil
		case errors.Is(err, errInterrupted):
			if s.interrupted++; s.interrupted >= 2 {
				return nil
			}
			s.console.note("Ctrl-C again, Ctrl-D or /quit leaves")
			continue
		case errors.Is(err, errCleared):
			s.interrupted = 0
			continue
		case errors.Is(err, errLineTooLong), errors.Is(err, errMessageSize):
			s.fail(fmt.Errorf("the message has more than %d bytes and was not sent", messageBytesMax))
			continue
		case err != nil:
			return err
		}
		if strings.TrimSpace(message) == "" {
			continue
		}
		s.interrupted = 0
		err = s.take(ctx, message)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, errLeave):
			return nil
		case err != nil && !errors.Is(err, errStopped):
			s.fail(err)
		}
	}
}

func (s *Session) fail(err error) {
	s.failures++
	s.console.problem(readable(err))
}

// take executes a command or answers a message.
func (s *Session) take(ctx context.Context, message string) error {
	if strings.HasPrefix(message, "/") && !strings.HasPrefix(message, "//") {
		leave, err := s.runCommand(message)
		if leave {
			return errLeave
		}
		return err
	}
	if strings.HasPrefix(message, "//") {
		message = message[1:]
	}
	c := &s.conversation
	c.Messages = append(c.Messages, Message{roleUser, message})
	text, err := s.answer(ctx)
	if text == "" && err != nil { // as if it had not been said, so that it can be said again
		c.Messages = c.Messages[:len(c.Messages)-1]
		return err
	}
	c.Messages = append(c.Messages, Message{roleAssistant, text})
	return err
}

// answer gets the answer to the last message. What does not fit the context is left out from the start on.
func (s *Session) answer(ctx context.Context) (string, error) {
	c := &s.conversation
	from, p := c.fit(), c.Params
	for {
		send := c.toSend(from)
		text, reply, err := s.stream(ctx, send, p, func() { s.sayTrimmed(from) })
		if err != nil && text == "" && tooLong(err) {
			if c.askForLess(&p) {
				continue
			}
			if next := c.dropTurn(from); next > from {
				from = next
				continue
			}
		}
		if reply != nil && reply.Usage != nil {
			c.learn(send, reply.Usage.PromptTokens)
		}
		if reply != nil && reply.Finish == "length" {
			s.console.note("(the answer reached the limit of tokens)")
		}
		return text, err
	}
}

// sayTrimmed tells how much of the conversation is no longer sent, if it has become more.
func (s *Session) sayTrimmed(from int) {
	c := &s.conversation
	if from > c.from {
		s.console.note(fmt.Sprintf("(the oldest %d of %d messages no longer fit the context and are left out)", from, len(c.Messages)))
		c.from = from
	}
}

// stream shows an answer as it comes. An interrupt stops it and keeps what there is; a second one leaves.
func (s *Session) stream(ctx context.Context, send []Message, p schemas.GenerationParams, begin func()) (string, *Reply, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.console.answering(true)
	defer s.console.answering(false)
	type ended struct {
		reply *Reply
		err   error
	}
	pieces, done := make(chan string), make(chan ended, 1)
	go func() {
		reply, err := s.client.Answer(ctx, send, p, func(text string) {
			select {
			case pieces <- text:
			case <-ctx.Done():
			}
		})
		done <- ended{reply, err}
	}()
	var text strings.Builder
	stopped := false
	for {
		select {
		case piece := <-pieces:
			if text.Len() == 0 {
				begin()
			}
			text.WriteString(piece)
			s.console.answer(piece)
		case <-s.console.interrupts():
			if s.interrupted++; s.interrupted >= 2 {
				return text.String(), nil, errLeave
			}
			stopped = true
			cancel()
		case e := <-done:
			if text.Len() > 0 || e.err == nil {
				s.console.answered()
			}
			if stopped {
				s.console.note("(stopped)")
				if text.Len() == 0 {
					return "", nil, errStopped
				}
				return text.String(), nil, nil
			}
			return text.String(), e.reply, e.err
		}
	}
}
